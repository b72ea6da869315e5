"""Fuzzes whole commands: random graphs, hostile folders, arrays, labels and options, within limits of time and memory.

Each case is a child of one process that has everything imported. A failure is an exit code that is not documented, more
or less than one error line where there is an error, a traceback, an unexpected error, or a child that dies or hangs:

    python benchmarks/fuzz_commands.py --seconds 600 --seed 0
    python benchmarks/fuzz_commands.py --case 1234 --keep /tmp/case   # one of them again, its files kept
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

import quantkit.commands.calibrate
import quantkit.commands.evaluate
import quantkit.commands.inspect
import quantkit.commands.quantize  # noqa: F401
from quantkit.cli import load_command, main

TIMEOUT_S = 60
MEMORY_BYTES = 6 << 30
CODES = {0, 1, 2, 3, 4}


def make_graph(rng: random.Random, path: Path) -> list[int]:
    """A grammar: blocks of convolutions, products, residuals and odd operators, at times damaged; its input's shape."""
    size, channels = rng.choice([1, 8, 8, 8, 16]), rng.choice([1, 3, 3, 3, 3, 3, 4])
    batch = rng.choice(["n", "n", "n", 1, 2, None])
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    numbers = np.random.default_rng(rng.getrandbits(32))
    current, width, flat = "x", channels, False
    for i in range(rng.randint(1, 8)):
        out = f"t{i}"
        kinds = ["conv", "conv", "conv", "relu", "relu", "residual", "norm", "gemm", "gemm"]
        kind = "conv" if i == 0 else rng.choice([*kinds * 3, "odd", "constant", "random", "softmax", "reshape"])
        scale = rng.choice([*[0.1] * 40, 1e-30, 1e30, 0.0, np.nan, np.inf])
        if kind == "conv" and not flat:
            wide, kernel = rng.choice([1, 2, 8]), rng.choice([1, 1, 3])
            weights[f"w{i}"] = (numbers.standard_normal((wide, width, kernel, kernel)) * scale).astype(np.float32)
            pads = [kernel // 2] * 4
            nodes.append(helper.make_node("Conv", [current, f"w{i}"], [out], pads=pads, name=rng.choice([f"c{i}", ""])))
            width = wide
        elif kind == "gemm":
            if not flat:
                nodes.append(helper.make_node("GlobalAveragePool", [current], [f"g{i}"]))
                nodes.append(helper.make_node("Flatten", [f"g{i}"], [f"f{i}"]))
                current, flat = f"f{i}", True
            wide = rng.choice([1, 5, 10])
            weights[f"w{i}"] = (numbers.standard_normal((width, wide)) * scale).astype(np.float32)
            nodes.append(helper.make_node(rng.choice(["Gemm", "MatMul"]), [current, f"w{i}"], [out]))
            width = wide
        elif kind == "residual":
            nodes.append(helper.make_node(rng.choice(["Add", "Mul", "Sub", "Div"]), [current, current], [out]))
        elif kind == "norm" and not flat:
            for name in "abmv":
                weights[f"{name}{i}"] = np.abs(numbers.standard_normal(width)).astype(np.float32)
            nodes.append(helper.make_node("BatchNormalization", [current, *(f"{n}{i}" for n in "abmv")], [out]))
        elif kind == "odd":
            operators = ["Sqrt", "Log", "Reciprocal", "Erf", "Exp", "Identity", "Neg", "NoSuch", "Sigmoid", "HardSwish"]
            nodes.append(helper.make_node(rng.choice(operators), [current], [out]))
        elif kind == "constant":
            weights[f"k{i}"] = np.full((), scale, np.float32)
            nodes.append(helper.make_node("Add", [current, f"k{i}"], [out]))
        elif kind == "random":
            nodes.append(helper.make_node(rng.choice(["RandomNormalLike", "Bernoulli", "Dropout"]), [current], [out]))
        elif kind == "softmax":
            nodes.append(helper.make_node("Softmax", [current], [out], axis=rng.choice([-1, 0, 1, 9])))
        elif kind == "reshape":
            weights[f"s{i}"] = np.array(rng.choice([[0, -1], [-1], [7, 7], [0, 0, -1]]), np.int64)
            nodes.append(helper.make_node("Reshape", [current, f"s{i}"], [out]))
            flat = True
        else:
            nodes.append(helper.make_node("Relu", [current], [out]))
        current = out
    outputs = [helper.make_tensor_value_info(current, rng.choice([*[1] * 20, 7, 10]), None)]
    if rng.random() < 0.08:
        node = rng.choice(nodes)
        if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(["", "nowhere", current, "\u202e", "a" * 70_000])
    shape = [batch, channels, rng.choice([*[size] * 12, "h", None, 0, -1]), size]
    inputs = [helper.make_tensor_value_info("x", rng.choice([*[1] * 20, 10, 2, 7]), shape)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, rng.choice(["g", ""]), inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", rng.choice([*[17] * 30, 13, 11, 7, 21, 3, 99]))]
    content = helper.make_model(
        graph, opset_imports=opsets, ir_version=rng.choice([*[8] * 20, 3, 99])
    ).SerializeToString()
    if rng.random() < 0.1:
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        content = bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
    path.write_bytes(content)
    return [channels, size, size]


def make_images(rng: random.Random, folder: Path) -> None:
    """Images of all modes, among links, pipes, text and damage."""
    folder.mkdir()
    classes = rng.choice([[""], [""], ["a", "b"], ["0", "1"], ["1", "x"], [os.fsdecode(b"caf\xe9"), "\u202eb", "c\nd"]])
    for i in range(rng.choice([0, 1, 6, 12, 12])):
        place = folder / rng.choice(classes)
        place.mkdir(exist_ok=True)
        file = place / f"{i}{rng.choice(['.png', '.png', '.jpg', '.bmp', '.tif', '.gif', '.webp'])}"
        mode = rng.choice(["RGB", "RGB", "RGB", "L", "P", "1", "RGBA", "I;16", "F", "CMYK"])
        side = rng.choice([1, 8, 8, 30, 300])
        try:
            Image.new(mode, (side, rng.choice([side, 1])), rng.choice([0, 1])).save(file)
        except (OSError, ValueError, KeyError):
            file.write_bytes(b"")
        if rng.random() < 0.03:
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
        rng.choice([0, 1, 5, 12, 12]),
        rng.choice([1, 3, 3, 3]),
        *[rng.choice([1, 8, 8, 8])] * rng.choice([1, *[2] * 6]),
    ]
    if rng.random() < 0.8:
        shape[1:] = sample
    array = (numbers.standard_normal(shape) * rng.choice([*[1] * 9, 1e30])).astype(
        rng.choice([*["f4"] * 6, "f8", "u1", "i8"])
    )
    if rng.random() < 0.2 and array.size and array.dtype.kind == "f":
        array.flat[0] = np.nan
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        labels = rng.choice([{}, {"labels": numbers.integers(-1, 20, rng.choice([shape[0], 3]))}])
        np.savez(path, **{rng.choice(["x", "x", "y"]): array}, **labels)
    if rng.random() < 0.1:
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])


NUMBERS = ("0", "1", "4", "-1", "nan", "1e400", "0.5", str(10**30), "x", "")
OPTIONS = {
    "calibrate": (
        *(
            "--num-samples",
            "--batch-size",
            "--seed",
            "--workers",
            "--size",
            "--mean",
            "--std",
            "--scale",
            "--pad-value",
        ),
        *("--percentile", "--min-readable", "--pixel-max", "--multiple-of"),
    ),
    "evaluate": ("--num-samples", "--batch-size", "--batch-sizes", "--layer-samples", "--threads"),
    "inspect": (),
    "quantize": ("--exclude",),
}


def make_commands(rng: random.Random, folder: Path) -> list[list[str]]:
    """Files in `folder`, and what is typed one after the other."""
    model = folder / rng.choice(["net.onnx", "net.onnx", os.fsdecode(b"n\xe9t.onnx")])
    sample = make_graph(rng, model)
    data = folder / rng.choice(["imgs", "imgs", "x.npy", "x.npz"])
    if data.suffix:
        make_arrays(rng, data, sample)
    else:
        make_images(rng, data)
    out = folder / "out"
    table = out / f"{model.stem}.calib.json"
    effort = rng.choice([["--accuracy", "fast"], ["--accuracy", "fast"], ["--method", "minmax"], []])
    commands = [
        ["calibrate", "--data", str(data), str(model), "-o", str(out), *effort],
        ["quantize", str(model), "--table", str(table), "-o", str(out / "again.onnx")],
        [
            "evaluate",
            "--data",
            str(data),
            str(model),
            "--table",
            str(table),
            "-o",
            str(out / "report"),
            "--latency-s=0",
        ],
        ["inspect", str(model)],
    ]
    for command in commands:
        if OPTIONS[command[0]] and rng.random() < 0.3:
            command.append(f"{rng.choice(OPTIONS[command[0]])}={rng.choice(NUMBERS)}")
    return commands if rng.random() < 0.7 else rng.sample(commands, 2)


def run(words: list[str]) -> tuple[str, str]:
    """What is wrong with one command, "" if nothing is, and how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        said, code = io.StringIO(), 0
        logging.getLogger("quantkit").propagate = False
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                main(words)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException as error:
                code = -1
                said.write(f"{type(error).__name__}: {error}")
        with open(writing, "wb") as file:
            file.write(json.dumps([code, said.getvalue()[-4000:]]).encode())
        os._exit(0)
    os.close(writing)
    deadline, status = time.monotonic() + TIMEOUT_S, None
    with open(reading, "rb") as file:
        os.set_blocking(reading, False)
        answer = b""
        while time.monotonic() < deadline:
            answer += file.read() or b""
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                answer += file.read() or b""
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"longer than {TIMEOUT_S} s", "hangs"
    if not answer:
        return f"died with status {status}", "dies"
    code, said = json.loads(answer)
    errors = [line for line in said.splitlines() if line.startswith("quantkit: error:")]
    if code not in CODES:
        return f"exit code {code}: {said[-300:]}", "other"
    if "Traceback" in said or "unexpected" in said:
        return f"unexpected: {said[-500:]}", "other"
    if len(errors) != (code in (1, 2, 4)):
        return f"{len(errors)} error lines with exit code {code}: {said[-300:]}", "other"
    return "", f"{words[0]} {code}"


def run_case(number: int, keep: Path | None) -> tuple[list[str], list[str]]:
    """What went wrong in one case, and how its commands ended."""
    rng = random.Random(number)
    folder = keep or Path(tempfile.mkdtemp(prefix="fuzz-commands-"))
    folder.mkdir(exist_ok=True)
    wrong, ends = [], []
    try:
        for words in make_commands(rng, folder):
            what, end = run(words)
            ends.append(end)
            if what:
                wrong.append(f"case {number}: {' '.join(words[:1] + words[3:])[:200]!r}: {what}")
        wrong += [f"case {number}: left {path.name!r}" for path in folder.rglob(".*.tmp")]
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return wrong, ends


def main_of_benchmark() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="this one only")
    parser.add_argument("--keep", type=Path, help="folder for the files of --case")
    given = parser.parse_args()
    for verb in OPTIONS:
        load_command(verb)
    end, number, ends, failures = time.monotonic() + given.seconds, given.seed, Counter[str](), 0
    while given.case is not None or time.monotonic() < end:
        wrong, ended = run_case(given.case if given.case is not None else number, given.keep)
        ends.update(ended)
        failures += len(wrong)
        for line in wrong:
            print(ascii(line), flush=True)
        number += 1
        if given.case is not None:
            break
    print(
        f"{number - given.seed} cases, {sum(ends.values())} commands, {failures} failures: {dict(ends.most_common())}"
    )


if __name__ == "__main__":
    main_of_benchmark()
