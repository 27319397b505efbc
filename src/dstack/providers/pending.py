"""Providers of 2022 that cannot run yet: their keys are read and checked, and planning says what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from dstack.providers.interpreter import Commands, InterpreterConfig, Ports
from dstack.providers.script import Arguments, Script
from dstack.sdk.config import Artifact
from dstack.sdk.fields import RelativePath, Text, Texts, listed, relative_path, short_for, spelled_as, text
from dstack.sdk.provider import CommandLine, JobSpec, PlanContext, PlanError, Provider


class _Pending(Provider):
    at: ClassVar[str] = "provider"
    """The key to blame."""
    instead: ClassVar[str]
    """What to do instead."""

    def plan(self, workflow: InterpreterConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        raise PlanError(f"the provider `{self.name}` cannot run yet", at=(self.at,), hint=self.instead)


def _container_path(path: str) -> str:
    """An absolute path of the container, or a path of the working copy."""
    return path if path.startswith("/") else relative_path(path)


ContainerPath = Annotated[
    Text,
    AfterValidator(_container_path),
    spelled_as(r"^(/|(?!~)(?!(.*/)?\.\.(/|$)))[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$"),
]


class ContainerArtifact(Artifact):
    path: ContainerPath = Field(
        description="The folder, relative to the working directory or absolute in the container."
    )


class DockerConfig(InterpreterConfig):
    artifacts: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride] - nothing assigns to a frozen model
        tuple[Annotated[ContainerArtifact, BeforeValidator(short_for("path", text))], ...],
        BeforeValidator(
            listed,
            json_schema_input_type=ContainerPath | ContainerArtifact | list[ContainerPath | ContainerArtifact] | None,
        ),
    ] = Field(default=(), description="Folders to keep, also absolute ones of the container.")
    image: Text = Field(description="The container's image.", examples=["ubuntu"])
    commands: Texts = Field(default=(), description="What to run in it; nothing: what the image runs by itself.")
    ports: Ports = Field(default=(), description="How many network ports it is given, or a list of the very ports.")


class DockerProvider(_Pending):
    name: ClassVar[str] = "docker"
    Config: ClassVar[type[DockerConfig]] = DockerConfig
    command_line: ClassVar[CommandLine | None] = CommandLine(
        "docker IMAGE [-c COMMAND] [-p PORTS]",
        "image",
        {"-c": "commands", "--command": "commands", "-p": "ports", "--ports": "ports"},
        lists=frozenset({"commands"}),
    )
    at: ClassVar[str] = "image"
    instead: ClassVar[str] = (
        "run the commands without a container: `provider: bash`, and `version` and `requirements` for Python"
    )


class NotebookConfig(InterpreterConfig):
    ports: Ports = Field(default=(), description="Further network ports.")


class NotebookProvider(_Pending):
    name: ClassVar[str] = "notebook"
    command_line: ClassVar[CommandLine | None] = CommandLine("notebook")
    Config: ClassVar[type[NotebookConfig]] = NotebookConfig
    instead: ClassVar[str] = (
        "use `provider: bash`, `requirements: [notebook]`, `ports: 1`, "
        "`commands: [jupyter notebook --port $JOB_PORT_0]`"
    )


class LabProvider(_Pending):
    name: ClassVar[str] = "lab"
    command_line: ClassVar[CommandLine | None] = CommandLine("lab")
    Config: ClassVar[type[NotebookConfig]] = NotebookConfig
    instead: ClassVar[str] = (
        "use `provider: bash`, `requirements: [jupyterlab]`, `ports: 1`, `commands: [jupyter lab --port $JOB_PORT_0]`"
    )


class CodeConfig(InterpreterConfig):
    version: Text | None = Field(default=None, description="Version of openvscode-server.", examples=["1.72.3"])
    ports: Ports = Field(default=(), description="Further network ports.")


class CodeProvider(_Pending):
    name: ClassVar[str] = "code"
    command_line: ClassVar[CommandLine | None] = CommandLine("code")
    Config: ClassVar[type[CodeConfig]] = CodeConfig
    instead: ClassVar[str] = "edit the repository with your own editor: `dstack run` sends what is on disk"


class StreamlitConfig(InterpreterConfig):
    target: Script = Field(description="The program: a file or a URL.", examples=["app.py"])
    args: Arguments = Field(default=(), description="Arguments: a list, or one text that is split as a shell would.")


class StreamlitProvider(_Pending):
    name: ClassVar[str] = "streamlit"
    command_line: ClassVar[CommandLine | None] = CommandLine("streamlit TARGET [ARGUMENTS]", "target", split=True)
    Config: ClassVar[type[StreamlitConfig]] = StreamlitConfig
    accepts_args: ClassVar[bool] = True
    instead: ClassVar[str] = (
        "use `provider: bash`, `requirements: [streamlit]`, `ports: 1`, "
        "`commands: [streamlit run app.py --server.port $JOB_PORT_0]`"
    )


class GradioConfig(InterpreterConfig):
    file: Script = Field(description="The program.", examples=["app.py"])
    args: Arguments = Field(default=(), description="Arguments: a list, or one text that is split as a shell would.")


class GradioProvider(_Pending):
    name: ClassVar[str] = "gradio"
    command_line: ClassVar[CommandLine | None] = CommandLine("gradio FILE [ARGUMENTS]", "file", split=True)
    Config: ClassVar[type[GradioConfig]] = GradioConfig
    accepts_args: ClassVar[bool] = True
    instead: ClassVar[str] = (
        "use `provider: bash`, `requirements: [gradio]`, `ports: 1`, "
        "`commands: [GRADIO_SERVER_PORT=$JOB_PORT_0 python app.py]`"
    )


class FastapiConfig(InterpreterConfig):
    app: Text = Field(description="Module and variable of the application.", examples=["main:app"])
    uvicorn: Arguments = Field(default=(), description="Arguments of uvicorn.")
    args: Arguments = Field(default=(), description="Arguments: a list, or one text that is split as a shell would.")


class FastapiProvider(_Pending):
    name: ClassVar[str] = "fastapi"
    command_line: ClassVar[CommandLine | None] = CommandLine("fastapi APP [ARGUMENTS]", "app")
    Config: ClassVar[type[FastapiConfig]] = FastapiConfig
    accepts_args: ClassVar[bool] = True
    instead: ClassVar[str] = (
        "use `provider: bash`, `requirements: [fastapi, uvicorn]`, `ports: 1`, "
        "`commands: [uvicorn main:app --port $JOB_PORT_0]`"
    )


class TensorboardConfig(InterpreterConfig):
    version: Text | None = Field(default=None, description="Version of TensorBoard.")
    runs: Commands = Field(description="Names of the runs to show.", examples=["[cowardly-goose-1]"])
    logdir: RelativePath | None = Field(default=None, description="The folder of their artifacts that holds the logs.")


class TensorboardProvider(_Pending):
    name: ClassVar[str] = "tensorboard"
    command_line: ClassVar[CommandLine | None] = CommandLine(
        "tensorboard RUN... [--logdir FOLDER]", "runs", {"--logdir": "logdir"}, lists=frozenset({"runs"})
    )
    Config: ClassVar[type[TensorboardConfig]] = TensorboardConfig
    instead: ClassVar[str] = (
        "fetch the artifacts with `dstack artifacts download RUN -o logs`, then `tensorboard --logdir logs`"
    )
