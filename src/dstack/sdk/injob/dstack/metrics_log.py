"""`dstack.log`: a line of metrics for the run, in a file that the runner reads. Python 3.7 and its standard library."""

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_warned = set()


def log(values: "Mapping[str, object] | None" = None, step: object = None, **more: object) -> None:
    """Record metrics of this job: `dstack.log(step=3, loss=0.25)` or `dstack.log({"val/loss": 0.25}, step=3)`.

    Values are numbers, or things with one number in them (a NumPy scalar, a tensor of one element). Nested mappings
    become names with slashes. `step` is a whole number; without it the order of the calls counts. Outside dstack it
    does nothing, so that a script runs the same without it. Never raises because of the disk: training goes on, and
    stderr says once what was lost. Raises TypeError for a value that is no number.

    One JSON object a line goes to the file that DSTACK_METRICS names. Safe from threads and processes: a line is one
    write to a file opened for appending.
    """
    record = {}
    for given in (values or {}, more):
        for name, value in given.items():
            record[str(name)] = _plain(value, str(name))
    if step is not None:
        record["step"] = int(_plain(step, "step"))
    record["time"] = time.time()
    path = os.environ.get("DSTACK_METRICS")
    if not path:
        return
    line = (json.dumps(record) + "\n").encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _warned:
            _warned.add(error.errno)
            sys.stderr.write("dstack.log: a metric is lost: %s\n" % error)


def _plain(value, name):
    """A number that JSON can hold (NaN and infinities as Python writes them), or a mapping of such."""
    if isinstance(value, dict):
        return {str(key): _plain(part, "%s/%s" % (name, key)) for key, part in value.items()}
    if isinstance(value, (int, float)):
        return value
    item = getattr(value, "item", None)
    try:
        return _number(item() if callable(item) else float(value))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError("dstack.log: %s must be a number, not %s" % (name, type(value).__name__)) from None


def _number(value):
    return value if isinstance(value, (int, float)) else float(value)
