"""Test checkpoint/model.pkl on data/test.npz; write report/confusion.csv and say which digits it mistakes."""

import pickle
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix


def main() -> None:
    with Path("checkpoint/model.pkl").open("rb") as file:
        epoch, model = pickle.load(file)
    test = np.load("data/test.npz")
    matrix = confusion_matrix(test["y"], model.predict(test["x"]), labels=np.arange(10))
    report = Path("report")
    report.mkdir(exist_ok=True)
    np.savetxt(report / "confusion.csv", matrix, fmt="%d", delimiter=",")
    print(f"after {epoch} epochs: {np.trace(matrix)} of {matrix.sum()} right ({np.trace(matrix) / matrix.sum():.1%})")
    mistakes = [(count, true, seen) for (true, seen), count in np.ndenumerate(matrix) if true != seen and count]
    for count, true, seen in sorted(mistakes, reverse=True)[:5]:
        print(f"  {true} taken for {seen}: {count}")


if __name__ == "__main__":
    main()
