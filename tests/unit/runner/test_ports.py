from __future__ import annotations

import socket

from dstack.runner.ports import port_environment


def test_ports_asked_for_by_number_stay_as_they_are() -> None:
    assert port_environment((8080, 9090)) == {
        "JOB_PORT_0": "8080", "PORT_0": "8080", "JOB_PORT_1": "9090", "PORT_1": "9090",
    }  # fmt: skip
    assert port_environment(()) == {}


def test_the_others_are_free_and_differ() -> None:
    environment = port_environment((0, 8080, 0))
    ports = [int(environment[f"JOB_PORT_{index}"]) for index in range(3)]

    assert ports[1] == 8080
    assert len(set(ports)) == 3
    with socket.socket() as first, socket.socket() as second:
        first.bind(("", ports[0]))
        second.bind(("", ports[2]))
