"""A cache that TensorRT 7.2.2 wrote, reproduced from the same images by the command line."""

import pytest

from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.cli import main
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model_hash import model_hash

BINS = {
    "data": 2040,
    "conv1": 704,
    "pool1": 704,
    "conv2": 962,
    "pool2": 962,
    "(Unnamed Layer* 4) [Fully Connected]_output": 1153,
    "ip1": 1155,
    "ip2": 1289,
    "prob": 1081,
}


@pytest.fixture(scope="module")
def written(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lenet")
    golden = shared / "golden" / "lenet_mnist"
    words = f"--data {golden / 'images'} {golden / 'lenet.onnx'} -o {folder} --histogram tensorrt --order given"
    with pytest.raises(SystemExit) as stop:
        main(f"calibrate {words} --batch-size 50 --all-tensors --tensorrt-version 7.2.2".split())
    assert not stop.value.code
    return folder


def test_every_scale_is_tensorrts(shared, written):
    theirs = parse_cache((shared / "golden" / "lenet_mnist" / "tensorrt_7.2.2.cache").read_text())
    ours = parse_cache((written / "lenet.calib").read_text())
    assert (ours.version, ours.algorithm) == (theirs.version, theirs.algorithm)
    assert theirs.scale_bits.keys() == BINS.keys()
    for name, bits in theirs.scale_bits.items():
        assert abs(ours.scale_bits[name] - bits) <= 8, name  # units in the last place


def test_every_bin_is_tensorrts(shared):
    """The threshold is (bin + 0.5) * range / 2048: an integer comes out only for the right bin and range."""
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.calibration.collect import collect
    from quantkit.calibration.methods.entropy import search
    from quantkit.datasets import iterate_batches, open_dataset
    from quantkit.graph.model import input_specs, serialize_model
    from quantkit.graph.passes.expose import expose
    from quantkit.graph.passes.prepare import prepare

    golden = shared / "golden" / "lenet_mnist"
    model = prepare(FloatModel(golden / "lenet.onnx").graph, name="lenet")
    dataset = open_dataset(golden / "images", input_specs(model))
    with OnnxRuntimeRunner(serialize_model(expose(model, list(BINS)), golden)) as runner:
        collector = collect(runner, iterate_batches(dataset, 50), list(BINS), rule="tensorrt")
    found = {name: search(statistics.histogram) for name, statistics in collector.statistics.items()}
    # Pools take the scale of their input in TensorRT's cache; what is searched is the input's histogram.
    for name, inherited in (("pool1", "conv1"), ("pool2", "conv2")):
        found[name] = found[inherited]
    assert found == BINS


def test_the_model_belongs_to_the_table(shared, written):
    from quantkit.calibration.table import load_table

    table = load_table(written / "lenet.calib.json")
    assert table.model_hash == model_hash(FloatModel(shared / "golden" / "lenet_mnist" / "lenet.onnx").graph)
    assert table.num_samples == 500
