"""What TensorRT-RTX makes of the INT8 models of published_models.py: no GPU is needed.

python benchmarks/published_plans.py FOLDER [--only NAME,...] [--high-precision fp16]

FOLDER is that of `published_models.py`, which has calibrated the models there. Each is quantized from its table and
built for compute capability 8.9, shapes that vary as `SHAPES` says. Prints the Markdown table of
docs/measurements/published_models.md: products that the model has in INT8, how many of them read INT8 in the plan, and
all that is launched.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
from published_models import MODELS

import quantkit
from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan
from quantkit.graph.passes.prepare import WEIGHTED_OPS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import rtx

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "nudenet": {"images": (1, 3, 320, 320)},
    "ocr_recognition": {"x": (1, 3, 48, 320)},
    "ocr_detection": {"x": (1, 3, 736, 736)},
    "orientation": {"x": (1, 3, 224, 224)},
    "minilm": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 128)),
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
}


def claimed_in_int8(model: onnx.ModelProto) -> set[str]:
    """Nodes whose operands are both dequantized."""
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = (node for node in model.graph.node if node.op_type in WEIGHTED_OPS)
    return {node.name for node in products if dequantized.issuperset(node.input[:2])}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--high-precision", choices=["fp32", "fp16"], default="fp32", help="around INT8")
    arguments = parser.parse_args()
    print("| model | in INT8 | in the plan | kernels | missing |\n|---|---|---|---|---|")
    for name in arguments.only.split(",") if arguments.only else MODELS:
        source = arguments.folder / "models" / MODELS[name].file
        table = source.with_suffix(".calib.json")
        if not table.exists():
            print(f"{name}: no {table}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / source.name
            made = quantkit.quantize(source, table, target, high_precision=arguments.high_precision)
            model = onnx.load(target)
        plan = rtx.build(model.SerializeToString(), batch=1, capabilities=["SM89"], shapes=SHAPES.get(name))
        claimed, read = claimed_in_int8(model), read_plan(plan)
        found = rtx.int8_nodes(rtx.read_layers(plan), claimed)
        kernels = "" if read is None else sum(not layer.is_idle for layer in read.layers)
        cells = f"{name} | {len(claimed)} of {made.num_weighted} | {len(found)} | {kernels}"
        print(f"| {cells} | {', '.join(sorted(claimed - found))} |", flush=True)


if __name__ == "__main__":
    main()
