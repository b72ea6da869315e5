"""Sessions that compute a model as it computes where it is made for, whatever this processor is; slower, not timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import OLDEST_OPSET, share_weights
from quantkit.graph.passes.expose import expose
from quantkit.graph.passes.fp16_rounding import holds_fp16, round_to_fp16
from quantkit.graph.passes.prepare import has_signed_activations
from quantkit.types import Runner


def is_for_gpu(model: FloatModel) -> bool:
    """Whether a model is made for another device than ONNX Runtime's CPU: with Q/DQ for TensorRT, or in FP16."""
    return has_signed_activations(model.graph) or computes_in_fp16(model)


def open_accurate(
    model: FloatModel, *, name: str, threads: int, tensors: Sequence[str] = (), spinning: bool = True
) -> OnnxRuntimeRunner:
    """A session that computes what the model is worth where it will run, whatever this processor is.

    Of models for TensorRT, Q/DQ is computed in float, as ONNX defines it: integer kernels saturate on x86 without VNNI.
    In FP16 every result is rounded, as a GPU does it. Models for the CPU run as they always run.

    Args:
        model: the variant.
        name: for messages.
        threads: of ONNX Runtime.
        tensors: shown as outputs, beside its own.
        spinning: see `OnnxRuntimeRunner`.

    Raises:
        QuantKitError: the model, or one of the tensors, cannot be run.
    """
    half = computes_in_fp16(model)
    graph = model.prepared(OLDEST_OPSET) if tensors or half else model.graph
    if tensors:
        graph = expose(graph, tensors)
    if half:
        round_to_fp16(graph)
    is_for_cpu = model.is_quantized and not has_signed_activations(model.graph)
    with using_gpu(None) if is_for_cpu else nullcontext():
        return OnnxRuntimeRunner(
            share_weights(graph),
            name=name,
            threads=threads,
            spinning=spinning,
            fuse_qdq=is_for_cpu,
            keep_identities=half,
        )


@contextmanager
def open_as_run(models: Mapping[str, FloatModel], *, threads: int) -> Iterator[dict[str, Runner]]:
    """Sessions for latency, of the models whose accuracy is computed in another way: with ONNX Runtime's defaults.

    Args:
        models: by name.
        threads: of ONNX Runtime.
    """
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                OnnxRuntimeRunner(share_weights(model.graph), name=f"the {name} model", threads=threads)
            )
            for name, model in models.items()
            if is_for_gpu(model)
        }


def computes_in_fp16(model: FloatModel) -> bool:
    """Whether anything is computed in FP16; not of a model whose types are unknown."""
    try:
        return holds_fp16(model.prepared(OLDEST_OPSET))
    except ModelError:
        return False
