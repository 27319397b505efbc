"""dstack as a job sees it where it is not installed: `dstack.log`.

Where a `dstack` is installed, or is the job's own code, this one steps back: it runs that package in its own place and
adds what it lacks. It stands on PYTHONPATH, before site-packages, so Python finds this one first.
"""

import os
import sys


def _extend():
    """Run the `dstack` that Python would find without this folder, in place of this module."""
    from importlib.machinery import PathFinder

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = None
    for finder in sys.meta_path:  # an editable installation may have a finder of its own
        spec = finder.find_spec(__name__, others if finder is PathFinder else None)
        if spec is not None and spec.loader is not None:
            break
    else:
        return
    module = sys.modules[__name__]
    own = list(module.__path__)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    if spec.submodule_search_locations is not None:
        module.__path__ = list(spec.submodule_search_locations)
    spec.loader.exec_module(module)
    if getattr(module, "__path__", None) is not None:
        # Last: what the other has comes first, also where a name is the same.
        module.__path__ = list(module.__path__) + own


# As a part of the installed dstack (`dstack.sdk.injob.dstack`) it has nobody to make room for.
if __name__ == "dstack":
    _extend()

if "log" not in globals() and not hasattr(sys.modules[__name__], "log"):
    from .metrics_log import log  # noqa: F401
