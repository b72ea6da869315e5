"""The commands of the guides run as they are written, in order, on small generated models and data.

What cannot run where the tests do is listed in `NOT_RUN`; a test holds the list to the pages.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from . import guide_material as made
from .documented import REPOSITORY, commands, files, sections
from .guide_material import run
from .ray_nodes import started_nodes
from .web_server import serving

GUIDES = REPOSITORY / "docs" / "how-to"

_QUICK = {
    "CALIBRATE_ACCURACY": "fast",
    "EVALUATE_LATENCY_S": "0",
    "EVALUATE_LAYER_SAMPLES": "0",
    "BENCH_DURATION": "0",
    "BENCH_WARM_UP_MS": "0",
    "TUNE_ACCURACY": "fast",
}

PAGES = {
    "accuracy.md": (made.make_calibrated, {0, 3}),  # random images have a score that no limit settles
    "accuracy_fell.md": (made.make_classifier, {0}),
    "caches.md": (made.make_cache_files, {0, 4}),  # 4: what the page says of TensorRT 11
    "calibrate.md": (made.make_configured, {0}),
    "ci.md": (made.make_classifier, {0, 3}),
    "compare.md": (made.make_reports, {0, 3}),
    "data.md#Prepare data": (made.make_calibrated, {0}),
    "data.md#Tars": (made.make_tars, {0}),
    "data.md#States, scalars and varying length": (made.make_recordings, {0}),
    "data.md#Your own code": (made.make_code, {0}),
    "data_check.md": (made.make_classifier, {0}),
    "deepstream.md": (made.make_classifier, {0}),
    "detection.md#A decoder of your own": (made.make_coco, {0}),
    "detection.md#An example": (made.make_squares, {0}),
    "detection.md#Evaluate a detector": (made.make_coco, {0}),
    "evaluate.md": (made.make_trained, {0, 3}),
    "gpu.md": (made.make_classifier, {0}),
    "jetson.md": (made.make_calibrated, {0}),
    "moving.md": (made.make_classifier, {0}),
    "no_gpu.md": (made.make_classifier, {0}),
    "segmentation.md": (made.make_scenes, {0}),
    "tasks.md#Custom": (made.make_ages, {0}),
    "tasks.md#Embeddings": (made.make_sentences, {0}),
    "tasks.md#Images as outputs": (made.make_enhancers, {0}),
    "tasks.md#None": (made.make_features, {0}),
    "tasks.md#Segmentation": (made.make_segmenters, {0}),
    "tensorrt.md": (made.make_planned, {0}),
    "transformers.md": (made.make_encoder, {0}),
    "triton.md": (made.make_classifier, {0}),
    "troubleshooting.md": (made.make_digits, {0}),
    "yolo.md": (made.make_yolo, {0}),
}
"""By page, or page and heading: what makes its files, and the exit codes that are right."""

_GPU = "needs an NVIDIA GPU and ONNX Runtime's CUDA provider"
_TENSORRT = "needs TensorRT and an NVIDIA GPU"

NOT_RUN = {
    ("gpu.md", "quantkit calibrate model.onnx --data calib --device cuda:0,1"): _GPU,
    ("gpu.md", "quantkit evaluate model.onnx --data val --device cuda"): _GPU,
    ("jetson.md", "quantkit build model.onnx --precision int8 --dla-core 0 --allow-gpu-fallback"): "needs a DLA",
    ("tensorrt.md", "quantkit evaluate --data val/ model.onnx --engine int8=model.int8.engine"): _TENSORRT,
    ("tensorrt.md", "quantkit build model.onnx --precision best"): _TENSORRT,
    ("tensorrt.md", "quantkit build model.onnx --precision best --plan model.plan.json --max-builds 12"): _TENSORRT,
    (
        "tensorrt.md",
        "quantkit export triton model.onnx --engine model.int8.engine -o model_repository",
    ): "needs an engine of TensorRT: Triton runs none of TensorRT-RTX, which builds here",
    ("triton.md", "quantkit export triton model.onnx --engine model.int8.engine"): "likewise",
}
"""Parsed alone (tests/cli/test_examples.py), and why. Engines, DLA and GPUs are faked in tests of their own."""

ON_A_CLUSTER, AT_URLS = "cluster.md", "data.md#URLs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and settings that take little time."""
    monkeypatch.chdir(tmp_path)
    for name, value in _QUICK.items():
        monkeypatch.setenv(f"QUANTKIT_{name}", value)
    return tmp_path


def text_of(page: str) -> str:
    name, _, heading = page.partition("#")
    return sections(GUIDES / name)[heading] if heading else (GUIDES / name).read_text(encoding="utf-8")


def documented(page: str) -> Iterator[tuple[str, str]]:
    """Page and command, without its comment."""
    for command in commands(text_of(page)):
        yield page.partition("#")[0], shlex.join(shlex.split(command, comments=True))


def run_all(page: str, codes: set[int], *, instead: dict[str, str] | None = None) -> None:
    """The commands of a page, with words exchanged."""
    listed = {(name, shlex.join(shlex.split(command))) for name, command in NOT_RUN}
    found = [command for name, command in documented(page) if (name, command) not in listed]
    assert found
    for command in found:
        for old, new in (instead or {}).items():
            command = command.replace(old, new)
        _, *words = shlex.split(command)
        if words[0] == "build":
            pytest.importorskip("tensorrt_rtx")
        code = doctor() if words == ["doctor"] else run(*words)
        assert code in codes, command


@functools.cache
def doctor() -> int:
    """It looks at the machine alone, which takes seconds: once is enough."""
    return run("doctor")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_guide_run(page: str, here: Path) -> None:
    make, codes = PAGES[page]
    make(here)
    for name, content in files(text_of(page)).items():
        (here / name).write_text(content)
    run_all(page, codes)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch):
    """fsspec's memory file system under s3://."""
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class Bucket(MemoryFileSystem):
        protocol = ("s3",)
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("s3://", "memory://", 1))

    monkeypatch.setitem(_registry, "s3", Bucket)
    return Bucket()


def test_the_commands_on_urls_run(here: Path, bucket) -> None:
    pytest.importorskip("aiohttp")
    made.make_tars(here)
    bucket.put(f"{here}/calib/", "/bucket/images/calib", recursive=True)
    with serving(here) as (address, _):
        run_all(AT_URLS, {0}, instead={"https://host": address})


def make_shared(folder: Path) -> dict[str, str]:
    """A folder for /shared, which no test can make."""
    made.make_classifier(folder, "imagenet/calib", "imagenet/val")
    return {"/shared/": f"{folder}/"}


@pytest.mark.usefixtures("inline")
def test_the_commands_on_a_cluster_run_in_this_process(here: Path) -> None:
    run_all(ON_A_CLUSTER, {0}, instead=make_shared(here))


@pytest.mark.slow
def test_the_commands_on_a_cluster_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started_nodes(2) as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        run_all(ON_A_CLUSTER, {0}, instead=make_shared(here))


def test_every_command_of_a_guide_is_run_or_listed() -> None:
    every = {found for page in GUIDES.glob("*.md") for found in documented(page.name)}
    listed = {(name, shlex.join(shlex.split(command))) for name, command in NOT_RUN}
    ran = {found for page in (*PAGES, ON_A_CLUSTER, AT_URLS) for found in documented(page)}
    assert every - ran == set()
    assert listed - every == set(), "no page has these any more"
    assert len(every) > 70
