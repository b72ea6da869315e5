"""Writes calib_data/digits: 8x8 gray PNG files, in one folder per split and class. The result is deterministic.

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
            # Files are numbered by the index of the image in scikit-learn's data set.
            path = out / name / str(data.classes[index]) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Uncompressed: compressed bytes differ between builds of zlib, and 64 pixels gain nothing.
            Image.fromarray(data.pixels[index]).save(path, compress_level=0)
        print(f"{name}: {len(indices)} images in {out / name}")


if __name__ == "__main__":
    main()
