"""Images as outputs (super-resolution, denoising, enhancement): PSNR and SSIM against targets, or against FP32's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from quantkit.datasets.image_decoding import READ_FORMATS, silence_pillow
from quantkit.datasets.image_files import name_samples
from quantkit.datasets.image_folder import list_image_files
from quantkit.datasets.preprocess import show_colors, upright
from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks.classification import is_float
from quantkit.evaluation.tasks.sample_scores import SampleScores
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions
from quantkit.machine import raise_if_out_of_memory
from quantkit.types import Array, Batch, ChangedSample, Dataset, PathLike, Score
from quantkit.types.option import OwnOption

HIGHEST_DB = 100.0
"""PSNR of equal images: infinity has no mean."""

_CHANGED = 0.005
"""SSIM that an image must lose or gain to be listed."""

# Wang, Bovik, Sheikh and Simoncelli (2004): a Gaussian window of 11 pixels and deviation 1.5, K1 and K2.
_WINDOW, _DEVIATION, _K1, _K2 = 11, 1.5, 0.01, 0.03
_Floats = npt.NDArray[np.float64]
_Judged = tuple[tuple[str, ...], dict[str, tuple[list[float], list[float]]]]
"""What judging a batch gives: ids, and PSNR and SSIM of each image by variant."""

PSNR = Score(
    "image_psnr",
    "PSNR",
    is_fraction=False,
    definition="10 log10(peak^2 / mean squared error) in dB of each output image against its target, at most "
    f"{HIGHEST_DB:g}, mean over images.",
)
SSIM = Score(
    "image_ssim",
    "SSIM against the baseline",
    definition="Structural similarity of each output image with the baseline's (Wang et al. 2004, Gaussian window of "
    "11 pixels), mean over channels and images.",
)


class Images(Task):
    """PSNR of output images against targets; without targets, SSIM and PSNR against the baseline's.

    Args:
        targets: file of each sample's target; empty without targets.
        peak: what white is in an output, 1 or 255.
        color_reversed: whether the model's channels are blue, green, red.
    """

    numbers = ("image_psnr", "image_ssim")
    options = ("labels",)
    own_options = (
        OwnOption(
            "peak", 1.0, "Value of white in an output image, 1 or 255", is_valid=lambda v: v > 0, expected="above 0"
        ),
    )
    shape_hint: ClassVar[str] = "; export both with one scale and one layout of the outputs"

    def __init__(
        self, targets: Mapping[str, Path] | None = None, *, peak: float = 1.0, color_reversed: bool = False
    ) -> None:
        super().__init__()
        self._targets, self._peak, self._reversed = dict(targets or {}), peak, color_reversed
        self._psnr, self._ssim = SampleScores("image_psnr", PSNR.label), SampleScores("image_ssim", "SSIM")

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """Finds the target of each sample, if there are any."""
        targets = {} if options.labels is None else _find_targets(Path(options.labels), dataset.ids)
        p = dataset.preprocessing
        task = cls(targets, peak=options.own("peak"), color_reversed=p is not None and p.color == "BGR")
        facts = {} if options.labels is None else {"labels": Path(options.labels).name}
        return OpenTask(task, (), {**facts, "peak": options.own("peak")})

    @property
    def score(self) -> Score:
        """PSNR against targets, or SSIM against the baseline."""
        return PSNR if self._targets else SSIM

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there is no interval; known after `compute`."""
        return (self._psnr if self._targets else self._ssim).notes()

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> _Judged:
        """PSNR and SSIM of each image.

        Raises:
            EvaluationError: no output is an image, one that `peak` does not fit, or a target of another size.
        """
        (baseline, reference), *_ = outputs.items()
        name = _find_image(reference, len(batch))
        self._check_peak(name, reference[name])
        expected = [self._image(array) for array in reference[name]]
        truths = [self._target(i, image) for i, image in zip(batch.ids, expected, strict=True)]
        scores: dict[str, tuple[list[float], list[float]]] = {}
        for variant, found in outputs.items():
            images = expected if variant == baseline else [self._image(array) for array in found[name]]
            pairs = list(zip(images, truths, strict=True))
            psnr = [peak_ratio(image, truth, self._peak) for image, truth in pairs]
            scores[variant] = psnr, [structural_similarity(image, truth, self._peak) for image, truth in pairs]
        return batch.ids, scores

    def add(self, judged: _Judged) -> None:
        """Keeps the scores of each image, and notes which ones changed."""
        ids, scores = judged
        (baseline, (_, before)), *_ = scores.items()
        for variant, (psnr, ssim) in scores.items():
            self._psnr.add(variant, np.array(psnr))
            self._ssim.add(variant, np.array(ssim))
            if variant != baseline:
                self._note_changes(variant, ids, before, ssim)

    def compute(self) -> dict[str, dict[str, float]]:
        """PSNR and SSIM, the score with its interval."""
        first, second = (self._psnr, self._ssim) if self._targets else (self._ssim, self._psnr)
        scores, others = first.compute(), second.compute()
        return {variant: {**others[variant], **numbers} for variant, numbers in scores.items()}

    def _image(self, array: Array) -> _Floats:
        """[C, h, w] in red, green and blue, cut off at 0 and `peak` as a file would."""
        values = np.asarray(array, np.float64)
        if values.ndim == 2:
            values = values[None]
        elif values.shape[0] not in (1, 3):
            values = np.moveaxis(values, -1, 0)
        values = values[::-1] if self._reversed and len(values) == 3 else values
        return np.clip(np.nan_to_num(values, nan=0.0), 0, self._peak)

    def _check_peak(self, name: str, images: Array) -> None:
        """The wrong peak would give a wrong score without any sign of it."""
        highest = float(np.nan_to_num(np.asarray(images, np.float64)).max(initial=0))
        if highest < self._peak / 64 or highest > self._peak * 8:
            other = 1 if highest < self._peak else 255
            raise EvaluationError(
                f"output {name!r} reaches {highest:.3g} where --peak {self._peak:g} is white: pass --peak {other}"
            )

    def _target(self, sample: str, image: _Floats) -> _Floats:
        if not self._targets:
            return image
        path = self._targets[sample]
        silence_pillow()
        try:
            with Image.open(path, formats=READ_FORMATS) as opened:
                shown = show_colors(upright(opened)).convert("L" if len(image) == 1 else "RGB")
                pixels = np.asarray(shown, np.float64)
        except Exception as error:  # on damaged files Pillow raises nearly anything
            raise_if_out_of_memory(error)
            raise EvaluationError(f"target {path} cannot be read: {error}") from error
        target = (pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)) * (self._peak / 255)
        if target.shape != image.shape:
            (_, rows, columns), (_, height, width) = image.shape, target.shape
            raise EvaluationError(
                f"target {path} is {width} x {height} pixels, the output of {sample!r} {columns} x {rows}: targets "
                "must have the size of the outputs"
            )
        return target

    def _note_changes(self, variant: str, ids: Sequence[str], before: Sequence[float], after: Sequence[float]) -> None:
        for sample, old, new in zip(ids, before, after, strict=True):
            if abs(new - old) >= _CHANGED:
                self._changes.add(
                    ChangedSample(
                        variant=variant,
                        sample=sample,
                        kind=("fixed" if new > old else "broken") if self._targets else "changed",
                        truth="",
                        before=f"SSIM {old:.4f}",
                        after=f"SSIM {new:.4f}",
                        severity=abs(new - old),
                    )
                )


def peak_ratio(image: _Floats, truth: _Floats, peak: float) -> float:
    """PSNR in dB of one image.

    >>> peak_ratio(np.full((1, 2, 2), 0.5), np.full((1, 2, 2), 0.6), 1.0).__round__(6)
    20.0
    """
    error = float(((image - truth) ** 2).mean())
    return HIGHEST_DB if error == 0 else min(HIGHEST_DB, 10 * float(np.log10(peak**2 / error)))


def structural_similarity(image: _Floats, truth: _Floats, peak: float) -> float:
    """SSIM of one image [C, h, w], mean over channels and over the pixels whose window lies inside.

    Raises:
        EvaluationError: an image smaller than the window.
    """
    if min(image.shape[1:]) < _WINDOW:
        raise EvaluationError(f"SSIM needs images of {_WINDOW} x {_WINDOW} pixels or more, not {image.shape[1:]}")
    x, y = _blur(image), _blur(truth)
    xx, yy, xy = _blur(image * image) - x * x, _blur(truth * truth) - y * y, _blur(image * truth) - x * y
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    similarity = ((2 * x * y + c1) * (2 * xy + c2)) / ((x * x + y * y + c1) * (xx + yy + c2))
    return float(similarity.mean())


def _blur(planes: _Floats) -> _Floats:
    """Gaussian window along both axes, without padding."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _DEVIATION**2))
    weights /= weights.sum()
    for axis in (1, 2):
        size = planes.shape[axis] - _WINDOW + 1
        planes = sum(w * np.take(planes, range(i, i + size), axis) for i, w in enumerate(weights))
    return planes


def _find_image(outputs: Mapping[str, Array], num_samples: int) -> str:
    for name, array in outputs.items():
        if array.ndim == 4 and len(array) == num_samples and (array.shape[1] in (1, 3) or array.shape[3] in (1, 3)):
            return name
        if array.ndim == 3 and len(array) == num_samples and is_float(array) and min(array.shape[1:]) >= _WINDOW:
            return name
    shown = ", ".join(f"{name!r} {array.dtype} {list(array.shape)}" for name, array in outputs.items())
    raise EvaluationError(f"no output is an image: [N, C, h, w] or [N, h, w, C] with C 1 or 3 is needed, not {shown}")


def _find_targets(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """The image below `folder` of the same relative path, whatever its suffix, of each sample."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder: --labels takes the folder of the target images")
    files = list_image_files(folder)
    by_name = {_stem(name): folder / file for name, file in zip(name_samples(files), files, strict=True)}
    if missing := [name for name in ids if _stem(name) not in by_name]:
        raise EvaluationError(f"{folder} holds no target for {missing[0]!r} ({len(missing)} of {len(ids)} are missing)")
    return {name: by_name[_stem(name)] for name in ids}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


TASKS["image"] = Images
