from __future__ import annotations

from dstack.logs.quota import LogQuota, Ship, Skip


def test_the_defaults_keep_a_gibibyte_of_a_ten_gibibyte_log() -> None:
    quota = LogQuota()
    size = 10 << 30
    assert quota.next(0, size, ended=False) == Ship(0, (1 << 30) - (8 << 20))
    assert quota.next((1 << 30) - (8 << 20), size, ended=False) is None
    step = quota.next((1 << 30) - (8 << 20), size, ended=True)
    assert isinstance(step, Skip)
    assert step.marker == b"\n[dstack: 9663676416 bytes left out: a log keeps 1GiB, its beginning and its end]\n"
    assert quota.next(step.end, size, ended=True) == Ship(size - (8 << 20), size)
