from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dstack.domain.resources import GpuCard
from dstack.runner import capacity


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_v2_group_limits_processors_and_memory(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/memory.max": "1048576\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "50000 100000\n",
        },
    )
    assert capacity.memory_size(root) == 1048576
    assert capacity.cpu_count(root) == 1


def test_a_v1_group_limits_processors_and_memory(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2097152\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert capacity.memory_size(root) == 2097152
    assert capacity.cpu_count(root) == 1


def test_no_limit_is_the_machine(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}
    root = put(tmp_path, files)
    assert capacity.memory_size(root) == capacity.memory_size(tmp_path / "none") > 0
    assert capacity.cpu_count(root) == capacity.cpu_count(tmp_path / "none") > 0


def test_cards_as_nvidia_smi_lists_them() -> None:
    text = "Tesla V100-SXM2-16GB, 16384\nNVIDIA A100, 80GB, 81920\n\nN/A, [Not Supported]\n"
    assert capacity.parse_smi(text) == (
        GpuCard("Tesla V100-SXM2-16GB", 16 << 30),
        GpuCard("NVIDIA A100, 80GB", 80 << 30),
    )


def pynvml(folder: Path, body: str) -> dict[str, str]:
    put(folder, {"pynvml.py": body})
    return {"PYTHONPATH": str(folder), "PATH": "/nonexistent"}


def test_cards_as_the_library_lists_them(tmp_path: Path) -> None:
    body = """
class Memory:
    total = 16 << 30
nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 2
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda handle: b"Tesla V100"
nvmlDeviceGetMemoryInfo = lambda handle: Memory
"""
    assert capacity.detect_gpus(pynvml(tmp_path, body)) == (GpuCard("Tesla V100", 16 << 30),) * 2


@pytest.mark.parametrize(
    "body",
    ["import os; os.abort()", "raise OSError('driver mismatch')", "import sys; print('nonsense'); sys.exit(0)"],
)
def test_a_library_that_crashes_offers_no_cards_and_harms_nobody(tmp_path: Path, body: str) -> None:
    assert capacity.detect_gpus(pynvml(tmp_path, body)) == ()


def test_no_library_and_no_tool_is_no_cards(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Tesla T4, 15360'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    hidden = pynvml(tmp_path, "raise ImportError")
    assert capacity.detect_gpus(hidden) == ()
    if sys.platform == "linux":
        assert capacity.detect_gpus({**hidden, "PATH": f"{tmp_path}:/bin"}) == (GpuCard("Tesla T4", 15 << 30),)
