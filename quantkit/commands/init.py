"""A configuration file for a model and its data, with what both of them tell."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.datasets.description import describe_preprocessing
from quantkit.datasets.open import on_split, open_samples
from quantkit.datasets.sampling import describe
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import output_specs
from quantkit.types import PathLike, Preprocessing, TensorSpec
from quantkit.urls import data_path

_DETECTOR_ROWS = 100
"""An output [N, A, B] with at least as many rows or columns is boxes rather than features."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model and data tell without running.

    Attributes:
        inputs: a line each: name, type, shape.
        outputs: likewise.
        task: a guess by the shapes of the outputs, a name in `TASKS`.
        why: what the guess is made of.
        data: the samples in a line.
        preprocessing: how images are prepared; None for arrays.
        is_labeled: whether the data have class labels.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    task: str
    why: str
    data: str
    preprocessing: str | None
    is_labeled: bool


def look_at(model: PathLike | FloatModel, data: PathLike) -> ModelFacts:
    """Reads the signature of a model and lists the data.

    Raises:
        QuantKitError: the model or the data cannot be used.
    """
    model = FloatModel.open(model)
    model.check_float()
    of_split = on_split(None, "train", data)
    dataset = open_samples(model.inputs, data, of_split, None, num_samples=None, seed=0, order="given")
    facts = describe(dataset)
    classes = f", {facts['num_classes']} classes" if facts["num_classes"] else ", no labels"
    outputs = output_specs(model.graph)
    task, why = _guess(outputs)
    prepared: Preprocessing | None = dataset.preprocessing
    return ModelFacts(
        inputs=tuple(map(_line, model.inputs)),
        outputs=tuple(map(_line, outputs)),
        task=task,
        why=why,
        data=f"{len(dataset):,} samples of {data_path(data).name}{classes}",
        preprocessing=None if prepared is None else describe_preprocessing(prepared),
        is_labeled=bool(facts["num_classes"]),
    )


def _line(spec: TensorSpec) -> str:
    shape = ", ".join("?" if n is None else str(n) for n in spec.shape)
    return f"{spec.name} {spec.dtype} [{shape}]"


def _guess(outputs: tuple[TensorSpec, ...]) -> tuple[str, str]:
    first = outputs[0].shape if outputs else ()
    sizes = [n for n in first[1:] if isinstance(n, int)]
    if len(outputs) == 1 and len(first) == 2:
        return "classify", "one output [N, C]"
    if len(first) == 3 and max(sizes, default=0) >= _DETECTOR_ROWS:
        return "detect", "an output of many rows, as detectors have: name the layout with detections, and labels"
    if len(first) == 4:
        return "segment", "an output for each pixel: name the folder of masks with labels"
    return "none", "outputs of unknown meaning are compared with FP32's"
