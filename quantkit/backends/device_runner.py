"""Running ONNX models with ONNX Runtime on a GPU that keeps what they return."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.device_array import DeviceArray
from quantkit.backends.cuda.upload import Uploader
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.types import Array, SharedModel


class DeviceRunner(OnnxRuntimeRunner):
    """A model in a session on a GPU, whose results stay there: `run` returns `DeviceArray`s, of its inputs too.

    Inputs may be on the GPU already.

    Args:
        model: as for `OnnxRuntimeRunner`.
        context: the GPU's primary context, in which ONNX Runtime computes.
        name: of the model, for messages.

    Raises:
        BackendError: ONNX Runtime rejects the model, with its reason.
        BackendUnavailableError: it cannot use the GPU.
    """

    def __init__(self, model: bytes | SharedModel | Path, context: PrimaryContext, *, name: str = "model") -> None:
        with using_gpu(context.device):
            super().__init__(model, name=name, spinning=False, fuse_qdq=False)
        self._context = context
        self._uploader = Uploader(context)

    def run(self, inputs: Mapping[str, Array | DeviceArray]) -> dict[str, Any]:
        """Runs one batch.

        Raises:
            OutOfDeviceMemoryError: the GPU's memory is too small for this batch.
            BackendError: the runner is closed, or ONNX Runtime fails, with its reason.
        """
        device = self._context.device
        with self._running():
            values = {spec.name: self._upload(inputs[spec.name]) for spec in self.inputs}
            binding = self._session.io_binding()
            for name, array in values.items():
                binding.bind_input(name, "cuda", device, array.dtype.type, array.shape, array.address)
            for spec in self.outputs:
                binding.bind_output(spec.name, "cuda", device)
            self._session.run_with_iobinding(binding, self._run_options)
            found = binding.get_outputs()
        pairs = zip(self.outputs, found, strict=True)
        return {**values, **{spec.name: self._on_device(value, spec.dtype) for spec, value in pairs}}

    def close(self) -> None:
        """Frees the session and what is left of its memory; calling it twice is fine."""
        super().close()
        self._uploader.close()

    def _upload(self, value: Array | DeviceArray) -> DeviceArray:
        return value if isinstance(value, DeviceArray) else self._uploader.upload(np.asarray(value))

    def _on_device(self, value: Any, dtype: np.dtype) -> DeviceArray | Array:
        if value.device_name() != "cuda":
            return np.asarray(value.numpy())
        return DeviceArray(value.data_ptr(), tuple(value.shape()), dtype, value, self._context)
