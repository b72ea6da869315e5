"""Writes calib_data/digits: one folder per split and class, 8x8 grey PNG files. Same bytes on every run.

Run: python examples/1_make_digits.py [--out FOLDER]     Needs: scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "calib_data" / "digits")
    out = parser.parse_args().out

    data = digits.load()
    for name, indices in (("calib", data.calib), ("val", data.val)):
        for index in indices:
            # The file's number is the image's place in scikit-learn's data set.
            path = out / name / str(data.classes[index]) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Stored, not compressed: compressed bytes differ between builds of zlib, and 64 pixels gain nothing.
            Image.fromarray(data.pixels[index]).save(path, compress_level=0)
        print(f"{name}: {len(indices)} images in {out / name}")


if __name__ == "__main__":
    main()
