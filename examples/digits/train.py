"""Train a small neural network on data/train.npz; write checkpoint/model.pkl after every epoch.

A checkpoint that is already there is gone on from, so an interrupted training loses one epoch at most.
"""

import argparse
import os
import pickle
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

import dstack  # found by every job, whatever is installed in its environment

CHECKPOINT = Path("checkpoint/model.pkl")


def main() -> None:
    options = parse()
    train, test = np.load("data/train.npz"), np.load("data/test.npz")
    classes = np.unique(train["y"])
    epoch, model = load() or (0, new_model(options.learning_rate, options.seed))
    print(f"training in process {os.getpid()}")
    if epoch:
        print(f"going on after epoch {epoch} of {CHECKPOINT}")
    while epoch < options.epochs:
        began = time.perf_counter()
        # One pass over the data in a new order, in small batches.
        order = np.random.default_rng((options.seed, epoch)).permutation(len(train["x"]))
        for batch in np.array_split(order, len(order) // 32):
            model.partial_fit(train["x"][batch], train["y"][batch], classes=classes)
        epoch += 1
        save(epoch, model)
        loss = log_loss(test["y"], model.predict_proba(test["x"]), labels=classes)
        accuracy = model.score(test["x"], test["y"])
        seconds = time.perf_counter() - began
        print(f"epoch {epoch:>3}/{options.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  ({seconds:.2f} s)")
        dstack.log(step=epoch, loss=loss, accuracy=accuracy)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    # Every variable of a workflow is in the job's environment, too.
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    return parser.parse_args()


def new_model(learning_rate: float, seed: int) -> MLPClassifier:
    return MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=learning_rate, random_state=seed)


def load() -> tuple[int, MLPClassifier] | None:
    if not CHECKPOINT.exists():
        return None
    with CHECKPOINT.open("rb") as file:
        return pickle.load(file)


def save(epoch: int, model: MLPClassifier) -> None:
    """Replace the checkpoint as a whole: a reader sees the old one or the new one, never half of one."""
    CHECKPOINT.parent.mkdir(exist_ok=True)
    partial = CHECKPOINT.with_suffix(".partial")
    with partial.open("wb") as file:
        pickle.dump((epoch, model), file)
    partial.replace(CHECKPOINT)


if __name__ == "__main__":
    main()
