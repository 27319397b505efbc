"""The `torchrun` provider: a script of PyTorch, started once for every GPU of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from dstack.providers.script import ScriptConfig, script_job
from dstack.sdk.fields import Count
from dstack.sdk.provider import CommandLine, JobSpec, PlanContext, PlanError, Provider


class TorchrunConfig(ScriptConfig):
    nodes: Count = Field(default=1, description="On how many machines it runs; more than one is not there yet.")


class TorchrunProvider(Provider):
    name: ClassVar[str] = "torchrun"
    Config: ClassVar[type[TorchrunConfig]] = TorchrunConfig
    accepts_args: ClassVar[bool] = True
    command_line: ClassVar[CommandLine | None] = CommandLine(
        "torchrun FILE [--nnodes N] [ARGUMENTS]", "script", {"--nnodes": "nodes"}, split=True
    )

    def plan(self, workflow: TorchrunConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        if workflow.nodes > 1:
            hint = "run it on one machine: remove `nodes`, and ask for more GPUs of it in `resources`"
            raise PlanError("a job on several machines cannot run yet", at=("nodes",), hint=hint)
        gpus = workflow.resources.requirements().gpu.count if workflow.resources is not None else 0
        # `--standalone` finds a free port itself, so that two of these can run on one machine.
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={max(gpus, 1)}")
        return [script_job(workflow, ctx, *torchrun)]
