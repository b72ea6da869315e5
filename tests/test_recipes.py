"""Follows each recipe of CONTRIBUTING.md in a copy of the package, through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.cli.conftest import conv_model, write_images

ROOT = Path(__file__).parents[1]
RECIPES = dict(
    re.findall(
        r"^`(quantkit/\S+\.py)`.*?^```python\n(.*?)^```",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
)

EDITS = re.findall(
    r"^```diff\n--- (\S+)\n(.*?)^```",
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package for all recipes, so that it is compiled once."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "quantkit", folder / "quantkit", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def command(package, tmp_path):
    """Writes the file of a recipe and runs the command line of the copied package in a folder with model and images."""
    conv_model(tmp_path / "net.onnx")
    for index in range(4):
        folder = tmp_path / "images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")

    def run(recipe: str, words: str) -> str:
        (file,) = (name for name in RECIPES if name.endswith(f"/{recipe}.py"))
        (package / file).write_text(RECIPES[file], encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "quantkit", *words.split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    for file in (*RECIPES, *(file for file, _ in EDITS)):
        if (ROOT / file).exists():
            shutil.copy2(ROOT / file, package / file)
        else:
            (package / file).unlink(missing_ok=True)


def variants(folder: Path) -> dict[str, dict]:
    report = json.loads((folder / "net.report" / "report.json").read_text(encoding="utf-8"))
    return {evaluation["name"]: evaluation for evaluation in report["evaluations"]}


def test_a_calibration_method_has_an_option_of_its_own(command, tmp_path):
    printed = command("sigma", "calibrate net.onnx --accuracy fast --data images --method sigma --sigmas 1.5")
    assert "sigma 1.5" in printed
    table = json.loads((tmp_path / "net.calib.json").read_text(encoding="utf-8"))
    assert (table["settings"]["method"], table["settings"]["sigmas"]) == ("sigma", 1.5)
    assert command("sigma", "calibrate --help-all").count("--sigmas") == 1


def test_an_image_preset_decides_how_images_are_prepared(command, tmp_path):
    write_images(tmp_path / "large", 8, size=(16, 12))  # images of the model's size are taken as they are
    command("inception", "calibrate net.onnx --accuracy fast --data large --preprocess inception")
    table = json.loads((tmp_path / "net.calib.json").read_text(encoding="utf-8"))
    assert table["preprocessing"]["scale"] == 1 / 127.5
    assert table["preprocessing"]["shorter_side"] == 9


def test_a_metric_is_computed_where_its_scope_is_compared(command, tmp_path):
    words = "evaluate net.onnx --data images --task none --latency-s 0 --layer-samples 0 --batch-size"
    command("psnr", f"{words} 4")
    found = variants(tmp_path)
    assert "psnr_db" not in found["fp32"]["metrics"]
    assert found["fp16"]["metrics"]["psnr_db"] > 40
    command("psnr", f"{words} 1")
    assert variants(tmp_path)["fp16"]["metrics"] == pytest.approx(found["fp16"]["metrics"])


def test_a_report_column_is_shown_in_every_form(command, package, tmp_path):
    words = "evaluate net.onnx --data images --task none --latency-s 0 --layer-samples 0"
    assert "PSNR" not in command("psnr", words)
    for file, edit in EDITS:
        lines = edit.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        source = (package / file).read_text(encoding="utf-8")
        assert source.count(before) == 1
        (package / file).write_text(source.replace(before, after), encoding="utf-8")
    assert "PSNR" in command("psnr", words)
    report = tmp_path / "net.report"
    assert "PSNR, dB" in (report / "report.md").read_text(encoding="utf-8")
    assert 'data-field="psnr_db"' in (report / "report.html").read_text(encoding="utf-8")
    assert "Peak signal-to-noise ratio" in (report / "report.html").read_text(encoding="utf-8")


def test_a_task_has_a_score(command, tmp_path):
    command("stable", "evaluate net.onnx --data images --task stable --latency-s 0 --layer-samples 0")
    found = variants(tmp_path)
    assert found["fp32"]["metrics"]["stable"] == found["fp16"]["metrics"]["stable"] == 1


def test_a_task_has_an_option_of_its_own(command, tmp_path):
    command("stable", "evaluate net.onnx --data images --task stable --tolerance 0 --latency-s 0 --layer-samples 0")
    found = variants(tmp_path)
    assert (found["fp32"]["metrics"]["stable"], found["fp16"]["metrics"]["stable"]) == (1, 0)
    assert command("stable", "evaluate --help-all").count("--tolerance") == 1


def test_a_runtime_opens_files_of_its_suffix_and_those_that_name_it(command, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "net.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    words = "evaluate net.onnx --data images --latency-s 0 --layer-samples 2"
    command("ort_format", f"{words} --variant small=net.ort --variant named=ort:net.onnx")
    found = variants(tmp_path)
    for name in ("small", "named"):
        assert found[name]["backend"] == "onnxruntime, .ort format"
        assert found[name]["metrics"]["agreement"] == 1


def test_every_recipe_is_followed():
    assert [Path(file).stem for file, _ in EDITS] == ["terms", "columns"]
    assert sorted(Path(file).stem for file in RECIPES) == ["inception", "ort_format", "psnr", "sigma", "stable"]
