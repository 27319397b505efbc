"""What workflows say that they write."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstack.workflows.checking import Subject, blame
from dstack.workflows.diagnostics import Report

if TYPE_CHECKING:
    from dstack.sdk.config import Artifact

# Endings of what training programs write into one file; a folder that is called so is rare.
_OF_FILES = frozenset(
    ".pt .pth .ckpt .pkl .pickle .joblib .h5 .hdf5 .onnx .safetensors .npy .npz .csv .tsv .json .jsonl .txt .log "
    ".parquet .png .jpg .jpeg .pdf .svg .html .md .yaml .yml .zip .gz .tgz .tar .bin".split()
)


def warn_of_files(subject: Subject, artifacts: Sequence[Artifact], report: Report) -> None:
    """Tell of artifacts that seem to be files: a job finds a folder of that name, and cannot write the file."""
    several = isinstance(subject.data.get("artifacts"), list)
    for index, artifact in enumerate(artifacts):
        if posixpath.splitext(artifact.path)[1].lower() in _OF_FILES:
            message = f"an artifact is a folder, and `{artifact.path}` is called like a file"
            hint = "have the program write into a folder, and name that one"
            blame(subject, ("artifacts", index) if several else ("artifacts",), message, hint, report, "warning")
