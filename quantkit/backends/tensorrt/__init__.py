"""TensorRT 8.6 to 11 and TensorRT-RTX behind one interface. Nothing here imports them before they are needed."""

from __future__ import annotations

import quantkit.backends.tensorrt.open_engine  # noqa: F401 - registers the runtime
