from __future__ import annotations

from collections.abc import Callable

import pytest

from dstack.domain.resources import Gpu
from dstack.sdk.provider import JobSpec, PlanError, PythonEnv

Planned = Callable[..., JobSpec]
TORCHRUN = ("python", "-m", "torch.distributed.run", "--standalone", "--nnodes=1")


@pytest.mark.parametrize(
    ("resources", "gpu"),
    [
        (None, Gpu()), ({"cpu": 8}, Gpu()), ({"gpu": 0}, Gpu()), ({"gpu": 4}, Gpu(4)),
        ({"A100/gpu": 2}, Gpu(2, "A100")),
    ],
)  # fmt: skip
def test_one_process_for_each_gpu(resources: object, gpu: Gpu, planned: Planned) -> None:
    job = planned("torchrun", {"file": "train.py", "args": ["--lr", 1], "resources": resources}, args=("x",))

    processes = f"--nproc_per_node={gpu.count or 1}"
    assert job.argv == (*TORCHRUN, processes, "train.py", "--lr", "1", "x")
    assert job.requirements.gpu == gpu


def test_it_runs_in_the_environment_asked_for(planned: Planned) -> None:
    job = planned("torchrun", {"script": "train.py", "version": "3.11", "requirements": ["torch"], "setup": ["a"]})

    assert job.python == PythonEnv("3.11", ("torch",))
    assert job.commands == ("a", " ".join((*TORCHRUN, "--nproc_per_node=1", "train.py")))


def test_several_machines_are_not_there_yet(planned: Planned) -> None:
    planned("torchrun", {"file": "a.py", "nodes": 1})
    with pytest.raises(PlanError) as caught:
        planned("torchrun", {"file": "a.py", "nodes": 2})

    assert caught.value.at == ("nodes",)
