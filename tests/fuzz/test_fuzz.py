"""A few hundred damaged files for every parser, and each file that once broke one."""

import json
import struct
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quantkit.errors import QuantKitError

from . import seeds
from .campaign import run_target
from .hostile import hostile_targets
from .mutations import BYTE_MUTATIONS, LARGEST, mutate_json, mutate_protobuf, seal_png
from .oracle import Broken, Target, check, make_input
from .targets import TARGETS, seal_statistics, seal_table

INPUTS = 250


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    target = TARGETS[name]
    made = target.seeds(None)
    if target.setup is not None:
        target.setup(tmp_path)
    for index in range(INPUTS):
        content = make_input(name, target, made, seed=0, index=index)
        try:
            check(target, content, tmp_path)
        except Broken as broken:
            pytest.fail(f"input {index} ({content[:80]!r}...): {broken}")


@pytest.mark.parametrize("name", TARGETS)
def test_the_files_that_mutations_start_from(tmp_path, name):
    target = TARGETS[name]
    if target.setup is not None:
        target.setup(tmp_path)
    accepted = [check(target, content, tmp_path) for content in target.seeds(None)]
    if name == "checkpoint of --resume":
        assert accepted == [True, True, False], "TensorRT's histogram does not fit the settings"
    else:
        assert all(accepted)


def table(**changes) -> bytes:
    content = json.loads(seeds.table_files(None)[0])
    return seal_table(json.dumps({**content, **changes}).encode())


def header_of_statistics(*, number: int = 0, **changes) -> bytes:
    line, header, body = seeds.statistics_files(None)[number].split(b"\n", 2)
    header = json.dumps({**json.loads(header), **changes}).encode()
    return seal_statistics(b"\n".join([line, header, body]))


def first_tensor(*, number: int = 0, **changes) -> bytes:
    _, header, _ = seeds.statistics_files(None)[number].split(b"\n", 2)
    first, *others = json.loads(header)["tensors"]
    return header_of_statistics(number=number, tensors=[{**first, **changes}, *others])


def report(**changes) -> bytes:
    return json.dumps({**json.loads(seeds.report_files(None)[0]), **changes}).encode()


def report_text(old: str, new: str, *, number: int = 4) -> bytes:
    """A report with another number in it; report 4 holds everything."""
    content = seeds.report_files(None)[number].decode()
    assert old in content
    return content.replace(old, new, 1).encode()


def report_of_device_times(**changes) -> bytes:
    """Two variants timed by the device at two batch sizes."""
    content = json.loads(seeds.report_files(None)[4])
    device = {"method": "device", "compute_ms": 1.0, "median_ms": 1.5, "median_interval_ms": None}
    for evaluation in content["evaluations"]:
        for latency in (evaluation["latency"], *evaluation["sweep"]):
            latency.update({**device, **changes})
    return json.dumps(content).encode()


def coco(**changes) -> bytes:
    content = json.loads(seeds.coco_files(None)[0])
    content["images"][0].update(changes)
    return json.dumps(content).encode()


def mask_of(width: int, height: int) -> bytes:
    content = seeds.masks(None)[0]
    return seal_png(content[:16] + struct.pack(">II", width, height) + content[24:])


def onnxruntime_json(name: str) -> bytes:
    table = {"CLS": "TensorsData", "data": {name: {"lowest": -1.0, "highest": 2.0, "CLS": "TensorData"}}}
    return json.dumps(table).encode()


def manifest(**changes) -> bytes:
    return json.dumps({**json.loads(seeds.manifests(None)[0]), **changes}).encode()


def ranges(**changes) -> bytes:
    entry = {"amax": 6.0, "scale": 0.1, "hex": f"{1027703558:x}", "minimum": 0.0, "maximum": 6.0, "flag": ""}
    return json.dumps({"format": "quantkit ranges", "tensors": {"x": {**entry, **changes}}}).encode()


def model(change=None, *, make=seeds.tiny_model) -> bytes:
    made = onnx.ModelProto()
    made.CopyFrom(make())
    if change is not None:
        change(made)
    return made.SerializeToString()


def external(key: str, value: str) -> bytes:
    made = onnx.ModelProto.FromString(seeds.external_models(None)[0])
    entries = made.graph.initializer[0].external_data
    next(entry for entry in entries if entry.key == key).value = value
    return made.SerializeToString()


def external_key(key: str) -> bytes:
    made = onnx.ModelProto.FromString(seeds.external_models(None)[0])
    made.graph.initializer[0].external_data.add(key=key, value="x")
    return made.SerializeToString()


def without_text(content: bytes, word: bytes) -> bytes:
    """The same protobuf with a name that is no UTF-8."""
    assert word in content
    return content.replace(word, b"\xff" * len(word))


def scalar(**changes) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    for name, value in changes.items():
        if name == "dims":
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


def quantized(tensor: onnx.TensorProto) -> bytes:
    def change(made):
        made.graph.node.add(op_type="QuantizeLinear", input=["x", "s"], output=["q"])
        made.graph.initializer.append(tensor)

    return model(change)


def zipped(name: str, content: bytes) -> bytes:
    import io
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, content)
    return made.getvalue()


def labels_beyond_unicode() -> bytes:
    x, names = np.zeros((1, 2, 4), np.float32), np.array(["a"])
    import io

    made = io.BytesIO()
    np.savez(made, x=x, labels=names)
    return made.getvalue().replace(names.tobytes(), b"\xff\xff\xff\x7f")


def signalling_array() -> bytes:
    """Signalling NaN: numpy warns when it casts them."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2, 4), }"
    content = b"\x01\x00\x00\x00\x00\x00\xf0\x7f" * 8
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def array_with_header(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(32)


FOUND = {
    "a name with a line break in a table": ("calibration table", table(**{"x\u2028y": 1})),
    "half a surrogate pair in a table": ("table as ranges", table(tensors={"\ud800": {"amax": 1.0, "\ud800": 1}})),
    "statistics that are no UTF-8": (
        "statistics",
        seal_statistics(b"quantkit statistics 1 0 x\n\xff"),
    ),
    "a checkpoint of a model whose hash is a control character": (
        "checkpoint of --resume",
        header_of_statistics(model={"name": "n", "hash": "\x0b"}),
    ),
    "a bin width by which a value cannot be divided": ("statistics", first_tensor(bin_width=5e-324)),
    "ranges whose minimum is beyond amax": ("ranges JSON", ranges(minimum=7.0, maximum=8.0)),
    "ranges whose minimum is NaN": ("ranges JSON", ranges(minimum=float("nan"))),
    "ranges whose minimum is above the maximum": ("ranges JSON", ranges(minimum=5.0, maximum=1.0)),
    "a report nested too deeply": ("report", b'{"evaluations": ' + b"[" * 20_000),
    "a report with a number of 400 digits": (
        "report",
        report().replace(b'"iterations": ', b'"iterations": 1' + b"0" * 400, 1),
    ),
    "a report with a histogram of 400 digits": (
        "report",
        report_text('"histogram": [', '"histogram": [1' + "0" * 400 + ", "),
    ),
    "a report with a time of 0": ("report", report_text('"median_ms": 2.41', '"median_ms": 0.0')),
    "a report whose device takes no time for a call": ("report", report_of_device_times(median_ms=0.0)),
    "bins that are wider than all numbers": ("statistics, shown", first_tensor(number=2, bin_width=1e308)),
    "an image of -1 pixels": ("COCO boxes", coco(height=-1)),
    "a mask that is said to have 144 million pixels": ("PNG mask", mask_of(12_000, 12_000)),
    "a name that ends in white space": ("ONNX Runtime JSON", onnxruntime_json("x\t")),
    "a name of white space": ("ONNX Runtime JSON", onnxruntime_json("\u2028")),
    "numbers that signal": (".npy arrays", signalling_array()),
    "a call whose output has no name": (
        "model",
        model(lambda made: made.graph.node.append(helper.make_node("Mine", ["x"], [""], domain="mine"))),
    ),
    "a manifest that is no UTF-8": ("engine manifest", b'{"format": "\xff"}'),
    "a manifest whose targets are a number": ("engine manifest", manifest(options={"targets": 5})),
    "a manifest whose targets are no names": ("engine manifest", manifest(options={"targets": [True]})),
    "a time of 400 digits": ("layer profile", b'[{"name": "a", "timeMs": 1' + b"0" * 400 + b"}]"),
    "a map of an empty name to no name": ("map of names", b'{"": {}}'),
    "a weight of 400 digits": (
        "engine inspector JSON",
        b'{"Layers": [{"Name": "a", "Weights": {"Type": "Int8", "Count": 1' + b"0" * 400 + b"}}]}",
    ),
    "a name longer than a file may have": ("text list", b"a" * 300 + b".png\n"),
    "a name longer than a file may have, with a label": ("text list", b"a" * 300 + b" 1\n"),
    "a name longer than a file may have, in CSV": ("CSV list", b"path\n" + b"a" * 5000 + b".png\n"),
    "an archive that is none": (".npz arrays", b"PK\x03\x04" + bytes(20)),
    "an archive of something else than arrays": (".npz arrays", zipped("x.npy", b"text")),
    "labels that are no arrays": (".npz arrays", zipped("labels", b"text")),
    "labels beyond Unicode": (".npz arrays", labels_beyond_unicode()),
    "an array's header with an escape that Python warns of": (
        ".npy arrays",
        array_with_header(b"{'descr': '\\$f4', 'fortran_order': False, 'shape': (1, 2, 4), }"),
    ),
    "an operator whose name is no text": ("model with Q/DQ", without_text(quantized(scalar()), b"Gemm")),
    "metadata that are no text": ("model", without_text(model(make=seeds.branching_model), b"author")),
    "a scale without a type": ("model with Q/DQ", quantized(scalar(data_type=0))),
    "a scale of a type that does not exist": ("model with Q/DQ", quantized(scalar(data_type=99))),
    "a scale without its value": ("model with Q/DQ", quantized(scalar(raw_data=b""))),
    "a scale of three bytes": ("model with Q/DQ", quantized(scalar(raw_data=b"abc"))),
    "a scale of two numbers with the bytes of one": ("model with Q/DQ", quantized(scalar(dims=[2]))),
    "a scale of -1 numbers": ("model with Q/DQ", quantized(scalar(dims=[-1]))),
    "a zero point of no number": (
        "model with Q/DQ",
        model(
            lambda made: (
                made.graph.initializer.extend([scalar(), numpy_helper.from_array(np.zeros(0, np.int8), "z")]),
                made.graph.node.add(op_type="QuantizeLinear", input=["x", "s", "z"], output=["q"]),
            )
        ),
    ),
    "a quantized operator without outputs": (
        "model with Q/DQ",
        model(lambda made: made.graph.node.add(op_type="QLinearConv", input=["x"], domain="com.microsoft")),
    ),
    "an operator without outputs": ("model, prepared", model(lambda made: made.graph.node[0].ClearField("output"))),
    "an operator whose output has no name": ("model", model(lambda m: m.graph.node[3].output.__setitem__(0, ""))),
    "an operator without inputs": ("model, prepared", model(lambda made: made.graph.node[0].ClearField("input"))),
    "an operator with an attribute of another": (
        "model, prepared",
        model(lambda made: made.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0))),
    ),
    "an attribute without a type": ("model", model(lambda made: made.graph.node[0].attribute[0].ClearField("type"))),
    "an attribute of another type": (
        "model, prepared",
        model(lambda made: made.graph.node[4].attribute.__getitem__(0).CopyFrom(helper.make_attribute("transB", 1.0))),
    ),
    "a constant without a value": (
        "model",
        model(lambda made: made.graph.node.insert(0, helper.make_node("Constant", [], ["c"]))),
    ),
    "a constant without a type": (
        "model, prepared",
        model(
            lambda made: made.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=scalar(data_type=0)))
        ),
    ),
    "a circle": ("model, prepared", model(lambda made: made.graph.node[0].input.__setitem__(0, "Relu_4_out"))),
    "a function with fewer inputs than its call": (
        "model, prepared",
        model(lambda made: made.functions[0].ClearField("input"), make=seeds.branching_model),
    ),
    "a function of another opset": (
        "model, prepared",
        model(lambda made: made.functions[0].opset_import[0].__setattr__("version", 8), make=seeds.branching_model),
    ),
    "an input of a type that arrays do not have": (
        "model",
        model(lambda made: made.graph.input[0].type.tensor_type.__setattr__("elem_type", 0)),
    ),
    "external data in a file whose name is a control character": (
        "model with external data",
        external("location", "\x1c"),
    ),
    "external data in a file named like a folder": ("model with external data", external("location", "weights.data/")),
    "external data shorter than the weight": ("model with external data", external("length", "3")),
    "external data before the file": ("model with external data", external("offset", "-8")),
    "external data with an unknown key": ("model with external data", external_key("odd")),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_once_broke_a_parser(tmp_path, case):
    name, content = FOUND[case]
    target = TARGETS[name]
    if target.setup is not None:
        target.setup(tmp_path)
    check(target, content, tmp_path)


def test_an_input_depends_on_its_number_alone():
    target = TARGETS["calibration table"]
    made = target.seeds(None)
    first = [make_input("t", target, made, seed=1, index=i) for i in (5, 6)]
    assert first == [make_input("t", target, made, seed=1, index=i) for i in (5, 6)]
    assert first[0] != first[1] != make_input("t", target, made, seed=2, index=6)


def test_mutations_change_any_bytes_and_stay_small():
    rng = np.random.default_rng(0)
    contents = [b"", b"x", b'{"a": [1, 2.5, "b"], "c": null}', bytes(range(256)) * 8]
    for mutation in (*BYTE_MUTATIONS, mutate_json, mutate_protobuf(onnx.ModelProto)):
        changed = [mutation(rng, content) for content in contents for _ in range(20)]
        assert any(new not in contents for new in changed)
        assert max(map(len, changed)) < LARGEST


def test_checksums_are_made_to_fit(tmp_path):
    content = seeds.images("PNG", None)[0]
    broken = content.replace(b"IHDR", b"IHDR", 1)[:-12] + b"\x00\x00\x00\x00IEND\x00\x00\x00\x00"
    assert seal_png(broken) == content
    assert check(TARGETS["calibration table"], table(num=1), tmp_path)


def test_a_parser_that_misbehaves_is_found(tmp_path):
    def parse(path):
        word = path.read_text()
        if word == "raise":
            raise KeyError("x")
        if word == "nameless":
            raise QuantKitError("something is wrong")
        if word == "warn":
            warnings.warn("odd", stacklevel=1)
        if word == "refuse":
            raise QuantKitError(f"{path} is odd")
        return word

    def use(value, path):
        assert value != "unusable"

    target = Target(".x", lambda shared: [b"a"], parse, use)
    assert check(target, b"fine", tmp_path)
    assert not check(target, b"refuse", tmp_path)
    for word, found in (("raise", "KeyError"), ("nameless", "name"), ("warn", "UserWarning"), ("unusable", "using")):
        with pytest.raises(Broken, match=found):
            check(target, word.encode(), tmp_path)


@pytest.mark.skipif("sys.platform == 'win32'")
@pytest.mark.parametrize(("name", "words"), [("hang", "Timeout"), ("end", "ended with -6"), ("ask", "MemoryError")])
def test_a_run_survives_what_kills_it(name, words):
    outcome = run_target(hostile_targets, name, inputs=4, seed=1, timeout_s=0.2)
    assert outcome.inputs == 4
    assert outcome.failures
    assert all(words in failure.what for failure in outcome.failures)
    assert [f.index for f in outcome.failures] == sorted({f.index for f in outcome.failures})


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_run_counts_every_input_once():
    outcome = run_target(hostile_targets, "good", inputs=50, seed=1)
    assert (outcome.inputs, outcome.accepted, outcome.failures) == (50, 50, [])
    assert outcome.slowest_index >= 0
    assert outcome.peak_bytes > 0
