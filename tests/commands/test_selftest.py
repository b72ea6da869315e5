"""`quantkit selftest`, where TensorRT-RTX builds and a fake libnvinfer answers; neither runs an engine."""

from __future__ import annotations

import json

import pytest

from quantkit.commands.selftest import selftest

from ..backends.tensorrt import native
from ..cli.conftest import conv_model, write_images
from ..fake_trt.releases import RELEASES, Bindings, UnobtainableError


def check(model: str, data: str, with_gpu: bool) -> dict[str, list[str]]:
    """In a process that has the fake library: status and detail by check."""
    if with_gpu:
        native.install_gpu()
    found = selftest(model, data, library="tensorrt", num_samples=8, latency_s=0)
    return {result.name: [result.status, result.detail] for result in found.results}


@pytest.fixture(params=list(RELEASES))
def bindings(request):
    try:
        process = Bindings(RELEASES[request.param])
    except UnobtainableError as error:
        pytest.skip(str(error))
    yield process
    process.close()


@pytest.fixture
def material(tmp_path):
    return str(conv_model(tmp_path / "net.onnx")), str(write_images(tmp_path / "imgs", 8))


def test_it_builds_and_calibrates_as_far_as_the_machine_goes(bindings, material):
    """Without a GPU, then with one; the fake has no runtime, so that running the engines fails, and is seen to."""
    found = bindings.call(check, *material, False)
    status = {name: words[0] for name, words in found.items()}
    old = bindings.release.major <= 10
    assert {name for name, word in status.items() if word == "pass"} == {
        "calibration by quantkit", "FP32 engine", "FP16 engine", "INT8 engine, explicit", "version compatibility",
        "hardware compatibility", "plugins", *(["INT8 engine, implicit"] if old else []),
    }, found  # fmt: skip
    assert "fail" not in status.values()
    for name in ("accuracy and latency", "the faster of FP16 and INT8"):
        assert found[name] == ["skip", "there is no NVIDIA GPU"]
    said = "there is no NVIDIA GPU" if old else f"TensorRT {bindings.release.version} has no calibrators"
    assert found["calibration by TensorRT"] == ["skip", said]

    if not old:
        return
    found = bindings.call(check, *material, True)
    assert found["calibration by TensorRT"][0] == "pass", found
    assert found["calibration by TensorRT"][1].startswith("cache of ")
    assert found["its cache, read back"][0] == "pass", found
    assert found["accuracy and latency"][0] == "fail"
    assert found["layers in INT8"][0] == "fail"
    assert found["the faster of FP16 and INT8"] == ["skip", "--latency-s 0"]


def test_tensorrt_rtx_builds_and_shows_its_layers(tmp_path, material, capsys, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    from quantkit.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["selftest", material[0], "--data", material[1], "--library", "rtx", "--num-samples", "8"])
    assert stop.value.code == 0
    assert "wrote selftest.json" in capsys.readouterr().out
    found = json.loads((tmp_path / "selftest.json").read_text())
    assert found["library"].startswith("TensorRT-RTX 1.")
    results = {result["name"]: result for result in found["results"]}
    assert results["layers in INT8"]["status"] == "pass", results
    assert results["INT8 engine, implicit"]["status"] == results["version compatibility"]["status"] == "skip"
