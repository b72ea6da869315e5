"""Steps of sequences, each with the state that the float model has when it comes to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from quantkit.datasets.batching import fixed_batch_size, stack_samples
from quantkit.datasets.dataset_view import DatasetView
from quantkit.datasets.fingerprint import content_hash
from quantkit.errors import DatasetError
from quantkit.types import Array, Dataset, Runner, Sample, TensorSpec


@dataclass(frozen=True)
class RunnableModel:
    """The inputs of a float model, and what opens a session of it."""

    inputs: Sequence[TensorSpec]
    open: Callable[[], Runner]


class _Step(NamedTuple):
    """One step with its state; of a sequence that cannot be read, the error. The hash is of sequence and number: not of
    the state, whose last digits depend on the machine.
    """

    found: Sample | DatasetError
    id: str
    hash: str
    sequence: int


@dataclass(frozen=True, eq=False)
class RolledSteps(DatasetView):
    """The steps of sequences, arrays whose first axis is time, held in memory.

    Attributes:
        steps: of every sequence.
        states: output by the input that it feeds.
    """

    steps: Sequence[_Step]
    states: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(found := self.steps[index].found, DatasetError):
            raise found
        return found

    @cached_property
    def ids(self) -> Sequence[str]:
        """Name of the sequence, and number of the step from 0."""
        return [step.id for step in self.steps]

    @cached_property
    def targets(self) -> Sequence[int] | None:
        """The target of each step, which is that of its sequence."""
        targets = self.dataset.targets
        return None if targets is None else tuple(targets[step.sequence] for step in self.steps)

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the sequences, and where states come from."""
        rolled = [f"input {name!r} is the float model's last {output!r}" for name, output in self.states.items()]
        read = {step.sequence for step in self.steps if not isinstance(step.found, DatasetError)}
        count = sum(step.sequence in read for step in self.steps)
        counts = f"{count} steps of {len(read)} sequences"
        return (*super().remarks, f"{'; '.join(rolled)}, at first zeros: {counts}")

    def content_hash(self, index: int) -> str:
        """Hash of a step."""
        return self.steps[index].hash


def sequence_inputs(inputs: Sequence[TensorSpec], states: Mapping[str, str]) -> list[TensorSpec]:
    """What a sequence holds: every input but the states, with a time axis in front."""
    return [replace(i, shape=(i.shape[0], None, *i.shape[1:])) for i in inputs if i.name not in states]


def roll_states(
    dataset: Dataset,
    inputs: Sequence[TensorSpec],
    states: Mapping[str, str],
    model: RunnableModel,
    *,
    axes: Mapping[str, int | None],
    constants: Mapping[str, Array],
) -> RolledSteps:
    """Runs the float model over every sequence, from a state of zeros.

    Args:
        dataset: sequences of `sequence_inputs`.
        inputs: of the model, the batch as their first dimension.
        states: output by the input that it feeds.
        model: the float model.
        axes: where the model has the batch, by input, if it is not the first dimension.
        constants: arrays by input, fed with every step.

    Raises:
        DatasetError: no such input or output, no input but states, a state whose size is not known or that is not what
            its output gives, a sequence that cannot be read or whose arrays differ in length.
    """
    if all(spec.name in states for spec in inputs):
        raise DatasetError("--state: every input of the model is a state, and none is left that sequences give")
    zeros = _zero_states(inputs, states)
    steps: list[_Step] = []
    with model.open() as runner:
        if unknown := [name for name in states.values() if name not in {spec.name for spec in runner.outputs}]:
            known = ", ".join(spec.name for spec in runner.outputs)
            raise DatasetError(f"--state: the model has no output {unknown[0]!r}; it has {known}")
        copies = fixed_batch_size(runner, axes) or 1
        for index in range(len(dataset)):
            state, own = zeros, content_hash(dataset, index)
            try:
                sequence = dataset[index]
            except DatasetError as error:  # it counts as one sample, for --min-readable
                steps.append(_Step(error, dataset.ids[index], own, index))
                continue
            for number, step in enumerate(_steps(sequence)):
                sample = replace(step, inputs={**step.inputs, **state}, axes=axes)
                said = hashlib.sha256(f"{own} {number} {sorted(states.items())}".encode()).hexdigest()
                steps.append(_Step(sample, sample.id, said, index))
                fed = replace(sample, inputs={**sample.inputs, **constants}, axes={**axes, **dict.fromkeys(constants)})
                outputs = runner.run(stack_samples([fed] * copies).inputs)
                state = {name: _next(name, outputs[output], zeros[name], axes) for name, output in states.items()}
    return RolledSteps(dataset, steps, states)


def _zero_states(inputs: Sequence[TensorSpec], states: Mapping[str, str]) -> dict[str, Array]:
    specs = {spec.name: spec for spec in inputs}
    zeros = {}
    for name, output in states.items():
        if name not in specs:
            raise DatasetError(f"--state {name}={output}: the model has no such input; it has {', '.join(specs)}")
        shape = [n for n in specs[name].shape[1:] if isinstance(n, int)]
        if len(shape) != len(specs[name].shape) - 1:
            raise DatasetError(
                f"--state {name}={output}: the size of input {name!r} {list(specs[name].shape)} is not known"
            )
        zeros[name] = np.zeros(shape, specs[name].dtype)
    return zeros


def _steps(sequence: Sample) -> Iterable[Sample]:
    lengths = {name: len(array) for name, array in sequence.inputs.items()}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DatasetError(f"--state: the arrays of {sequence.id!r} differ in their number of steps: {said}")
    for number in range(next(iter(lengths.values()))):
        arrays = {name: np.asarray(array[number]) for name, array in sequence.inputs.items()}
        yield replace(sequence, id=f"{sequence.id} step {number}", inputs=arrays)


def _next(name: str, output: Array, before: Array, axes: Mapping[str, int | None]) -> Array:
    axis = axes.get(name, 0)
    found = output.take(0, axis) if axis is not None and axis < output.ndim else output
    if found.shape != before.shape:
        raise DatasetError(
            f"--state: input {name!r} takes {list(before.shape)} for a sample, its output has {list(found.shape)}"
        )
    return np.ascontiguousarray(found, before.dtype)
