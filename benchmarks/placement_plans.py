"""Counts what TensorRT-RTX makes of typical networks, quantized by quantkit and by ModelOpt: no GPU is needed.

python benchmarks/placement_plans.py [--out counts.json] [--modelopt-python PYTHON] [--only NAMES] [--against OLD.json]
                                     [--models FOLDER]

PYTHON is the interpreter of an environment with `nvidia-modelopt[onnx]`, which needs other versions of onnx and ONNX
Runtime than quantkit. Without it, ModelOpt's counts are taken from the file that `--against` names; those of 0.47.0 are
in tests/graph/data/modelopt_counts.json.

Networks: `tests/graph/backbones.py`; FP16 around INT8, ranges from random inputs. Every range of quantkit's is then
widened by up to a tenth, at random, so that no two tensors have one scale by chance. Counted in the plan of each:

- products: convolutions and matrix products that read INT8;
- twice: kernels that write INT8 and half precision, as those do that write a tensor once for each kind of reader;
- pools, kernels: max pools, and everything that is launched;
- Q/DQ: QuantizeLinear and DequantizeLinear nodes of the model, those of weights included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from quantkit.graph.passes.prepare import prepare  # noqa: E402
from tests import rtx  # noqa: E402
from tests.graph.backbones import BACKBONES  # noqa: E402
from tests.graph.quantizing import load, quantize, random_inputs  # noqa: E402

MODELOPT = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
source, inputs, output = sys.argv[1:]
quantize(source, calibration_data=dict(np.load(inputs)), calibration_method="max", calibration_eps=["cpu"],
         output_path=output, log_level="ERROR")
"""


def quantize_by_modelopt(name: str, folder: Path, python: str) -> onnx.ModelProto | None:
    """ModelOpt's model; None where it fails."""
    model = BACKBONES[name]()
    source, inputs, output = (folder / f"{name}{suffix}" for suffix in (".onnx", ".npz", ".modelopt.onnx"))
    onnx.save(model, source)
    np.savez(inputs, **random_inputs(prepare(load(model), name=name)))
    command = [python, "-c", MODELOPT, str(source), str(inputs), str(output)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode or not output.exists():
        print(f"{name}: ModelOpt failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return onnx.load(output)


def table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """A Markdown table: quantkit's counts, and ModelOpt's behind a slash; more than ModelOpt's in bold."""
    fields = list(rtx.KernelCounts.__dataclass_fields__)
    lines = [f"| network | {' | '.join(fields)} |", f"|---|{'---|' * len(fields)}"]
    for name, of in counts.items():
        cells = []
        for field in fields:
            ours, theirs = of["quantkit"][field], of.get("modelopt", {}).get(field)
            worse = theirs is not None and (ours < theirs if field == "products" else ours > theirs)
            cells.append(f"{f'**{ours}**' if worse else ours} / {'-' if theirs is None else theirs}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    parser.add_argument("--modelopt-python", help="Python with nvidia-modelopt[onnx]")
    parser.add_argument("--against", type=Path, help="JSON with ModelOpt's counts")
    parser.add_argument("--models", type=Path, help="folder to keep the quantized models in")
    parser.add_argument("--only", help="names of networks, separated by commas")
    parser.add_argument("--capability", default="SM89", choices=rtx.CAPABILITIES)
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(BACKBONES)
    known = json.loads(arguments.against.read_text()) if arguments.against else {}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.models or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            model = quantize(BACKBONES[name](), high_precision="fp16", spread=0.1).proto
            onnx.save(model, folder / f"{name}.quantkit.onnx")
            counts[name] = {"quantkit": asdict(rtx.count_kernels(model, arguments.capability))}
            if arguments.modelopt_python:
                theirs = quantize_by_modelopt(name, folder, arguments.modelopt_python)
                counts[name] |= {"modelopt": asdict(rtx.count_kernels(theirs, arguments.capability))} if theirs else {}
            elif "modelopt" in known.get(name, {}):
                counts[name]["modelopt"] = known[name]["modelopt"]
    if arguments.out:
        arguments.out.write_text(json.dumps(counts, indent=1) + "\n")
    print(table(counts))


if __name__ == "__main__":
    main()
