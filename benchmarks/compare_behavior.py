"""Records the outputs of a checkout of quantkit, and compares two recordings to verify that nothing changed.

python benchmarks/compare_behavior.py record --checkout DIR --out FOLDER [--cases demo,golden] [--shared DIR]
python benchmarks/compare_behavior.py compare BEFORE AFTER [--cases demo] [--wording]
python benchmarks/compare_behavior.py check --checkout DIR --against FOLDER [--cases demo]

`record` runs the command line of DIR in separate processes, so that old and new code are driven alike. `check` records
into a temporary folder and compares. `compare` and `check` exit with 1 if there is a difference.

These are compared: exit codes; tables and caches, byte for byte; models, node for node and bit for bit; each value in
the JSON of reports, `inspect` and `cache`; the rows of the tables in report.md. These are not: versions, dates, times,
the environment, printed text and HTML. Differences in JSON sentences (notes, warnings, reasons) count as wording: they
are counted, listed with --wording, and do not change the exit code. Both recordings must come from the same machine and
packages, because the floating-point results of ONNX Runtime depend on the processor.

SHARED (default: $QUANTKIT_SHARED, or shared/ beside the repository) holds golden/lenet_mnist, models/ and data/cifar10.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.detector import make_detector, make_images  # noqa: E402
from tests.segmenter import write_metric, write_scenes, write_segmenter  # noqa: E402

IGNORED = {"environment", "commands", "created", "latency", "sweep", "versions"}
"""Members of JSON that differ from run to run, or say where and by what it ran."""
LISTS_OF_SENTENCES = re.compile(r"(^|\.)(notes|warnings|problems)\b")
SENTENCES = re.compile(r"(^|\.)(reason|flag|definition|ground|text|score\.label|skipped\..*|header\[\d+\])$")
UNCOMPARED = {".html", ".log"}
MAX_LISTED = 8
"""Differences listed of one file."""

CALIBRATE = "--calibrator quantkit -q"  # whatever GPU and TensorRT are there
TRT10 = "--tensorrt-version 10.3.0"
STRETCHED = "--preprocess imagenet --resize stretch --num-samples"
CALIBRATIONS = (
    f"{{method}}: calibrate --data input/{{calib}} {{float}} -o {{method}} --method {{method}} {CALIBRATE} {TRT10}"
)
EVALUATIONS = "{out}: evaluate {float} --table {table} -o {out} --latency-s 0 --threads 1 -q --data"
QUANTIZE = """
quantize-tensorrt: quantize {float} --table {table} -o tensorrt.onnx -q --target tensorrt
quantize-tensorrt-fp16: quantize {float} --table {table} -o tensorrt-fp16.onnx -q --high-precision fp16
quantize-cpu: quantize {float} --table {table} -o cpu.onnx -q --target cpu --no-reduce-range
quantize-cpu-reduced: quantize {float} --table {table} -o cpu-reduced.onnx -q --target cpu --reduce-range
"""
CACHES = f"""
quantize-exclude: quantize {{float}} --table {{table}} -o e.onnx --exclude Gemm -q
convert-tensorrt: cache convert {{table}} --to tensorrt -o converted.calib --model {{float}}
convert-table: cache convert {{table}} --to table -o converted.calib.json --model {{float}}
convert-qdq: cache convert {{table}} --to qdq -o converted.onnx --model {{float}}
convert-json: cache convert {{table}} --to json -o converted.json --model {{float}}
convert-ort: cache convert {{table}} --to ort -o converted.ort --model {{float}}
convert-ort-json: cache convert {{table}} --to ort-json -o converted.ort-json --model {{float}}
convert-ort-text: cache convert {{table}} --to ort-text -o converted.ort-text --model {{float}}
convert-cache: cache convert {{cache}} --to table -o of-cache.calib.json --model {{float}}
show-table: cache show --json {{table}}
show-cache: cache show --json {{cache}}
show-ort: cache show --json converted.ort
show-qdq: cache show --json tensorrt.onnx
inspect-table: inspect --json {{table}}
inspect-cache: inspect --json {{cache}}
inspect-float: inspect --json {{float}}
inspect-cpu: inspect --json cpu.onnx
verify-table: cache verify --json {{table}} --model {{float}} {TRT10} --data input/{{calib}}
verify-cache: cache verify --json {{cache}} --model {{float}} {TRT10}
verify-stale: cache verify --json {{cache}} --model {{float}} --tensorrt-version 8.6.1
diff: cache diff --json --all {{table}} minmax/{{model}}.calib
"""
IMPLICIT = f"""
tensorrt: calibrate --data input/{{calib}} {{float}} -o tensorrt {CALIBRATE} --tensorrt-version 7.2.2 \
--histogram tensorrt --order given --batch-size 50 --all-tensors
convert-cache: cache convert tensorrt/{{model}}.calib --to table -o of-cache.calib.json --model {{float}}
show-table: cache show --json tensorrt/{{model}}.calib.json
verify-cache: cache verify --json tensorrt/{{model}}.calib --model {{float}} --tensorrt-version 7.2.2
"""


@dataclass(frozen=True)
class Case:
    """A model, what it is calibrated on and how, commands after that, and evaluations by the name of their folder."""

    inputs: str
    model: str
    calib: str
    options: str
    evaluations: Mapping[str, str]
    methods: str = "entropy mse percentile minmax"
    commands: str = ""

    def steps(self) -> Iterator[tuple[str, str]]:
        """A name, and the words after `quantkit`. What --json prints is kept as NAME.json."""
        methods = self.methods.split()
        first = f"{methods[0]}/{self.model}"
        names = {"model": self.model, "float": f"input/{self.model}.onnx", "calib": self.calib}
        names |= {"table": f"{first}.calib.json", "cache": f"{first}.calib"}
        lines = [f"{CALIBRATIONS.format(**names, method=method)} {self.options}" for method in methods]
        lines += self.commands.format(**names).split("\n")
        lines += [f"{EVALUATIONS.format(**names, out=out)} {words}" for out, words in self.evaluations.items()]
        for line in filter(None, lines):
            name, _, words = line.partition(": ")
            yield name, words


DIGITS, GOLDEN, CIFAR10 = "{checkout}/calib_data/digits", "{shared}/golden/lenet_mnist", "{shared}/data/cifar10"
SQUARES = "input/squares/images --task detect --labels input/squares/annotations.json --detections yolov8"
SCENES = "input/scenes/images --task segment --labels input/scenes/masks"
CUSTOM = "input/scenes/images --task custom --postprocess input/mine.py:red_share --metric input/mine.py:RedError"


def cifar10(model: str) -> Case:
    inputs = f"{{shared}}/models/{model}.onnx {CIFAR10}/calib {CIFAR10}/test"
    report = f"input/test --layer-samples 16 {STRETCHED} 200"
    commands = QUANTIZE + "inspect-int8: inspect --json entropy/{model}.int8.onnx"
    return Case(inputs, model, "calib", f"--batch-size 16 {STRETCHED} 64", {"report": report}, "entropy", commands)


CASES = {
    "demo": Case(
        f"{{checkout}}/examples/digits.onnx {DIGITS}/calib {DIGITS}/val", "digits", "calib", "",
        {"report": "input/val --variant cpu-finished=cpu.onnx"}, commands=QUANTIZE + CACHES,
    ),
    "golden": Case(
        f"{GOLDEN}/lenet.onnx {GOLDEN}/images {GOLDEN}/test", "lenet", "images", "--batch-size 50 --order given",
        {"report": "input/test --num-samples 200 --task none"}, commands=QUANTIZE + IMPLICIT,
    ),
    "detect": Case(
        "{material}/detector.onnx {material}/squares", "detector", "squares/images",
        "--preprocess unit --resize letterbox", {"report": SQUARES}, "minmax",
    ),
    "segment": Case(
        "{material}/net.onnx {material}/mine.py {material}/scenes", "net", "scenes/images",
        "--preprocess unit", {"report": SCENES, "custom": CUSTOM}, "minmax",
    ),
    **{name: cifar10(name) for name in ("resnet20_cifar10", "mobilenetv2_cifar10", "vit_tiny_cifar10")},
}  # fmt: skip


def record(checkout: Path, out: Path, shared: Path, names: Sequence[str], jobs: int) -> None:
    """Runs the cases `names`, `jobs` at once; a sub-folder of `out` for each, which must not exist.

    Raises:
        SystemExit: another quantkit than the checkout's would run, or a command failed.
    """
    if there := [name for name in names if (out / name).exists()]:
        raise SystemExit(f"{out} has a recording of {', '.join(there)} already")
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    where = [sys.executable, "-c", "import quantkit; print(quantkit.__file__)"]
    imported = subprocess.run(where, env=environment, cwd=checkout, capture_output=True, text=True, check=True).stdout
    if not Path(imported.strip()).is_relative_to(checkout.resolve()):
        raise SystemExit(f"{imported.strip()} would run, which is not of {checkout}")
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        material = Path(temporary)
        make_detector(material / "detector.onnx")
        make_images(material / "squares")
        write_segmenter(material / "net.onnx")
        write_scenes(material / "scenes", 40)
        write_metric(material / "mine.py", Path("input/scenes/masks"))
        places = {"checkout": checkout.resolve(), "shared": shared.resolve(), "material": material}
        failures = list(pool.map(lambda name: run_case(CASES[name], out / name, places, environment), names))
    if any(failures):
        raise SystemExit("failed:\n" + "\n".join(line for lines in failures for line in lines))


def run_case(case: Case, folder: Path, places: Mapping[str, Path], environment: Mapping[str, str]) -> list[str]:
    """Runs a case in `folder`, with copies of models and links to data in `input`, so that no machine path is recorded.

    Returns:
        A line for each command that neither succeeded nor said "stale".
    """
    (folder / "input").mkdir(parents=True)
    for path in (Path(text.format(**places)) for text in case.inputs.split()):
        place = folder / "input" / path.name
        place.symlink_to(path) if path.is_dir() else shutil.copyfile(path, place)
    codes, failures = {}, []
    with (folder / "commands.log").open("w") as log:
        for step, words in case.steps():
            command = [sys.executable, "-m", "quantkit", *words.split()]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            log.write(f"$ quantkit {words}\n{done.stderr}{done.stdout}\n")
            codes[step] = done.returncode
            if done.returncode not in (0, 4):
                failures.append(f"{folder.name} {step}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
            elif "--json" in words.split():
                (folder / f"{step}.json").write_text(done.stdout)
    shutil.rmtree(folder / "input")
    (folder / "exit_codes.json").write_text(json.dumps(codes, indent=1))
    return failures


@dataclass(frozen=True)
class Difference:
    """One place in one file; `is_wording` where only a sentence changed."""

    place: str
    text: str
    is_wording: bool = False


def compare(before: Path, after: Path, names: Sequence[str], *, list_wording: bool) -> bool:
    """Prints what differs in the cases `names`; whether nothing does but wording."""
    for folder in (before, after):
        if missing := [name for name in names if not (folder / name).is_dir()]:
            raise SystemExit(f"{folder} has no recording of {', '.join(missing)}")
    contents = [load(folder, names) for folder in (before, after)]
    num_different = num_wording = 0
    for name in sorted(contents[0].keys() | contents[1].keys()):
        if name not in contents[0] or name not in contents[1]:
            found = [Difference("file", "is new" if name in contents[1] else "is gone")]
        else:
            found = list(differences(contents[0][name], contents[1][name]))
        wording = [d for d in found if d.is_wording]
        num_different, num_wording = num_different + len(found) - len(wording), num_wording + len(wording)
        listed = [d for d in found if list_wording or not d.is_wording]
        for difference in listed[:MAX_LISTED]:
            print(f"{name}: {difference.place}: {difference.text}")
        if len(listed) > MAX_LISTED:
            print(f"{name}: and {len(listed) - MAX_LISTED} more")
    print(
        f"{len(contents[0])} files of {', '.join(names)}: {num_different} differences, {num_wording} of wording alone"
    )
    return num_different == 0


def load(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What is compared of each file. Checksums of tables, which depend on versions, become the tables' names."""
    files = [path for name in names for path in sorted((folder / name).rglob("*")) if path.is_file()]
    tables: dict[str, str] = {}
    for path in files:
        if path.name.endswith(".calib.json"):
            tables.setdefault(json.loads(path.read_text())["checksum"], path.relative_to(folder).as_posix())
    return {
        path.relative_to(folder).as_posix(): content(path, tables) for path in files if path.suffix not in UNCOMPARED
    }


def content(path: Path, tables: Mapping[str, str]) -> Any:
    if path.suffix == ".onnx":
        return model_content(onnx.load(path), tables)
    try:
        text = path.read_bytes().decode()  # line ends as they are
    except UnicodeDecodeError:
        return {"bytes": hashlib.sha256(path.read_bytes()).hexdigest()}
    for checksum, name in tables.items():
        text = text.replace(checksum, f"checksum of {name}")
    if path.name.endswith(".calib.json"):
        text = re.sub(r'("versions": )(\{[^}]*\}|"[^"]*")', r"\1-", text)  # themselves, and their digest
    elif path.suffix == ".json":
        return json.loads(text)
    elif path.suffix == ".md":
        return [markdown_table(block) for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    return text.splitlines(keepends=True)


def markdown_table(block: str) -> dict[str, Any]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
    return {"header": rows[0], "rows": rows[2:]}


def model_content(model: onnx.ModelProto, tables: Mapping[str, str]) -> dict[str, Any]:
    graph = model.graph
    return {
        "ir_version": model.ir_version,
        "opsets": {opset.domain: opset.version for opset in model.opset_import},
        "metadata": {entry.key: tables.get(entry.value, entry.value) for entry in model.metadata_props},
        "graph": graph.name,
        "inputs": [str(value) for value in graph.input],
        "outputs": [str(value) for value in graph.output],
        "values": {value.name: str(value) for value in graph.value_info},
        "functions": [str(function) for function in model.functions],
        "initializers": {
            tensor.name: {
                "type": tensor.data_type,
                "shape": list(tensor.dims),
                "bits": hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).hexdigest(),
            }
            for tensor in graph.initializer
        },
        "nodes": [
            {
                "name": node.name,
                "operator": f"{node.domain}:{node.op_type}",
                "inputs": list(node.input),
                "outputs": list(node.output),
                "attributes": {attribute.name: str(attribute) for attribute in node.attribute},
            }
            for node in graph.node
        ],
    }


def differences(before: Any, after: Any, place: str = "") -> Iterator[Difference]:
    if LISTS_OF_SENTENCES.search(place):
        if before != after:
            yield Difference(place, f"{short(before)} → {short(after)}", is_wording=True)
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{place}.{key}" if place else str(key)
            if key not in before or key not in after:
                yield Difference(inner, "is new" if key in after else "is gone")
            elif key not in IGNORED:
                yield from differences(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield Difference(place or "lines", f"{len(before)} → {len(after)} entries")
        for index, (first, second) in enumerate(zip(before, after, strict=False)):
            yield from differences(first, second, f"{place}[{index}]")
    elif repr(before) != repr(after):  # tells 0 from 0.0 and finds NaN equal to itself
        is_wording = isinstance(before, str) and isinstance(after, str) and SENTENCES.search(place) is not None
        yield Difference(place, f"{short(before)} → {short(after)}", is_wording)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    subparsers = {name: commands.add_parser(name) for name in ("record", "compare", "check")}
    for name, subparser in subparsers.items():
        subparser.add_argument("--cases", help=f"some of {','.join(CASES)} (default: all)")
        if name == "compare":
            subparser.add_argument("before", type=Path)
            subparser.add_argument("after", type=Path)
        else:
            default = Path(os.environ.get("QUANTKIT_SHARED") or REPOSITORY.parent / "shared")
            subparser.add_argument("--checkout", type=Path, required=True)
            subparser.add_argument("--shared", type=Path, default=default)
            subparser.add_argument("--jobs", type=int, default=2, help="cases run at once (default: 2)")
        if name != "record":
            subparser.add_argument("--wording", action="store_true", help="list changed sentences too")
    subparsers["record"].add_argument("--out", type=Path, required=True)
    subparsers["check"].add_argument("--against", type=Path, required=True)
    arguments = parser.parse_args()
    names = arguments.cases.split(",") if arguments.cases else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}: there are {', '.join(CASES)}")
    if arguments.command == "record":
        record(arguments.checkout, arguments.out, arguments.shared, names, arguments.jobs)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.command == "check":
            arguments.before, arguments.after = arguments.against, Path(temporary)
            record(arguments.checkout, arguments.after, arguments.shared, names, arguments.jobs)
        is_same = compare(arguments.before, arguments.after, names, list_wording=arguments.wording)
    raise SystemExit(0 if is_same else 1)


if __name__ == "__main__":
    main()
