"""Network ports of a job: found free when it starts, and told in its environment."""

from __future__ import annotations

import socket
from collections.abc import Sequence


def port_environment(asked: Sequence[int]) -> dict[str, str]:
    """`JOB_PORT_0` and so on, and `PORT_0` as the system of 2022 named them, too; for each 0 a port that is free.

    Another program may take a port before the job does: nothing can hold it for a process yet to come.
    """
    held = [socket.socket() for port in asked if port == 0]
    try:
        # All are bound before the first is let go, so that no port is found twice.
        for found in held:
            found.bind(("", 0))
        free = iter([found.getsockname()[1] for found in held])
    finally:
        for found in held:
            found.close()
    environment: dict[str, str] = {}
    for index, port in enumerate(asked):
        environment[f"JOB_PORT_{index}"] = environment[f"PORT_{index}"] = str(port or next(free))
    return environment
