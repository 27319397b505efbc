"""What the second of two successive checkpoints costs, by how files are cut: what the chunker's constants rest on.

    python -m benchmarks.deltas [--environment FOLDER]

A small language model is trained with torch, on the CPU, in an environment of its own, and saved at one step and the
next: weights (safetensors, float32 and bfloat16), optimizer state, and a log that grew. Each pair is cut in every way
of `CUTS`; a chunk that the first of the pair has costs nothing. dstack's own rule says which new ones are compressed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.measure import check
from benchmarks.ours import ROOT, plain_environment
from dstack.snapshots.chunking import DEFAULT, Chunker, ChunkerParameters, digest
from dstack.snapshots.compression import Compressor

KIB: Final = 1024
MIB: Final = 1024 * KIB
PACKAGES: Final = ("torch", "numpy", "safetensors")

TRAIN: Final = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(0)
VOCABULARY, WIDTH, LAYERS = 16_384, 384, 4
model = nn.ModuleDict({
    "embedding": nn.Embedding(VOCABULARY, WIDTH),
    "body": nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 6, 4 * WIDTH, 0.0, batch_first=True), LAYERS),
    "head": nn.Linear(WIDTH, VOCABULARY),
})
weights = 1.0 / torch.arange(1, VOCABULARY + 1)
log = []

def train(parameters, steps, optimizer):
    for _ in range(steps):
        text = torch.multinomial(weights, 8 * 33, replacement=True).reshape(8, 33)
        hidden = model["body"](model["embedding"](text[:, :-1]))
        loss = nn.functional.cross_entropy(model["head"](hidden).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.append(loss.item())

def save(folder, optimizer):
    folder.mkdir(parents=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "weights-float32")
    save_file({name: value.to(torch.bfloat16) for name, value in state.items()}, folder / "weights-bfloat16")
    moments = {
        f"{number}.{name}": value.contiguous()
        for number, held in optimizer.state_dict()["state"].items()
        for name, value in held.items() if value.ndim
    }
    save_file(moments, folder / "optimizer")
    lines = range(50_000 + 500 * len(log))
    (folder / "log").write_text("".join('{"step": %d, "loss": %d}\\n' % (n, n * 2654435761 % 10**6) for n in lines))

out = Path(sys.argv[1])
for case in ("everything", "head", "low rate"):
    for parameter in model.parameters():
        parameter.requires_grad_(case != "head")
    model["head"].requires_grad_(True)
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=1e-6 if case == "low rate" else 3e-4)
    train(chosen, 20, optimizer)
    save(out / case / "1", optimizer)
    train(chosen, 1, optimizer)
    save(out / case / "2", optimizer)
"""

Cut = Callable[[bytes], Iterator[bytes]]


class Pair(NamedTuple):
    """One file of two checkpoints."""

    name: str
    before: bytes
    after: bytes


class Cost(NamedTuple):
    """Bytes that the second file adds, as they are and as they are stored; chunks that it consists of."""

    new: int
    stored: int
    chunks: int


def content_defined(average: int) -> Cut:
    parameters = DEFAULT
    if average != DEFAULT.average:
        parameters = ChunkerParameters(minimum=average // 2, average=average, maximum=average * 4)
    chunker = Chunker(parameters)

    def cut(data: bytes) -> Iterator[bytes]:
        at = 0
        for length in chunker.cut(memoryview(data), final=True):
            yield data[at : at + length]
            at += length

    return cut


def fixed(size: int) -> Cut:
    return lambda data: (data[at : at + size] for at in range(0, len(data), size))


CUTS: Final[dict[str, Cut]] = {
    **{f"content, {size} KiB": content_defined(size * KIB) for size in (64, 128, 256, 512, 1024, 2048)},
    **{f"fixed, {size} KiB": fixed(size * KIB) for size in (64, 512)},
    "whole file": lambda data: iter([data]),
}


def cost(pair: Pair, cut: Cut) -> Cost:
    known = {digest(chunk) for chunk in cut(pair.before)}
    compressor = Compressor()
    new = stored = chunks = 0
    for chunk in cut(pair.after):
        chunks += 1
        if (found := digest(chunk)) not in known:
            known.add(found)
            new += len(chunk)
            stored += len(compressor.stored(chunk)[0])
    return Cost(new, stored, chunks)


def table(pairs: Sequence[Pair]) -> str:
    """Markdown: what is stored for the second file of each pair, in MiB, by cut; "of" what, where it is compressed."""
    lines = [f"| MiB | size | {' | '.join(CUTS)} |", "|---" * (len(CUTS) + 2) + "|"]
    chunks = dict.fromkeys(CUTS, 0)
    for pair in pairs:
        costs = {name: cost(pair, cut) for name, cut in CUTS.items()}
        cells = [_shown(found) for found in costs.values()]
        lines.append(f"| {pair.name} | {len(pair.after) / MIB:.1f} | {' | '.join(cells)} |")
        for name, found in costs.items():
            chunks[name] += found.chunks
    lines.append(f"| chunks of all | | {' | '.join(map(str, chunks.values()))} |")
    return "\n".join(lines)


def _shown(found: Cost) -> str:
    stored, new = (f"{size / MIB:.2f}" for size in (found.stored, found.new))
    return stored if stored == new else f"{stored} of {new}"


def checkpoints(environment: Path, scratch: Path) -> list[Pair]:
    """Trained now, in `environment`, which is made where it is not there yet."""
    plain = plain_environment(scratch / "home")
    python = environment / "bin" / "python"
    if not python.exists():
        check([ROOT / ".venv" / "bin" / "python", "-m", "venv", environment], ROOT, plain)
        check([python, "-m", "pip", "install", "--quiet", *PACKAGES], ROOT, plain)
    out = scratch / "checkpoints"
    check([python, "-c", TRAIN, out], scratch, plain)
    return [
        Pair(f"{case.name}: {path.name}", path.read_bytes(), (case / "2" / path.name).read_bytes())
        for case in sorted(out.iterdir())
        for path in sorted((case / "1").iterdir())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deltas", description=__doc__)
    parser.add_argument("--environment", type=Path, help="where torch is, or is put; else a folder that is removed")
    chosen: Path | None = parser.parse_args().environment
    with tempfile.TemporaryDirectory() as folder:
        pairs = checkpoints(chosen or Path(folder) / "environment", Path(folder))
        print(table(pairs))


if __name__ == "__main__":
    main()
