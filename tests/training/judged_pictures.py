"""A folder in NIGHTS' layout with answers that can be learned: of two candidates, the one with the nearer red wins."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image as PILImage


def write_judged_pictures(folder: Path, triplets: int = 24, size: int = 32, pictures: int = 12, seed: int = 0) -> Path:
    """Write noisy pictures of one colour each, and triplets with 6 to 10 votes; two thirds of them are the training split."""
    random = np.random.default_rng(seed)
    colours = random.uniform(40, 215, (pictures, 3))
    for i, colour in enumerate(colours):
        pixels = np.clip(colour + random.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
        (folder / "ref").mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(pixels).save(folder / "ref" / f"{i}.png")
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        votes = ["left_vote", "right_vote", "votes"]
        writer.writerow(["id", *votes, "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt"])
        for number in range(triplets):
            r, a, b = random.choice(pictures, 3, replace=False)
            left = int(abs(colours[r, 0] - colours[a, 0]) < abs(colours[r, 0] - colours[b, 0]))
            split = "train" if number < 2 * triplets / 3 else "val"
            paths = [f"ref/{i}.png" for i in (r, a, b)]
            writer.writerow([number, left, 1 - left, int(random.integers(6, 11)), *paths, split, False, "colour"])
    return folder
