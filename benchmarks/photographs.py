"""Photographs of Debian's wallpaper packages as 32x32 colour images in CIFAR-10's binary format: a stand-in for CIFAR-10.

apt-get install lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds lxqt-themes
python -m benchmarks.photographs /data/photographs [--root /]
worldmodel density fit --data cifar10:/data/photographs --model frmdn --out runs/photographs

30 photographs (CC BY 4.0, CC BY-SA 3.0 and 4.0, CC0, GPL 2 or later; each package's ``copyright`` file names the authors) are
scaled to several heights and cut into tiles without overlap. Four photographs are the test part. The images of a photograph
follow each other, so that the last tenth of training, which the corpus holds out, is of others but for one.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from worldmodel.io.files import write_bytes, write_json

SIZE = 32
"""Height and width of an image."""
HEIGHTS = (480, 240, 120)
"""Heights of the scaled photographs; the larger ones have more tiles."""
PHOTOGRAPHS_FILE = "photographs.json"
"""Name of the file with the name and the number of images of each photograph, in the order of the images of a part."""
NUM_TEST, NUM_FILES = 4, 5
"""Number of photographs of the test part, and of training files."""
LOMIRI, MATE, LXQT = "usr/share/backgrounds", "usr/share/backgrounds/mate/nature", "usr/share/lxqt/wallpapers"
PHOTOGRAPHS = {
    LOMIRI: [
        "Bridge_by_Sander_Klootwijk",
        "Dragonfly_by_Bolly",
        "Kleiber_by_Lukas_Baubkus",
        "Picture_0B_by_freespace",
        "Picture_1A_by_freespace",
        "Wine_by_Jakkub_Mede",
        "aitzgorri_by_Aitzol_Berasategi",
        "free_by_Peter_Nerlich",
        "friends_by_Aitzol_Berasategi",
        "greentock_by_Peter_Nerlich",
        "life_by_Aitzol_Berasategi",
        "picosdeeuropa_by_Aitzol_Berasategi",
        "seeding_by_Clements_Engelhardt",
        "sunset_by_Aitzol_Berasategi",
    ],
    MATE: [
        "Aqua",
        "Blinds",
        "Dune",
        "FreshFlower",
        "Garden",
        "GreenMeadow",
        "LadyBird",
        "RainDrops",
        "Storm",
        "TwoWings",
        "Wood",
        "YellowFlower",
    ],
    LXQT: ["Butterfly-Kenneth-Wimer", "after-the-rain", "fog", "this-is-not-windows"],
}
"""Names of the photographs by folder; the other wallpapers of the packages are drawings."""


def tiles(picture: Image.Image, heights: tuple[int, ...] = HEIGHTS) -> np.ndarray:
    """Scale a picture to each height and cut it into images (n, 32, 32, 3), in random order."""
    found = []
    for height in heights:
        width = round(picture.width * height / picture.height)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        rows, columns = height // SIZE, width // SIZE
        cut = pixels[: rows * SIZE, : columns * SIZE].reshape(rows, SIZE, columns, SIZE, 3)
        found.append(cut.swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3))
    images = np.concatenate(found)
    return images[np.random.default_rng(0).permutation(len(images))]


def encoded(images: np.ndarray, label: int) -> bytes:
    """Return images as rows of CIFAR-10's binary format: the label, then the red, green and blue pixels."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.full((len(images), 1), label, np.uint8), pixels], axis=1).tobytes()


def write_corpus(paths: list[Path], out: Path, seed: int = 0) -> dict[str, int]:
    """Write the batches of photographs; return the number of images of each file.

    Args:
        paths: Paths of the photographs, at least two more than the test part has.
        out: Path of the folder of the corpus.
        seed: Random seed of the split.

    Raises:
        ValueError: There are too few photographs, or one is missing.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{missing[0]} is missing: install the packages, or name their folder with --root")
    if len(paths) < NUM_TEST + 2:
        raise ValueError(f"paths must have at least {NUM_TEST + 2} photographs, got {len(paths)}")
    order = [paths[index] for index in np.random.default_rng(seed).permutation(len(paths))]
    parts = {"test": order[:NUM_TEST], "train": order[NUM_TEST:]}
    rows = {}
    for name, chosen in parts.items():
        rows[name] = [encoded(tiles(Image.open(path).convert("RGB")), label % 10) for label, path in enumerate(chosen)]
    training = b"".join(rows["train"])
    row = 1 + 3 * SIZE * SIZE
    edges = np.linspace(0, len(training) // row, NUM_FILES + 1).astype(int) * row
    files = {f"data_batch_{n + 1}.bin": training[edges[n] : edges[n + 1]] for n in range(NUM_FILES)}
    files["test_batch.bin"] = b"".join(rows["test"])
    for name, content in files.items():
        write_bytes(out / name, content)
    shown = {
        part: [[path.stem, len(found) // row] for path, found in zip(parts[part], rows[part], strict=True)]
        for part in parts
    }
    write_json(out / PHOTOGRAPHS_FILE, shown)
    return {name: len(content) // row for name, content in files.items()}


def main(words: list[str] | None = None) -> None:
    """Write the corpus and print the number of images of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Path of the folder of the corpus.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="Path of the folder with the packages' usr.")
    given = parser.parse_args(words)
    paths = [given.root / folder / f"{name}.jpg" for folder, names in PHOTOGRAPHS.items() for name in names]
    for name, count in write_corpus(paths, given.out).items():
        print(f"{name}: {count:,} images")


if __name__ == "__main__":
    main()
