"""Split the digits that scikit-learn ships (1,797 images of 8 × 8 pixels) into data/train.npz and data/test.npz."""

import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    seed = int(os.environ.get("SEED", "1"))
    images, labels = load_digits(return_X_y=True)
    pixels = (images / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    data = Path("data")
    data.mkdir(exist_ok=True)
    np.savez_compressed(data / "train.npz", x=train_x, y=train_y)
    np.savez_compressed(data / "test.npz", x=test_x, y=test_y)
    print(f"{len(train_x)} images to train on, {len(test_x)} to test with (seed {seed})")


if __name__ == "__main__":
    main()
