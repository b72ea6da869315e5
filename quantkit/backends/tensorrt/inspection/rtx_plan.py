"""Reading a TensorRT-RTX plan without a GPU: the compiled graph stands in it as plain text.

That text is undocumented. It says which products are INT8; kernels are chosen when a GPU loads the plan, so that there
is no tactic and no time. Read with TensorRT-RTX 1.7; where another version writes something else, `read_plan` is None.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayer, EngineLayers, EngineTensor, find_nodes
from quantkit.backends.tensorrt.inspection.inspector import data_precision, precision_from_text, product_precision

MAGIC = b"vtrt"

NOTE = (
    "read from undocumented text in the plan: it shows what is quantized, but neither the kernels (chosen on the GPU) "
    "nor their times"
)

_MAIN = b"\nmain {\n"
_PRODUCTS = ("corrltn", "deconvolution", "fully_connected", "gemm", "matmul")
_IDLE = ("signal", "wait", "shape_call", "label")
_MOVES = re.compile(r"__myl_(?:MulMinMaxRounCast|Move|Tran|Resh|Cast|Conc|Slic)+")
_TENSOR = re.compile(r'tensor=\{[^\n]*?name="([^"\n]+)"[^\n]*?\btype=([a-z0-9_]+) \}')
_ENTRY = re.compile(r'^  ([a-z_]+)=\{ name=("?)([^\n]+?)\2 ', re.MULTILINE)
_REGION = re.compile(r"region = \{ name=\S+ size=(\d{1,18})\b([^\n}]*)\}")
_CONSTANT = re.compile(r"\bconst_payload_size=(\d{1,18}) ")


@dataclass(frozen=True)
class _Graph:
    """One compiled graph: nested ones, of fusions that are compiled on the GPU, are for any accelerator."""

    accelerators: str
    layers: tuple[EngineLayer, ...]
    memory_bytes: Mapping[str, int]

    @property
    def is_nested(self) -> bool:
        return self.accelerators == "*"


def read_plan(plan: bytes) -> EngineLayers | None:
    """The layers of a TensorRT-RTX plan; None where its content is not what TensorRT-RTX 1.7 writes."""
    if plan[:4] != MAGIC:
        return None
    graphs = _graphs(plan)
    outer = [graph for graph in graphs if not graph.is_nested and graph.layers]
    if not outer:
        return None
    inner = {
        t.name: layer for g in graphs if g.is_nested for layer in g.layers for t in layer.outputs if layer.is_weighted
    }
    # A plan for several GPUs holds one graph for all of them, or one for each: the first one's targets speak.
    chosen = [graph for graph in outer if graph.accelerators == outer[0].accelerators]
    notes = [NOTE]
    if others := sorted({g.accelerators for g in outer} - {outer[0].accelerators}):
        notes.append(f"shown for {outer[0].accelerators}; the plan also contains graphs for {', '.join(others)}")
    memory = {"file": len(plan)}
    for graph in chosen:
        for key, size in graph.memory_bytes.items():
            memory[key] = memory.get(key, 0) + size
    return EngineLayers(
        layers=tuple(_seen_from_outside(layer, inner) for graph in chosen for layer in graph.layers),
        source=f"TensorRT-RTX {'.'.join(str(b) for b in plan[24:28])} plan",
        memory_bytes=memory,
        notes=tuple(notes),
        targets=tuple(outer[0].accelerators.split()),
    )


def _graphs(plan: bytes) -> list[_Graph]:
    graphs = []
    start = 0
    while (main := plan.find(_MAIN, start)) >= 0:
        end = plan.find(b"\n}\n", main)
        if end < 0:
            break
        header = plan.rfind(b"header {", start, main)
        if header >= 0:
            head = plan[header:main].decode("utf-8", "replace")
            body = plan[main + len(_MAIN) : end].decode("utf-8", "replace")
            graphs.append(_graph(head, body))
        start = end
    return graphs


def _graph(head: str, body: str) -> _Graph:
    accelerators = re.search(r"accelerators=\{([^}]*)\}", head)
    tensors = {name: _tensor(name, dtype, line) for name, dtype, line in _tensor_lines(head)}
    constants = {name for name, _, line in _tensor_lines(head) if "const_payload_size=" in line}
    starts = list(_ENTRY.finditer(body))
    ends = [entry.start() for entry in starts[1:]] + [len(body)] * bool(starts)
    layers = [_layer(m[1], m[3], body[m.end() : end], tensors, constants) for m, end in zip(starts, ends, strict=True)]
    memory = {"weights": sum(int(size) for size in _CONSTANT.findall(head)), "activations": 0}
    for size, rest in _REGION.findall(head):
        if "place=accelerator" in rest and "constant=true" not in rest:
            memory["activations"] += int(size)
    return _Graph((accelerators[1] if accelerators else "").strip(), tuple(layers), memory)


def _tensor_lines(head: str) -> list[tuple[str, str, str]]:
    return [(m[1], m[2], m[0]) for m in _TENSOR.finditer(head)]


def _tensor(name: str, dtype: str, line: str) -> EngineTensor:
    dims = re.search(r"\bdims=\{([-\d ]*)\}", line)
    return EngineTensor(
        name,
        precision_from_text(dtype),
        shape=tuple(int(d) for d in re.findall(r"-?\d{1,18}", dims[1])) if dims else (),
    )


def _layer(
    kind: str, name: str, rest: str, tensors: Mapping[str, EngineTensor], constants: Collection[str]
) -> EngineLayer:
    inputs, outputs = (_operands(rest, word, tensors) for word in ("input", "output"))
    stated = re.search(r'\blayers="([^\n]*?)"(?= |$)', rest)
    # A product of one row (batch 1) is multiplied and summed up element by element: MulSum.
    is_weighted = kind in _PRODUCTS or any(w in name for w in ("gemm", "mha", "MulSum")) or "backbone=" in rest
    if not is_weighted:  # the data first: constants (scales, bounds) say nothing about precision
        inputs = tuple(sorted(inputs, key=lambda tensor: tensor.name in constants))
    is_reformat = not is_weighted and kind == "function" and _MOVES.fullmatch(name) is not None
    return EngineLayer(
        name=name,
        kind=kind,
        onnx_nodes=find_nodes("", stated[1]) if stated else (),
        inputs=inputs,
        outputs=outputs,
        precision=product_precision(inputs, None, name) if is_weighted else data_precision(kind, inputs, outputs),
        is_weighted=is_weighted,
        is_reformat=is_reformat,
        is_idle=kind in _IDLE,
    )


def _operands(rest: str, word: str, tensors: Mapping[str, EngineTensor]) -> tuple[EngineTensor, ...]:
    names = re.search(rf'\b{word}(?:_args)?=\{{((?: *"[^"\n]*")*) *\}}', rest)
    found = re.findall(r'"([^"]+)"', names[1]) if names else []
    return tuple(tensors.get(n.removesuffix("^deref")) or tensors.get(n) or EngineTensor(n) for n in found)


def _seen_from_outside(layer: EngineLayer, inner: Mapping[str, EngineLayer]) -> EngineLayer:
    """A fusion that the GPU compiles multiplies in the precision that its nested graph says."""
    product = next((inner[t.name] for t in layer.outputs if t.name in inner), None)
    if layer.kind != "runtime_fusion" or product is None:
        return layer
    return replace(layer, precision=product.precision)
