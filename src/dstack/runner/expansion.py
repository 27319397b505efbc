"""`$NAME` in the values of a job's environment: `PATH: /opt/tool:$PATH`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expanded(environment: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """`environment` with `values` in it, as if a shell exported one after another.

    `$NAME` and `${NAME}` stand for what there is by then; of a name that is not there they stay as they are, because a
    password may hold a `$`, too. `$$` is a `$`.
    """
    result = dict(environment)

    def replace(match: re.Match[str]) -> str:
        return "$" if match[1] else result.get(match[2] or match[3], match[0])

    for name, value in values.items():
        result[name] = _REFERENCE.sub(replace, value) if "$" in value else value
    return result
