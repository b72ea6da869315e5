"""The manifest: read as written, compared field by field, and able to say why an engine does not load here."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from quantkit.backends.tensorrt.build.manifest import (
    Manifest,
    check_loadable,
    is_engine_of,
    load_manifest,
    manifest_path,
    save_manifest,
)
from quantkit.backends.tensorrt.gpu import Gpu
from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError
from quantkit.provenance import differences

ADA = Gpu("RTX 4090", "8.9")
HOPPER = Gpu("H100", "9.0")

BUILT = Manifest(
    model_name="net.onnx",
    model_hash="a" * 64,
    precision="int8",
    mode="explicit",
    library="tensorrt",
    library_version="10.16.1",
    gpu=str(ADA),
    quantkit_version="1",
    high_precision="fp16",
    exclude=("fc",),
    table={"sha256": "b" * 64, "num_samples": 300},
    options={"profiles": [{"x": "1x3 / 2x3 / 4x3"}], "workspace_bytes": 5},
    engine_sha256="c" * 64,
    engine_size_bytes=7,
    created="2026-01-01T00:00:00+00:00",
)


def library(name="tensorrt", version=(10, 16, 1)):
    return Library(module=SimpleNamespace(), name=name, version=version)


def test_manifest_round_trip(tmp_path):
    path = manifest_path(tmp_path / "net.int8.engine")
    assert path.name == "net.int8.engine.json"
    save_manifest(BUILT, path)
    assert load_manifest(path) == BUILT
    assert next(iter(json.loads(path.read_text()))) == "format"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"", "not an engine manifest"),
        (b"{", "not an engine manifest"),
        (b"[]", "not an engine manifest"),
        (b"[" * 10_000, "not an engine manifest"),
        (b'{"format": "quantkit calibration table"}', "not an engine manifest"),
        (b'{"format": "quantkit engine", "format_version": 2}', "format version 2"),
        (b'{"format": "quantkit engine", "format_version": 1, "model_name": 3}', "not a valid engine manifest"),
        (b"\xff\xfe", "not an engine manifest"),
    ],
)
def test_invalid_manifest_is_refused(tmp_path, content, words):
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackendError, match=words):
        load_manifest(path)


def test_the_same_has_no_difference_whatever_does_not_decide():
    other = replace(BUILT, created="", engine_sha256="", engine_size_bytes=0, model_name="copy.onnx")
    assert differences(BUILT.facts, other.facts) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_hash": "d" * 64}, "model hash: aaaaaaaaaaaa → dddddddddddd"),
        ({"precision": "fp16"}, "precision: int8 → fp16"),
        ({"library_version": "10.3.0"}, "library version: 10.16.1 → 10.3.0"),
        ({"gpu": str(HOPPER)}, r"gpu: RTX 4090 (sm89) → H100 (sm90)"),
        ({"exclude": ()}, "exclude: ['fc'] → none"),
        ({"table": {"sha256": "e" * 64, "num_samples": 300}}, "table sha256: bbbbbbbbbbbb → eeeeeeeeeeee"),
        ({"options": {"workspace_bytes": 5}}, "options profiles: [{'x': '1x3 / 2x3 / 4x3'}] → none"),
        ({"options": {**BUILT.options, "refit": True}}, "options refit: none → True"),
        ({"quantkit_version": "2"}, "quantkit version: 1 → 2"),
    ],
)
def test_every_deciding_field_is_named_with_both_values(tmp_path, change, named):
    path = tmp_path / "m.json"
    save_manifest(BUILT, path)
    assert differences(load_manifest(path).facts, replace(BUILT, **change).facts) == [named]


def test_an_engine_belongs_to_its_manifest(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(b"engine")
    of_it = replace(BUILT, engine_sha256=hashlib.sha256(b"engine").hexdigest())
    assert is_engine_of(of_it, path)
    path.write_bytes(b"another")
    assert not is_engine_of(of_it, path)
    assert not is_engine_of(of_it, tmp_path / "none.engine")


@pytest.mark.parametrize(
    ("change", "there", "gpu", "words"),
    [
        ({}, library("tensorrt-rtx", (1, 7, 1)), ADA, "was built with tensorrt, not for TensorRT-RTX 1.7.1"),
        ({}, library(version=(10, 3, 0)), ADA, "built with version 10.16.1, this is TensorRT 10.3.0"),
        ({}, library(), HOPPER, r"built for RTX 4090 \(sm89\), this is H100 \(sm90\)"),
        (
            {"library": "tensorrt-rtx", "library_version": "1.7.1", "gpu": None, "options": {"targets": ["sm86"]}},
            library("tensorrt-rtx", (1, 7, 1)),
            ADA,
            "built for sm86, this is .*: add --target sm89",
        ),
    ],
)
def test_engine_of_another_library_version_or_gpu_is_refused(change, there, gpu, words):
    with pytest.raises(BackendError, match=words):
        check_loadable(replace(BUILT, **change), there, gpu, name="net.engine")


RULES = {
    # built with: on which later or earlier versions a version-compatible engine loads
    "8.6.1": {(8, 6, 0): False, (8, 6, 2): True, (9, 2, 0): True, (10, 3, 0): True, (11, 0, 0): False},
    "9.2.0": {(8, 6, 1): False, (9, 3, 0): True},
    "10.3.0": {(8, 6, 1): False, (10, 0, 1): False, (10, 16, 1): True, (11, 0, 0): True, (11, 4, 0): True},
    "11.0.0": {(10, 16, 1): False, (11, 4, 0): True},
}
"""NVIDIA's: an engine of 8.6 loads on 9 and 10, of 10 on 11, never on an older runtime than the builder's."""


@pytest.mark.parametrize(
    ("built", "there", "loads"), [(built, there, loads) for built, row in RULES.items() for there, loads in row.items()]
)
def test_a_version_compatible_engine_loads_where_nvidia_says(built, there, loads):
    engine = replace(BUILT, library_version=built, options={"version_compatible": True})
    for change, expected in ((engine, loads), (replace(engine, options={}), False)):
        if expected:
            check_loadable(change, library(version=there), ADA, name="net.engine")
        else:
            with pytest.raises(BackendError, match=f"built with version {built}, this is"):
                check_loadable(change, library(version=there), ADA, name="net.engine")


AMPERE, TURING, ADA_TOO = Gpu("A100", "8.0"), Gpu("T4", "7.5"), Gpu("L4", "8.9")


@pytest.mark.parametrize(
    ("level", "gpu", "said"),
    [
        ("ampere-plus", AMPERE, ""),
        ("ampere-plus", HOPPER, ""),
        ("ampere-plus", TURING, r"built for sm80 and newer, this is T4 \(sm75\)"),
        ("same-compute-capability", ADA_TOO, ""),
        ("same-compute-capability", HOPPER, r"built for the compute capability of RTX 4090 \(sm89\), this is H100"),
        (None, ADA_TOO, r"built for RTX 4090 \(sm89\), this is L4"),
    ],
)
def test_a_hardware_compatible_engine_loads_where_nvidia_says(level, gpu, said):
    engine = replace(BUILT, options={} if level is None else {"hardware_compatibility": level})
    if said:
        with pytest.raises(BackendError, match=said):
            check_loadable(engine, library(), gpu, name="net.engine")
    else:
        check_loadable(engine, library(), gpu, name="net.engine")


@pytest.mark.parametrize(
    ("change", "there", "gpu"),
    [
        ({}, library(), ADA),
        ({}, library(), None),
        ({"options": {"version_compatible": True}}, library(version=(10, 20, 0)), ADA),
        ({"options": {"hardware_compatibility": "ampere-plus"}}, library(), HOPPER),
        (
            {"library": "tensorrt-rtx", "library_version": "1.7.1", "gpu": None, "options": {}},
            library("tensorrt-rtx", (1, 7, 1)),
            ADA,
        ),
    ],
)
def test_loadable_engine_is_accepted(change, there, gpu):
    check_loadable(replace(BUILT, **change), there, gpu, name="net.engine")
