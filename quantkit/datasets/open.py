"""Opening data: a folder or list of images, or arrays, prepared for the inputs of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.datasets.arrays import ARRAY_SUFFIXES, open_arrays
from quantkit.datasets.batch_axes import (
    PlacedSamples,
    constant_inputs,
    doubtful_batch_axis,
    find_batch_axes,
    first_axes,
)
from quantkit.datasets.batching import batch_axes
from quantkit.datasets.crops import crop_images
from quantkit.datasets.file_list import LIST_SUFFIXES, open_file_list
from quantkit.datasets.image_files import ImageFiles
from quantkit.datasets.image_folder import open_image_folder
from quantkit.datasets.image_headers import look_at_headers
from quantkit.datasets.native_size import keep_native_size
from quantkit.datasets.placement import PLACEMENT, placed_as
from quantkit.datasets.preprocess import pixel_table
from quantkit.datasets.preprocessor_config import reads_config
from quantkit.datasets.remote_path import Source, locate
from quantkit.datasets.resolve_preprocessing import check_varying, resolve_preprocessing
from quantkit.datasets.rolled_states import RunnableModel, roll_states, sequence_inputs
from quantkit.datasets.sample_files import holds_sample_files, open_sample_files
from quantkit.datasets.sampling import select
from quantkit.datasets.tar_index import is_tar
from quantkit.datasets.tar_samples import find_tars, open_tar_images
from quantkit.datasets.user_samples import open_image_function, open_loaded
from quantkit.datasets.yolo_data import YAML_SUFFIXES, Split, open_yolo_data
from quantkit.errors import DatasetError
from quantkit.notices import Notice, Notify, logs_duration
from quantkit.registry import nearest_file
from quantkit.types import CalibrationTable, Dataset, PathLike, Preprocessing, TensorSpec
from quantkit.types.options import ImageOptions, Order
from quantkit.urls import data_path
from quantkit.user_code import names_code

_KEPT_AT_ANY_SIZE = (
    *("color", "resize", "interpolation", "pad_value", "pad_position", "multiple_of"),
    *("pixel_max", "scale", "mean", "std", "layout"),
)


@logs_duration
def open_samples(
    model: Sequence[TensorSpec] | RunnableModel,
    data: PathLike,
    preprocessing: Preprocessing | ImageOptions | str | None,
    classes: Sequence[str] | None,
    *,
    num_samples: int | None,
    seed: int,
    order: Order,
    labeled: bool = True,
) -> Dataset:
    """Opens `data` for a model and chooses samples; without labels if they mean nothing here.

    Its inputs are enough but for states, which the model itself makes.
    """
    inputs = model.inputs if isinstance(model, RunnableModel) else model
    if isinstance(preprocessing, str):
        preprocessing = ImageOptions(preset=preprocessing)
    said = preprocessing if isinstance(preprocessing, ImageOptions) else ImageOptions()
    constants = constant_inputs(inputs, said.constant or {})
    axes = find_batch_axes(inputs, said.batch_axis or {})
    placed = [spec for spec in first_axes(inputs, axes) if spec.name not in constants]
    states = said.state or {}
    fed = sequence_inputs(placed, states) if states else placed
    source = locate(data)
    if not isinstance(source, Path):
        source.refresh()
    if said.split is not None and not _names_splits(_existing(data)):
        raise DatasetError(f"{source}: --split is for a YOLO data.yaml: pass the folder of the images to use as --data")
    if states and not (holds_sample_files(source) or said.loader):
        raise DatasetError(f"{source}: --state needs a folder of .npz files, a sequence each, or a --loader")
    if said.loader is None and holds_sample_files(source):
        if said.says_how or said.crops is not None:
            raise DatasetError(f"{source}: image options have no meaning for arrays")
        dataset: Dataset = open_sample_files(source, fed, axes=axes, classes=classes)
    elif isinstance(preprocessing, ImageOptions):
        dataset = _open_as_said(data, fed, preprocessing, classes)
    else:
        dataset = open_dataset(data, fed, preprocessing=preprocessing, classes=classes)
    if states:
        assert isinstance(model, RunnableModel)  # from commands that take --state
        dataset = roll_states(dataset, placed, states, model, axes=axes, constants=constants)
    if axes or constants:
        dataset = PlacedSamples(dataset, axes | dict.fromkeys(constants), constants)
    return look_at_headers(select(dataset, num_samples=num_samples, seed=seed, order=order, labeled=labeled))


def on_split(
    given: Preprocessing | ImageOptions | str | None, split: Split, data: PathLike
) -> Preprocessing | ImageOptions | str | None:
    """What is given; where `data` is a data.yaml and no split is given, of these images of it."""
    said = _as_options(given)
    return replace(said, split=split) if said.split is None and _names_splits(locate(data)) else said


def _names_splits(source: Source) -> bool:
    return source.suffix.lower() in YAML_SUFFIXES and source.is_file()


def prepared_as(
    table: CalibrationTable | None, given: Preprocessing | ImageOptions | str | None, data: PathLike
) -> Preprocessing | ImageOptions | str | None:
    """What is given; where it says nothing of preparation, batch axes or constants, what a table was made with.

    A size alone changes the size of what the table was made with, and nothing else.

    Raises:
        DatasetError: an input has another batch axis or constant in the table; or a size is given, but the table was
            made with a user's function.
    """
    made_with = None if table is None or holds_arrays(data) else table.preprocessing
    if given is None or given == ImageOptions():
        given = made_with
    elif isinstance(given, ImageOptions) and not given.says_how:
        given = replace(given, base=given.base or made_with)
    elif isinstance(given, ImageOptions) and made_with is not None and not replace(given, size=None).says_how:
        given = _resized(given, made_with)
    if table is None or not (isinstance(given, ImageOptions) or not table.settings.keys().isdisjoint(PLACEMENT)):
        return given
    return placed_as(table.settings, _as_options(given))


def _resized(given: ImageOptions, made_with: Preprocessing) -> ImageOptions:
    if made_with.function is not None:
        raise DatasetError(
            f"--size: the table was made with {made_with.function}, which prepares the whole image: leave it out"
        )
    assert given.size is not None  # it is all that is said
    kept = {name: getattr(made_with, name) for name in _KEPT_AT_ANY_SIZE}
    if made_with.shorter_side is not None:
        kept["shorter_side"] = round(made_with.shorter_side * max(given.size) / max(made_with.size))
    return replace(given, **kept)


def warn_of_batch_axes(
    inputs: Sequence[TensorSpec],
    dataset: Dataset,
    prepared: Preprocessing | ImageOptions | str | None,
    notify: Notify,
) -> None:
    """Warns of inputs that may have their batch elsewhere than in the first dimension, which is fixed."""
    said = _as_options(prepared)
    known = {*batch_axes(dataset), *(said.batch_axis or {})}
    for spec in () if dataset.preprocessing is not None else inputs:
        axis = doubtful_batch_axis(spec)
        if axis is not None and spec.name not in known:
            text = (
                f"input {spec.name!r} {list(spec.shape)}: the batch is taken to be its first dimension, fixed to "
                f"{spec.shape[0]}; pass --batch-axis {spec.name}={axis} if it is dimension {axis}"
            )
            notify(Notice("warning", "data", text))


def _as_options(given: Preprocessing | ImageOptions | str | None) -> ImageOptions:
    if isinstance(given, ImageOptions):
        return given
    return ImageOptions(preset=given) if isinstance(given, str) else ImageOptions(base=given)


def _open_as_said(
    data: PathLike, inputs: Sequence[TensorSpec], said: ImageOptions, classes: Sequence[str] | None
) -> Dataset:
    if said.loader is not None:
        if said.says_how or said.crops is not None:
            raise DatasetError("--loader makes whole samples: image options have no meaning with it")
        return open_loaded(_local(_existing(data), "what a --loader reads"), inputs, said.loader, classes=classes)
    if (said.says_how or said.crops is not None) and (len(inputs) != 1 or holds_arrays(data)):
        raise DatasetError(
            f"{data_path(data)}: image options have no meaning for arrays or a model with several inputs"
        )
    if names_code(said.preset):
        if replace(said, preset=None).says_how:
            raise DatasetError(f"--preprocess {said.preset} prepares the whole image: leave out other image options")
        declared, function = open_image_function(inputs[0], str(said.preset))
        images = _open_images(_existing(data), inputs[0], declared, classes, said.split or "val")
        images = replace(images, function=function)
        return images if said.crops is None else crop_images(images, Path(said.crops), classes=classes)
    preprocessing = resolve_preprocessing(inputs[0], said) if said.says_how else said.base
    is_preset = said.says_how and said.resize is None and said.shorter_side is None and not reads_config(said.preset)
    dataset = open_dataset(
        data, inputs, preprocessing=preprocessing, classes=classes, split=said.split or "val", is_preset=is_preset
    )
    if said.crops is None:
        return dataset
    assert isinstance(dataset, ImageFiles)  # arrays were refused
    return crop_images(dataset, Path(said.crops), classes=classes)


def _open_images(
    source: Source, spec: TensorSpec, preprocessing: Preprocessing, classes: Sequence[str] | None, split: Split
) -> ImageFiles:
    if _names_splits(source):
        return open_yolo_data(_local(source, "a YOLO data.yaml"), spec, preprocessing=preprocessing, split=split)
    if tars := find_tars(source):
        return open_tar_images(tars, spec, preprocessing=preprocessing, classes=classes)
    _check_kind(source)
    open_images = open_image_folder if source.is_dir() else open_file_list
    return open_images(source, spec, preprocessing=preprocessing, classes=classes)


def _check_kind(source: Source) -> None:
    is_known = source.suffix.lower() in (*LIST_SUFFIXES, *YAML_SUFFIXES) or is_tar(source)
    if not source.is_dir() and not is_known:
        raise DatasetError(f"{source} is not a data set: --data takes a folder of images, {_describe_files()}")
    if any(source.glob("*.npy")) and all(file.suffix == ".npy" for file in source.iterdir()):
        text = "a folder of .npy files is not read: save one .npy [N, ...] or a folder of .npz"
        raise DatasetError(f"{source}: {text}")


def _existing(path: PathLike) -> Source:
    source = locate(path)
    if not source.exists() and not find_tars(source):
        is_link = isinstance(source, Path) and source.is_symlink()
        near = nearest_file(source) if isinstance(source, Path) else ""
        takes = f": --data takes a folder of images, {_describe_files()}"
        what = "is a link to nothing, or in a circle" if is_link else "does not exist"
        raise DatasetError(f"{source} {what}{near or takes}")
    return source


def _local(source: Source, what: str) -> Path:
    if not isinstance(source, Path):
        raise DatasetError(f"{source}: {what} must be a local file: download it")
    return source


def holds_arrays(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names arrays (.npy, .npz), which are fed as they are and take no preprocessing."""
    source = locate(path)
    is_file = source.suffix.lower() in ARRAY_SUFFIXES and not source.is_dir()
    return is_file or holds_sample_files(source)


def open_dataset(
    path: str | os.PathLike[str],
    inputs: Sequence[TensorSpec],
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    split: Split = "val",
    is_preset: bool = False,
) -> Dataset:
    """Opens a folder, list (.txt, .csv, .jsonl) or tars of images, a YOLO data.yaml or arrays (.npy, .npz).

    Args:
        path: the folder or file.
        inputs: what the model takes; images need a model with one input.
        preprocessing: for images; None resolves the default for the input. Arrays take none.
        classes: class names by index; None takes the sorted names that the data has.
        split: which images of a data.yaml.
        is_preset: nobody said how images of the model's own size are resized.

    Returns:
        A data set that decodes on access.

    Raises:
        DatasetError: nothing there, nothing that the model can take, or a label without a class.
    """
    source = _existing(path)
    if holds_arrays(path):
        if preprocessing is not None:
            raise DatasetError(
                f"{source} contains arrays, which are passed to the model unchanged: omit the image options"
            )
        if holds_sample_files(source):
            return open_sample_files(source, inputs, axes={}, classes=classes)
        return open_arrays(_local(source, "an array"), inputs, classes=classes)
    _check_kind(source)
    if len(inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in inputs)
        raise DatasetError(
            f"images fill one input, but the model has {names}: save arrays by these names as .npz, or use --loader"
        )
    if preprocessing is None:
        preprocessing, is_preset = resolve_preprocessing(inputs[0]), True
    else:
        _check_fit(preprocessing, inputs[0])
    return keep_native_size(_open_images(source, inputs[0], preprocessing, classes, split), is_said=not is_preset)


def _describe_files() -> str:
    return f"a list ({' '.join(LIST_SUFFIXES)}), a YOLO data.yaml, tars or arrays ({' '.join(ARRAY_SUFFIXES)})"


def _check_fit(preprocessing: Preprocessing, spec: TensorSpec) -> None:
    """Refuses a preprocessing that was made for another model before any image is read."""
    if preprocessing.function is not None:
        raise DatasetError(
            f"the images were prepared by {preprocessing.function}, which runs only where it is named: pass "
            "--preprocess file.py:function"
        )
    pixel_table(preprocessing)
    check_varying(preprocessing, spec)
    height, width = preprocessing.size
    channels = preprocessing.channels
    sample = (channels, height, width) if preprocessing.layout == "NCHW" else (height, width, channels)
    fits = len(spec.shape) == 4 and all(
        want == have for want, have in zip(spec.shape[1:], sample, strict=True) if isinstance(want, int)
    )
    if not fits or spec.dtype != preprocessing.dtype:
        raise DatasetError(
            f"the preprocessing makes {preprocessing.dtype} {list(sample)}, but input {spec.name!r} takes "
            f"{spec.dtype} {list(spec.shape)[1:]} per sample"
        )
