"""Fuzzes whole commands: random graphs, hostile folders, arrays, labels, tables, caches, reports and options.

The commands of a case run one after the other in a child of one process that has everything imported, within limits of
time and memory; where a command ends that process, the next one begins another. A failure is an exit code that is not
documented, more or less than one error line where there is an error, a traceback, an unexpected error, a file that is
left over, an INT8 model that does not load after exit code 0, or a process that dies or hangs:

    python -m benchmarks.fuzz_commands --processes 8 --seconds 600 --output fuzz.json
    python -m benchmarks.fuzz_commands --case 1234 --keep /tmp/case   # one of them again, its files kept
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.campaign import Commands, Outcome, OutOfTimeError, make_parser, run_campaign, what_is_wrong
from quantkit.calibration.table import load_table

TIMEOUT_S = 300


class Grammar:
    """A graph that grows by random productions, each of which takes the tensor made last.

    Args:
        rng: chooses them.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.numbers = np.random.default_rng(rng.getrandbits(32))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.size, self.width = rng.choice([1, *[8] * 16, 16, 16, 16]), rng.choice([1, *[3] * 18, 4])
        self.sample = [self.width, self.size, self.size]
        self.current, self.is_flat = "x", False
        self.earlier: list[tuple[str, int]] = []
        for i in range(rng.randint(1, 12)):
            self._grow("conv" if i == 0 and rng.random() < 0.9 else rng.choice(PRODUCTIONS))

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node; its output."""
        out = f"t{len(self.nodes)}"
        name = self.rng.choice([f"n{len(self.nodes)}", f"n{len(self.nodes)}", ""])
        self.nodes.append(helper.make_node(operator, inputs, [out], name=name, **attributes))
        return out

    def weight(self, shape: list[int], value: np.ndarray | None = None) -> str:
        """Adds a constant; its name."""
        name = f"w{len(self.weights)}"
        scale = self.rng.choice([*[0.1] * 400, 1e-30, 1e30, 0.0, np.nan, np.inf])
        made = (self.numbers.standard_normal(shape) * scale).astype(np.float32)
        self.weights[name] = made if value is None else value
        return name

    def _grow(self, production: str) -> None:
        rng, x = self.rng, self.current
        if production in ("conv", "up", "norm", "pool", "resize", "pad", "branch", "concat") and self.is_flat:
            production = "gemm"
        made = getattr(self, f"_{production}")(rng, x)
        self.current = made
        self.earlier.append((made, self.width))

    def _conv(self, rng: random.Random, x: str) -> str:
        groups = rng.choice([1, 1, 1, self.width])
        wide, kernel = groups * rng.choice([1, 2, 8]), rng.choice([1, 1, 3])
        weight = self.weight([wide, self.width // groups, kernel, kernel])
        words = [x, weight] + ([self.weight([wide])] if rng.random() < 0.4 else [])
        self.width = wide
        return self.node("Conv", words, pads=[kernel // 2] * 4, group=groups, strides=[rng.choice([1, 1, 1, 2])] * 2)

    def _up(self, rng: random.Random, x: str) -> str:
        weight, self.width = self.weight([self.width, 4, 2, 2]), 4
        return self.node("ConvTranspose", [x, weight], strides=[2, 2])

    def _gemm(self, rng: random.Random, x: str) -> str:
        if not self.is_flat:
            x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
            self.is_flat = True
        wide = rng.choice([1, 5, 10])
        weight, self.width = self.weight([self.width, wide]), wide
        return self.node(rng.choice(["Gemm", "MatMul"]), [x, weight])

    def _relu(self, rng: random.Random, x: str) -> str:
        return self.node(rng.choice(["Relu", "Relu", "LeakyRelu", "HardSwish", "Sigmoid", "Tanh"]), [x])

    def _clip(self, rng: random.Random, x: str) -> str:
        low, high = rng.choice([(0.0, 6.0), (0.0, 6.0), (6.0, 0.0), (-np.inf, np.nan)])
        bounds = [self.weight([], np.array(v, np.float32)) for v in (low, high)]
        return self.node("Clip", [x, *rng.choice([bounds, bounds[:1], ["", bounds[1]]])])

    def _residual(self, rng: random.Random, x: str) -> str:
        same = [name for name, width in self.earlier if width == self.width] or [x]
        return self.node(rng.choice(["Add", "Add", "Mul", "Sub", "Div"]), [x, rng.choice([x, same[-1]])])

    def _norm(self, rng: random.Random, x: str) -> str:
        kind = rng.choice(["BatchNormalization", "BatchNormalization", "InstanceNormalization"])
        count = 4 if kind.startswith("Batch") else 2
        return self.node(kind, [x, *(self.weight([self.width]) for _ in range(count))])

    def _pool(self, rng: random.Random, x: str) -> str:
        return self.node(rng.choice(["MaxPool", "AveragePool"]), [x], kernel_shape=[rng.choice([1, 2, 2, 64])] * 2)

    def _resize(self, rng: random.Random, x: str) -> str:
        scales = np.array([1, 1, *[rng.choice([0.5, 2, 2, 2, 1000])] * 2], np.float32)
        return self.node("Resize", [x, "", self.weight([], scales)], mode=rng.choice(["nearest", "linear"]))

    def _pad(self, rng: random.Random, x: str) -> str:
        pads = np.array([0, 0, 1, 1, 0, 0, 1, rng.choice([1, 1, -1, -40])], np.int64)
        return self.node("Pad", [x, self.weight([], pads)], mode=rng.choice(["constant", "reflect", "edge"]))

    def _branch(self, rng: random.Random, x: str) -> str:
        before = self.width
        first, second = self.node("Relu", [self._conv(rng, x)]), self.node("Relu", [x])
        self.width += before
        return self.node("Concat", [first, second], axis=1)

    def _concat(self, rng: random.Random, x: str) -> str:
        self.width *= 2
        return self.node("Concat", [x, x], axis=rng.choice([1, 1, 1, 1, -9]))

    def _odd(self, rng: random.Random, x: str) -> str:
        names = ["Sqrt", "Log", "Reciprocal", "Erf", "Exp", "Identity", "Neg", "NoSuch", "Abs", "Softplus", "NonZero"]
        return self.node(rng.choice(names), [x])

    def _constant(self, rng: random.Random, x: str) -> str:
        return self.node("Add", [x, self.weight([])])

    def _random(self, rng: random.Random, x: str) -> str:
        return self.node(rng.choice(["RandomNormalLike", "Bernoulli", "Dropout"]), [x])

    def _softmax(self, rng: random.Random, x: str) -> str:
        return self.node(rng.choice(["Softmax", "LogSoftmax"]), [x], axis=rng.choice([-1, 1, 1, 0, 9]))

    def _cast(self, rng: random.Random, x: str) -> str:
        half = self.node("Cast", [x], to=rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, 99]))
        return self.node("Cast", [half], to=TensorProto.FLOAT) if rng.random() < 0.9 else half

    def _reshape(self, rng: random.Random, x: str) -> str:
        self.is_flat = True
        shape = np.array(rng.choice([[0, -1], [-1], [7, 7], [0, 0, -1]]), np.int64)
        return self.node("Reshape", [x, self.weight([], shape)])

    def _transpose(self, rng: random.Random, x: str) -> str:
        there = rng.choice([[0, 2, 3, 1], [0, 1, 3, 2], [1, 0]])
        back = [there.index(i) for i in range(len(there))]
        return self.node("Transpose", [self.node("Transpose", [x], perm=there)], perm=back)

    def _attend(self, rng: random.Random, x: str) -> str:
        turned = self.node("Transpose", [x], **({"perm": [0, 1, 3, 2]} if not self.is_flat else {}))
        return self.node("MatMul", [self.node("Softmax", [self.node("MatMul", [x, turned])]), x])

    def _choice(self, rng: random.Random, x: str) -> str:
        condition = self.weight([], np.array(rng.choice([True, False])))
        if rng.random() < 0.3:
            condition = self.node("Less", [self.node("ReduceSum", [x], keepdims=0), self.weight([])])
        graphs = []
        for label, operator in (("then", "Relu"), ("else", rng.choice(["Neg", "Identity", "Sigmoid"]))):
            out = f"{label}{len(self.nodes)}"
            info = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
            graphs.append(helper.make_graph([helper.make_node(operator, [x], [out])], label, [], [info]))
        return self.node("If", [condition], then_branch=graphs[0], else_branch=graphs[1])

    def _function(self, rng: random.Random, x: str) -> str:
        name = f"block{len(self.functions)}"
        body = [helper.make_node("Relu", ["a"], ["m"]), helper.make_node("Mul", ["m", "a"], ["b"])]
        if self.functions and rng.random() < 0.5:
            body.insert(
                0, helper.make_node(self.functions[-1].name, ["m" if rng.random() < 0.1 else "a"], ["c"], domain="own")
            )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        self.functions.append(helper.make_function("own", name, ["a"], ["b"], body, opsets))
        return self.node(name, [x], domain="own")


PRODUCTIONS = (
    *["conv"] * 9,
    *["gemm"] * 5,
    *["relu"] * 6,
    *["residual"] * 4,
    *["norm", "pool", "clip", "concat", "branch"] * 2,
    *["up", "resize", "pad", "odd", "constant", "random", "softmax", "cast", "reshape", "transpose", "attend"],
    *["choice", "function"],
)


def make_graph(rng: random.Random, path: Path) -> list[int]:
    """Writes a model of the grammar, at times damaged or with weights in a file; the shape of a sample."""
    made = Grammar(rng)
    rank = rng.choice([*[2 if made.is_flat else 4] * 12, 3, None])
    dims = None if rank is None else [f"o{i}" for i in range(rank)]
    outputs = [helper.make_tensor_value_info(made.current, rng.choice([*[1] * 20, 7, 10]), dims)]
    if made.earlier and rng.random() < 0.1:
        outputs.append(helper.make_tensor_value_info(rng.choice(made.earlier)[0], 1, None))
    if rng.random() < 0.03:
        node = rng.choice(made.nodes)
        if node.input:
            wrong = ["", "nowhere", made.current, "\u202e", "a" * 70_000]
            node.input[rng.randrange(len(node.input))] = rng.choice(wrong)
    shape = [rng.choice(["n", "n", "n", "n", 1, 2, None]), *made.sample]
    if rng.random() < 0.08:
        shape[rng.randrange(4)] = rng.choice(["h", "h", None, 0, -1, 1 << 40])
    inputs = [helper.make_tensor_value_info("x", rng.choice([*[1] * 40, 10, 2, 7]), shape)]
    if rng.random() < 0.03:
        inputs.append(helper.make_tensor_value_info("z", 1, [1]))
    tensors = [numpy_helper.from_array(value, name) for name, value in made.weights.items()]
    graph = helper.make_graph(made.nodes, rng.choice([*["g"] * 9, ""]), inputs, outputs, tensors)
    opsets = [
        helper.make_opsetid("", rng.choice([*[17] * 60, 13, 13, 11, 7, 21, 21, 3, 99])),
        helper.make_opsetid("own", 1),
    ]
    ir = rng.choice([*[8] * 60, 3, 99])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=made.functions)
    if rng.random() < 0.06:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        if rng.random() < 0.5:
            damage(rng, path.with_name("weights.bin"))
    else:
        onnx.save(model, path)
    if rng.random() < 0.04:
        damage(rng, path)
    return made.sample


def damage(rng: random.Random, path: Path) -> None:
    """Changes bytes of a file, or values where it is JSON, or cuts it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        try:
            data = json.loads(content)
        except ValueError:
            return
        for _ in range(rng.randint(1, 3)):
            _damage_value(rng, data)
        path.write_text(json.dumps(data), errors="surrogatepass")
        return
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    path.write_bytes(changed[: rng.choice([len(changed), len(changed), rng.randrange(len(changed) + 1)])])


def _damage_value(rng: random.Random, data: Any) -> None:
    """Replaces or removes one value in nested lists and objects."""
    while data and isinstance(data, list | dict):
        key = rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
        if data[key] and isinstance(data[key], list | dict) and rng.random() < 0.85:
            data = data[key]
            continue
        if rng.random() < 0.2 and isinstance(data, dict):
            del data[key]
        else:
            data[key] = rng.choice(VALUES)
        return


VALUES = (None, -1, 0, 1e308, float("nan"), float("-inf"), 10**40, "", "x", "\ud800", "a\nb", [], {}, [[[]]], True)


def make_labels(rng: random.Random, folder: Path, data: Path) -> list[str]:
    """Options that name labels: right, wrong, or for another task."""
    kind = rng.choice(["none", "none", "none", "csv", "txt", "json", "folder", "task"])
    if kind == "none":
        return []
    if kind == "task":
        return ["--task", rng.choice(["none", "embed", "image", "segment", "detect", "classify"])]
    file = folder / f"labels.{kind}"
    names = sorted(path.name for path in data.rglob("*")) if data.is_dir() else [str(i) for i in range(12)]
    rows = [(name, rng.choice([0, 1, 4, -1, 999, "a", "", "nan"])) for name in names]
    if kind == "folder":
        file.mkdir()
        return ["--labels", str(file), "--task", rng.choice(["segment", "detect", "image"])]
    if kind == "json":
        images = [{"id": i, "file_name": name, "width": 8, "height": 8} for i, (name, _) in enumerate(rows)]
        boxes = [
            {"id": i, "image_id": i, "category_id": 0, "bbox": [0, 0, rng.choice([4, 0, -4]), 4], "area": 16}
            for i in range(len(rows))
        ]
        coco = {"images": images, "annotations": boxes, "categories": [{"id": 0, "name": "a"}]}
        file.write_text(json.dumps(coco))
        words = ["--task", "detect", "--detections", rng.choice(["yolov8", "yolov5", "nms", "x"])]
    else:
        head = rng.choice(["path,label\n", "path,label\n", "", "label\n", "a,b,c\n"])
        file.write_text(head + "".join(f"{name},{label}\n" for name, label in rows), errors="surrogateescape")
        words = []
    if rng.random() < 0.2:
        damage(rng, file)
    return ["--labels", str(file), *words]


def make_images(rng: random.Random, folder: Path) -> None:
    """Images of all modes, among links, pipes, text and damage."""
    folder.mkdir()
    classes = rng.choice([[""], [""], ["a", "b"], ["0", "1"], ["1", "x"], [os.fsdecode(b"caf\xe9"), "\u202eb", "c\nd"]])
    for i in range(rng.choice([0, 1, 6, *[12] * 12])):
        place = folder / rng.choice(classes)
        place.mkdir(exist_ok=True)
        file = place / f"{i}{rng.choice(['.png', '.png', '.jpg', '.bmp', '.tif', '.gif', '.webp'])}"
        mode = rng.choice([*["RGB"] * 60, "L", "P", "1", "RGBA", "I;16", "F", "CMYK"])
        side = rng.choice([1, 8, 8, 30, 300])
        try:
            Image.new(mode, (side, rng.choice([side, 1])), rng.choice([0, 1])).save(file)
        except (OSError, ValueError, KeyError):
            Image.new("RGB", (8, 8)).save(file)
        if rng.random() < 0.015:
            content = file.read_bytes()
            file.write_bytes(rng.choice([b"", b"text", content[: len(content) // 2], content[::-1]]))
    if rng.random() < 0.3:
        (folder / "up").symlink_to(rng.choice(["..", ".", "gone", "/dev/zero"]))
    if rng.random() < 0.1:
        os.mkfifo(folder / "pipe.png")
        (folder / "zero.png").symlink_to("/dev/zero")


def make_arrays(rng: random.Random, path: Path, sample: list[int]) -> None:
    numbers = np.random.default_rng(rng.getrandbits(32))
    shape = [
        rng.choice([0, 1, 5, *[12] * 9]),
        rng.choice([1, 3, 3, 3]),
        *[rng.choice([1, 8, 8, 8])] * rng.choice([1, *[2] * 6]),
    ]
    if rng.random() < 0.93:
        shape[1:] = sample
    array = (numbers.standard_normal(shape) * rng.choice([*[1] * 9, 1e30])).astype(
        rng.choice([*["f4"] * 24, "f8", "u1", "i8"])
    )
    if rng.random() < 0.06 and array.size and array.dtype.kind == "f":
        array.flat[0] = np.nan
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        labels = rng.choice(
            [{}, {}, {"labels": numbers.integers(rng.choice([0, 0, 0, -1]), 20, rng.choice([*[shape[0]] * 5, 3]))}]
        )
        np.savez(path, **{rng.choice([*["x"] * 12, "y"]): array}, **labels)
    if rng.random() < 0.04:
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])


NUMBERS = ("0", "1", "4", "-1", "nan", "1e400", "0.5", str(10**30), "x", "")
OPTIONS = {
    "calibrate": (
        *("--num-samples", "--batch-size", "--seed", "--workers", "--size", "--mean", "--std", "--scale", "--crops"),
        *("--percentile", "--min-readable", "--pixel-max", "--multiple-of", "--pad-value", "--color", "--resize"),
        *("--method", "--target", "--format", "--block-size", "--device", "--histogram", "--rounding", "--exclude"),
    ),
    "evaluate": (
        "--num-samples",
        "--batch-size",
        "--batch-sizes",
        "--layer-samples",
        "--threads",
        "--variants",
        "--gate",
    ),
    "quantize": ("--exclude", "--format", "--target", "--high-precision"),
    "compare": ("--max-drop", "--min-agreement", "--min-speedup", "--max-size-ratio", "--variant"),
}
WORDS = (
    "int8",
    "fp8",
    "int4",
    "int4+int8",
    "fp16",
    "onnxruntime",
    "tensorrt",
    "entropy",
    "mse",
    "percentile",
    "Conv*",
    "*",
)


def make_steps(rng: random.Random, folder: Path) -> list[list[str] | Callable[[], None]]:
    """Files in `folder`, and what is typed, or happens to the files, one after the other."""
    model = folder / rng.choice(["net.onnx", "net.onnx", "net.onnx", os.fsdecode(b"n\xe9t.onnx"), "a b\n.onnx"])
    sample = make_graph(rng, model)
    data = folder / rng.choice(["imgs", "imgs", "x.npy", "x.npz"])
    if data.suffix:
        make_arrays(rng, data, sample)
    else:
        make_images(rng, data)
    out = folder / "out"
    table, report = out / f"{model.stem}.calib.json", out / "report" / "report.json"
    samples = ["--data", str(data), str(model)]
    effort = rng.choice([["--accuracy", "fast"], ["--accuracy", "fast"], ["--method", "minmax"], []])
    labels = make_labels(rng, folder, data)
    steps: list[list[str] | Callable[[], None]] = [
        ["calibrate", *samples, "-o", str(out), *effort, *rng.choice([[], ["--keep-statistics"]])],
        ["quantize", str(model), "--table", str(table), "-o", str(out / "again.onnx")],
        ["evaluate", *samples, "--table", str(table), "-o", str(out / "report"), "--latency-s=0", *labels],
        ["report", str(report)],
        *rng.sample(
            [
                ["inspect", str(rng.choice([model, out / f"{model.stem}.int8.onnx"]))],
                ["compare", str(report), "--max-drop=1"],
                ["cache", "show", str(out / f"{model.stem}.calib")],
                ["cache", "verify", str(table), "--model", str(model)],
                [
                    "cache",
                    "convert",
                    str(table),
                    "--to",
                    rng.choice(["tensorrt", "onnxruntime", "x"]),
                    "-o",
                    str(out / "c"),
                ],
                ["cache", "merge", str(out / f"{model.stem}.calib.stats"), "-o", str(out / "merged.calib.json")],
                ["calibrate", *samples, "-o", str(out), *effort],
                ["data", "check", *samples],
            ],
            2,
        ),
    ]
    for step in steps:
        if isinstance(step, list) and OPTIONS.get(step[0]) and rng.random() < 0.12:
            step.append(f"{rng.choice(OPTIONS[step[0]])}={rng.choice([*NUMBERS, *WORDS])}")
    if rng.random() < 0.3:
        stem = model.stem
        names = [
            f"{stem}.calib.json",
            f"{stem}.calib",
            f"{stem}.calib.weights",
            f"{stem}.int8.onnx",
            f"{stem}.calib.stats",
        ]
        broken = out / rng.choice([*names, "report/report.json"])
        steps.insert(rng.randint(1, 5), lambda: damage(rng, broken))
    return steps if rng.random() < 0.8 else rng.sample(steps, 3)


def what_is_unusable(words: list[str], folder: Path) -> str:
    """What was made by a command that ended well, and does not load."""
    if (folder / "weights.bin").exists() or any("fp8" in word or "int4" in word for word in words):
        return ""
    out = folder / "out"
    try:
        for path in out.glob("*.calib.json") if words[0] == "calibrate" else []:
            load_table(path)
        for path in out.glob("*.int8.onnx" if words[0] == "calibrate" else "again.onnx"):
            if words[0] in ("calibrate", "quantize"):
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # An operator that nobody knows is left to a plugin of TensorRT.
        return "" if "No Op registered" in str(error) else f"made what does not load: {error}"
    return ""


def run(words: list[str], commands: Commands, timeout: float) -> tuple[str, str]:
    """What is wrong with one command, "" if nothing is, and how it ended."""
    code, unusable = commands.run(words, timeout)
    if code is None and timeout < TIMEOUT_S:
        raise OutOfTimeError
    is_verdict = words[:2] in (["cache", "verify"], ["data", "check"])
    wrong = what_is_wrong(code, commands.said(), is_verdict=is_verdict)
    return wrong or (unusable if code == 0 else ""), f"{words[0]} {code}"


def make_case(_: Path, end: float) -> Callable[[int, Path], Outcome]:
    """See `run_campaign`."""

    def run_case(number: int, folder: Path) -> Outcome:
        rng = random.Random(number)
        files, side = folder / "files", folder / "side"
        files.mkdir()
        side.mkdir()
        outcome = Outcome()
        commands = Commands(lambda words: what_is_unusable(words, files), side)
        for step in make_steps(rng, files):
            if not isinstance(step, list):
                step()
                continue
            what, ended = run(step, commands, min(TIMEOUT_S, max(0.1, end - time.monotonic())))
            outcome.ends.append(ended)
            if what:
                typed = " ".join(step).replace(f"{files}/", "")
                outcome.failures.append(f"{typed[:300]}: {what}")
        commands.end()
        left = [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".lock")) or "quantkit-run-" in p.name]
        outcome.failures += [f"left {path.name}" for path in left]
        return outcome

    return run_case


if __name__ == "__main__":
    sys.exit(run_campaign(make_parser(__doc__).parse_args(), make_case))
