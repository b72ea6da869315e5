"""Files to start from: small ones that are made here, and real ones where the folder of shared material is there."""

from __future__ import annotations

import functools
import io
import json
import struct
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from quantkit.backends.tensorrt.build.manifest import Manifest, save_manifest
from quantkit.caches.formats.ort_tables import flatbuffers_table, json_table, text_table
from quantkit.caches.range_cache import RangeCache, amax_from_bits
from quantkit.calibration.refinement_file import save_refinement
from quantkit.calibration.statistics import new_statistics, update
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin, save_statistics
from quantkit.calibration.table import table_json
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.reporting.json import report_json
from quantkit.types import CalibrationTable, Preprocessing, Refinement, Report, RoundedWeight, TensorRange
from tests.graph.builder import Builder
from tests.reporting import reports, samples

__all__ = [
    "ORIGIN",
    "REFINED_TABLE",
    "STATISTICS_TENSORS",
    "array_files",
    "class_lists",
    "coco_files",
    "csv_lists",
    "detections",
    "drops",
    "external_models",
    "external_weights",
    "float_models",
    "gates",
    "images",
    "inspector_json",
    "json_lists",
    "manifests",
    "maps",
    "masks",
    "older_statistics",
    "ort_flatbuffers",
    "ort_json",
    "ort_text",
    "plans",
    "profiles",
    "quantized_models",
    "ranges_json",
    "refinement_files",
    "report_files",
    "rich_report",
    "sizes",
    "statistics_files",
    "table_files",
    "tensorrt_caches",
    "text_lists",
    "ultralytics_engines",
    "yolo_labels",
    "zipped_arrays",
]

PREPROCESSING = Preprocessing(
    size=(8, 9), color="BGR", resize="crop", shorter_side=11, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), scale=1 / 255
)

ORIGIN = StatisticsOrigin(
    model_hash="a" * 64,
    model_name="net.onnx",
    contents=(("0/a.png", "1" * 64), ("1/b.png", "2" * 64), ("1/c.png", "unreadable"), ("1/d.png", "3" * 64)),
    preprocessing=PREPROCESSING,
    settings={"histogram": "exact", "seed": 0, "batch_size": None, "order": "shuffled"},
    versions={"quantkit": "0.1.0", "onnxruntime": "1.23.0"},
    unclipped=frozenset({"p"}),
)

REFINED_TABLE = "c" * 64
"""Checksum of the table that rounded weights belong to."""

STATISTICS_TENSORS = ("x", "p", "empty")

RANGES = {
    "input": TensorRange(2.5, -1.0, 2.5),
    "/layer1/Conv_output_0": TensorRange(6.0, 0.0, 6.0),
    "a: b [c] é": TensorRange(127.0),
    "tiny": TensorRange(1e-30),
}

TESTS = Path(__file__).parents[1]

INT8 = "Thirty-two wide channel vectorized row major Int8 format"


def table_files(shared: Path | None) -> list[bytes]:
    """quantkit's tables: with digests; of version 1, without."""
    table = CalibrationTable(
        tensors={
            "x": TensorRange(1.5, -1.5, 1.0),
            "y: 1": TensorRange(2.0, 0.0, 3.0),
            "é": TensorRange(1e-20, 0.0, 0.0),
        },
        skipped={"z": "zero on every sample"},
        model_hash="a" * 64,
        model_name="net.onnx",
        dataset_fingerprint="b" * 64,
        num_samples=10,
        preprocessing=PREPROCESSING,
        settings={"calibrator": "quantkit", "method": "percentile", "percentile": 99.9, "seed": 0, "batch_size": None},
        versions={"quantkit": "0.1.0"},
    )
    small = CalibrationTable(
        tensors={"x": TensorRange(1.0, -1.0, 1.0)},
        model_hash="a" * 64,
        dataset_fingerprint="",
        num_samples=0,
        settings={"method": "entropy"},
    )
    first = TESTS / "calibration" / "data" / "version_1.calib.json"
    return [table_json(table).encode(), table_json(small).encode(), first.read_bytes()]


def statistics_files(shared: Path | None) -> list[bytes]:
    """Statistics: unfinished, complete, of TensorRT's histogram."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for rule, num_read in (("exact", 3), ("exact", 4), ("tensorrt", 4)):
            tensors = {name: new_statistics(rule) for name in STATISTICS_TENSORS}
            update(tensors["x"], np.asarray([-1, 0.5, 3, 2e-9], np.float32))
            update(tensors["p"], np.asarray([0, 0, 0.25], np.float32))
            kept = KeptStatistics(
                origin=replace(ORIGIN, settings={**ORIGIN.settings, "histogram": rule}),
                tensors=tensors,
                num_read=num_read,
                num_samples=num_read - 1,
                unreadable={"1/c.png": "truncated"},
                batch_size=2,
            )
            made.append(save_statistics(kept, Path(folder) / "s").read_bytes())
    return made


def refinement_files(shared: Path | None) -> list[bytes]:
    """Rounded weights: of every kind of array, and none."""
    full = Refinement(
        weights={
            "w": RoundedWeight(np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.ones(3, np.float32), 0),
            "v": RoundedWeight(np.ones((1, 2), np.int8), np.asarray(0.5, np.float32), None),
        },
        biases={"conv": np.asarray([0.5, -1], np.float32)},
        shifts={"x": np.asarray([0.5, 0], np.float32)},
        channel_scales={"x": np.asarray([2, 1], np.float32)},
        amax={"x": 1.5},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        return [save_refinement(r, path, table=REFINED_TABLE).read_bytes() for r in (full, Refinement())]


def older_statistics(shared: Path | None) -> list[bytes]:
    """Statistics of version 1, whose table lies beside them; and those that `statistics_files` makes."""
    return [(TESTS / "calibration" / "data" / "version_1.calib.stats").read_bytes(), *statistics_files(shared)]


def tensorrt_caches(shared: Path | None) -> list[bytes]:
    """TensorRT's caches of every kind of version number and calibrator."""
    made = [
        b"TRT-7202-EntropyCalibration2\ndata: 3c010a14\na: b: 3f800000\n(Unnamed Layer* 3) [Conv]_output: 0\n",
        b"TRT-101601-MinMaxCalibration\nx: 7f800000\ny: 7fc00000\nz: 80000001\n",
        b"TRT-5102-LegacyCalibration\n",
    ]
    if shared is not None:
        paths = [*(shared / "tensorrt" / "caches").glob("*.cache"), *(shared / "golden").glob("*/*.cache")]
        made += [content for path in sorted(paths) if (content := path.read_bytes()).startswith(b"TRT-")]
    return made


def ort_flatbuffers(shared: Path | None) -> list[bytes]:
    return [flatbuffers_table(RANGES), flatbuffers_table({"x": RANGES["input"]})]


def ort_json(shared: Path | None) -> list[bytes]:
    """`calibration.json`, and what quantize_static leaves in its `calibration_cache_path`."""
    nested = {"CLS": "numpy.array", "dtype": "float32"}
    encoded = {
        "CLS": "TensorsData",
        "data": {
            "x": {"lowest": {"data": [-1.0], **nested}, "highest": {"data": 2.0, **nested}, "CLS": "TensorData"},
            "z": {"lowest": 0.0, "highest": 0.0, "hist": [1, 2], "CLS": "TensorData"},
        },
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.Entropy"},
    }
    lowest, highest = ({"data": [[low, high]], **nested} for low, high in ((-1.0, -4.0), (2.0, 3.0)))
    entry = {"lowest": lowest, "highest": highest, "CLS": "TensorData"}
    counts = {"hist": {"data": [0, 3, 1], **nested}, "hist_edges": {"data": [0.0, 1.0, 2.0, 3.0], **nested}, "bins": 3}
    cached = {
        "CLS": "TensorsData",
        "data": {"c": entry, "x": {**encoded["data"]["x"], **counts}, "o": {"lowest": -1, "highest": 2.5}},
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.Distribution"},
        "smooth_quant": True,
    }
    return [json_table(RANGES, method="minmax").encode(), *(json.dumps(each).encode() for each in (encoded, cached))]


def ort_text(shared: Path | None) -> list[bytes]:
    made = [text_table(RANGES).encode(), b"x 1.0\ny: b 2.640000104904175\nz 0.0\nn -1.0\n"]
    if shared is not None:
        made += [path.read_bytes() for path in (shared / "tensorrt" / "caches").glob("ort_*.cache")]
    return made


def ranges_json(shared: Path | None) -> list[bytes]:
    from quantkit.caches.formats.detect import ranges_json as written

    odd = {
        f"t{i}": TensorRange(amax_from_bits(bits), note="odd") for i, bits in enumerate((0, 1, 0x7F800000, 0x7FC00000))
    }
    return [written(RangeCache("x", form, tensors)).encode() for form, tensors in (("json", RANGES), ("tensorrt", odd))]


def maps(shared: Path | None) -> list[bytes]:
    return [b'{"old": "new", "a: b": "\\u00e9", "x": "y"}', b"{}"]


@functools.cache
def tiny_model(opset: int = 17, half: bool = False) -> onnx.ModelProto:
    """Conv, Relu, pool, Gemm: every shape of a few numbers."""
    g = Builder(opset=opset, dtype=np.float16 if half else np.float32)
    x = g.input("x", 2, 4, 4)
    y = g.op("GlobalAveragePool", g.op("Relu", g.conv(x, 2, 2)))
    return g.model(g.gemm(g.op("Flatten", y, axis=1), 2, 3))


@functools.cache
def branching_model() -> onnx.ModelProto:
    """A branch that reads an outer value, a constant node, a function, a string, an integer input, metadata."""
    g = Builder()
    y = g.op("Relu", g.conv(g.input("x", 2, 3, 3), 2, 2, kernel=1))
    graphs = {
        name: helper.make_graph(
            [helper.make_node("Relu", [y], [name], name=name)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ones(2, np.float32), f"{name}_weight")],
        )
        for name in ("then_branch", "else_branch")
    }
    g.inputs.append(helper.make_tensor_value_info("choose", TensorProto.BOOL, []))
    shape = g.op("Constant", value=numpy_helper.from_array(np.array([-1, 18], np.int64)))
    g.domains["local"] = 1
    g.functions.append(
        helper.make_function(
            "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
        )
    )
    flat = g.op("Reshape", g.op("If", "choose", **graphs), shape)
    made = g.model(g.op("Twice", g.linear(flat, 18, 2), domain="local"))
    helper.set_model_props(made, {"author": "é", "quantkit.calibration_table": "a" * 64})
    return made


def float_models(shared: Path | None) -> list[bytes]:
    """Float models; large real ones are left out, as most of their bytes are weights."""
    models = [tiny_model(), tiny_model(11), tiny_model(19, True), branching_model()]
    return [model.SerializeToString() for model in models]


def quantized_models(shared: Path | None) -> list[bytes]:
    """Models with Q/DQ as quantkit writes them, and as others do: asymmetric, per channel, twice, computed."""
    made = []
    for proto in (tiny_model(), tiny_model(19, True)):
        graph = prepare(ir.from_proto(proto), name="tiny")
        plan = plan_tensorrt(graph)
        ranges = {tensor: TensorRange(1.1 + i, -1.0, 1.0 + i) for i, tensor in enumerate(plan.tensors)}
        made.append(ir.to_proto(insert_qdq(graph, plan, activation_params(plan, ranges))).SerializeToString())
    tensors = [
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "several"),
        numpy_helper.from_array(np.array(3, np.uint8), "z"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "s", "zero"], ["e"]),
        helper.make_node("QuantizeLinear", ["x2", "several"], ["r"], axis=1),
        helper.make_node("QLinearConv", ["q", "s", "z", "q", "s", "z", "s", "z"], ["c"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 2]) for name in ("x", "x2")],
        [helper.make_tensor_value_info("e", TensorProto.INT8, [4, 2])],
        tensors,
    )
    odd = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [*made, odd.SerializeToString()]


def external_models(shared: Path | None) -> list[bytes]:
    """Models whose weights are in `weights.data`, which `external_weights` makes."""
    return [_external("weights.data")[0]]


def external_weights(shared: Path | None) -> list[bytes]:
    return [_external("weights.data")[1]]


@functools.cache
def _external(location: str) -> tuple[bytes, bytes]:
    model = onnx.ModelProto()
    model.CopyFrom(tiny_model())
    data = bytearray()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", len(data)), ("length", len(values))):
            tensor.external_data.add(key=key, value=str(value))
        data += values
    return model.SerializeToString(), bytes(data)


def report_files(shared: Path | None) -> list[bytes]:
    """Reports of format 2, with everything that they can hold and with little, and one of format 1."""
    made = [reports.make_report(), reports.make_engines(), reports.make_unlabeled(), reports.make_hostile()]
    made += [rich_report("classification"), rich_report("hostile"), rich_report("error"), samples.make_detection()]
    made += [samples.make_joined()]
    return [
        *(report_json(report).encode() for report in made),
        (TESTS / "reporting" / "report_v1.json").read_bytes(),
    ]


@functools.cache
def rich_report(name: str) -> Report:
    """One of tests/reporting/samples.py with a few entries of each list, and no large picture."""
    report = samples.SAMPLES[name]()
    changes = [next((c for c in report.changes if c.kind == kind), None) for kind in ("broken", "fixed", "changed")]
    return replace(
        report,
        classes=report.classes[:3],
        changes=tuple(replace(c, thumbnail="data:image/jpeg;base64,/9j/4AA=") for c in changes if c is not None),
        tensors=tuple(replace(t, histogram=t.histogram[:5]) for t in (*report.tensors[:2], *report.tensors[-1:])),
        layers=(*report.layers[:2], *report.layers[-3:]),
    )


def manifests(shared: Path | None) -> list[bytes]:
    manifest = Manifest(
        model_name="net.onnx",
        model_hash="a" * 64,
        precision="int8",
        mode="explicit",
        library="tensorrt-rtx",
        library_version="1.7.0",
        gpu="RTX 4090 (sm89)",
        quantkit_version="1",
        high_precision="fp16",
        exclude=("fc",),
        table={"sha256": "b" * 64, "num_samples": 300},
        options={"profiles": [{"x": "1x3 / 2x3"}], "targets": ["sm86", "sm89"], "version_compatible": True},
        engine_sha256="c" * 64,
        engine_size_bytes=7,
        created="2026-01-01T00:00:00+00:00",
    )
    with tempfile.TemporaryDirectory() as folder:
        save_manifest(manifest, Path(folder) / "m")
        full = (Path(folder) / "m").read_bytes()
    short = {k: v for k, v in asdict(manifest).items() if k not in ("options", "table", "exclude", "created")}
    return [full, json.dumps(short).encode()]


def inspector_json(shared: Path | None) -> list[bytes]:
    """What TensorRT's inspector says, in its old and its new form, detailed or not."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 3, 8, 8], "Format/Datatype": INT8}
    conv = {
        "Name": "conv1.weight + QuantizeLinear_7 + Conv_9 + PWN(Sigmoid_1, Mul_2)",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [{**tensor, "Name": "y"}],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 864},
        "Bias": {"Type": "Float", "Count": 32},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_int8",
        "Metadata": "[ONNX Layer: conv][ONNX Layer: relu]",
    }
    reformat = {
        "Name": "Reformatting CopyNode for Input Tensor 0 to Conv_9",
        "LayerType": "Reformat",
        "Inputs": [tensor],
    }
    region = {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin", "Inputs": [], "Outputs": [{**tensor, "Name": "z"}]}
    old = {"Layers": [reformat, conv, region], "Bindings": ["x", "y"]}
    split = {"Name": "x", "Dimensions": [1], "Format": "Row major", "DataType": "Half"}
    kernel = {"Name": "__myl_MulMinMaxRounCast_myl0_1", "LayerType": "kgen", "Inputs": [split], "Outputs": [split]}
    new = {"Layers": [kernel], "I/O Tensors": [split]}
    made = [json.dumps(each).encode() for each in (old, new, {"Layers": ["Conv_9", "Relu_10"]})]
    if shared is not None:
        paths = sorted((shared / "tensorrt" / "inspector").glob("*.graph.json"), key=lambda path: path.stat().st_size)
        made += [path.read_bytes() for path in paths[:3]]
    return made


def profiles(shared: Path | None) -> list[bytes]:
    layers = [{"name": n, "timeMs": 4.0, "averageMs": 1.0, "percentage": 50.0} for n in ("a", "Conv_9", "a")]
    made = [json.dumps([{"count": 4}, *layers]).encode()]
    if shared is not None:
        paths = sorted((shared / "tensorrt" / "inspector").glob("*.profile.json"), key=lambda path: path.stat().st_size)
        made += [path.read_bytes() for path in paths[:2]]
    return made


PLAN = """header {
  version = 5
  region = { name=devmem_0 size=8192 alignment=128 instance=0 type=user place=accelerator unified=false }
  region = { name=consts size=8200 alignment=128 instance=0 type=system place=accelerator unified=false constant=true }
  accelerators={sm86 sm89 sm120 }
}
descriptors {

  tensor={ alignment=128 const_payload_size=4096 dims={ 128 32 } name="weight" offset=4 stride_order={ 1 0 } type=int8 }
  tensor={ alignment=32 dims={ 2 64 } mem_prop=0 name="x.1" offset=0 region="" stride_order={ 1 0 } type=float }
  tensor={ alignment=128 dims={ 2 64 } mem_prop=0 name="q" offset=0 region="devmem_0" stride_order={ 1 0 } type=int8 }
  tensor={ alignment=128 dims={ 2 128 } mem_prop=0 name="y" offset=0 region="devmem_0" stride_order={ 1 0 } type=float }
}
main {
 label bb1:
  function={ name=__myl_MulMinMaxRounCast fqn=__myl_x args={ "x.1" "q" } input_args={ "x.1" } output_args={ "q" } \
layers="[ONNX Layer: x_QuantizeLinear]" swap_ab=false }
  fully_connected={ name="Gemm_3" output={"y" } input={"q" "weight" } \
layers="[ONNX Layer: Gemm_3][ONNX Layer: x]" }
}
"""


def plans(shared: Path | None) -> list[bytes]:
    """What of a TensorRT-RTX plan is read."""
    head = b"vtrt" + bytes(20) + bytes([1, 7, 0, 99]) + bytes(8)
    nested = PLAN.replace("sm86 sm89 sm120 ", "*").replace("fully_connected", "gemm")
    return [head + PLAN.encode() + b"\x00\xff", head + nested.encode() + b"\x00" + PLAN.encode()]


def ultralytics_engines(shared: Path | None) -> list[bytes]:
    metadata = json.dumps({"description": "Ultralytics é", "names": {"0": "person"}}).encode()
    return [struct.pack("<i", len(metadata)) + metadata + b"vtrt" + bytes(24), b"ftrt" + bytes(60)]


def text_lists(shared: Path | None) -> list[bytes]:
    return [
        b"# images\na.png\nsub/b c.png\n",
        b"a.png\t0\nsub/b c.png\t1\n",
        "\ufeffa.png, cat\r\nsub/b c.png; dog\r\n".encode(),
        b"plain 1\na.png 0\n",
    ]


def csv_lists(shared: Path | None) -> list[bytes]:
    return [
        b'path,label\na.png,cat\n"sub/b c.png","dog, big"\n',
        b"label;width;file\n0;8;a.png\n1;8;sub/b c.png\n",
        b"a.png,0\nsub/b c.png,1\n",
    ]


def json_lists(shared: Path | None) -> list[bytes]:
    return [
        b'{"path": "a.png", "label": "cat"}\n{"path": "sub/b c.png", "label": "dog"}\n',
        b'{"image": "a.png", "class": 0}\n\n{"image": "sub/b c.png", "class": 1}\n',
    ]


def class_lists(shared: Path | None) -> list[bytes]:
    return ["cat\ndog\n\nécole\r\n".encode()]


def coco_files(shared: Path | None) -> list[bytes]:
    """COCO's objects in the images that `setup_pictures` makes, with gaps between the ids and a crowd."""
    images = [
        {"id": 7, "file_name": "a.png", "width": 9, "height": 8},
        {"id": 9, "file_name": "val\\sub/b.png", "width": 9.0, "height": None},
        {"id": 11, "file_name": "elsewhere.jpg"},
    ]
    objects = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2.5, 3, 4], "area": 12.0, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 18, "bbox": [0.0, 0.0, 1e3, 2e3], "iscrowd": 1},
        {"id": "x", "image_id": 7, "category_id": 18, "bbox": [0, 0, 0, 0]},
    ]
    categories = [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dög"}]
    full = {"info": {"year": 2017}, "images": images, "annotations": objects, "categories": categories}
    names = [{"id": name, "file_name": f"{name}.png"} for name in ("a", "b")]
    by_name = [{"image_id": "a", "category_id": 0, "bbox": [1, 1, 2, 2]}]
    small = {"images": names, "annotations": by_name, "categories": [{"id": 0, "name": "cat"}]}
    return [json.dumps(full, indent=1).encode(), b"\xef\xbb\xbf" + json.dumps(small).encode()]


def yolo_labels(shared: Path | None) -> list[bytes]:
    """Boxes and polygons of one image."""
    return [
        b"0 0.5 0.5 0.25 0.125\n1 0.1 0.2 0.0 0.4\n",
        b"1.0 0 0 1 0 1 1.005 0 1\r\n\r\n 0\t5e-1 .5 1 1\r\n",
        b"",
    ]


def masks(shared: Path | None) -> list[bytes]:
    """PNG of every kind that a mask may have, and in color."""
    rng = np.random.default_rng(8)
    gray = Image.fromarray(rng.integers(0, 256, (9, 11), np.uint8))
    few = Image.fromarray(rng.integers(0, 4, (9, 11), np.uint8))
    few.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    deep = Image.fromarray(rng.integers(0, 256, (9, 11)).astype(np.uint16))
    channels = (gray, gray, gray, Image.new("L", gray.size, 255))
    made = [gray, few, deep, gray.convert("1"), gray.convert("LA")]
    made += [Image.merge("RGB", channels[:3]), Image.merge("RGBA", channels)]
    contents = []
    for image, options in [*((image, {}) for image in made), (few, {"bits": 2}), (few, {"transparency": b"\x00\x80"})]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        contents.append(buffer.getvalue())
    return contents


def detections(shared: Path | None) -> list[bytes]:
    """Declarations of `--detections`."""
    return [b"detr:scores=pred_logits,boxes=pred_boxes", b"yolov8", b"torchvision:labels_from=0,coordinates=relative"]


def drops(shared: Path | None) -> list[bytes]:
    return [b"0.5pt", b"1%", b" .5 ", b"100."]


def gates(shared: Path | None) -> list[bytes]:
    return [b"mlperf-99", b"mlperf-99.9"]


def sizes(shared: Path | None) -> list[bytes]:
    return [b"1,8,32", b" 64 , 007"]


def array_files(shared: Path | None) -> list[bytes]:
    """.npy of several types, orders and format versions."""
    rng = np.random.default_rng(5)
    arrays = [
        rng.standard_normal((3, 2, 4)).astype(np.float32),
        np.asfortranarray(rng.standard_normal((2, 2, 4))),
        rng.integers(0, 255, (3, 2, 4)).astype(">i2"),
        rng.standard_normal((1, 2, 4)).astype(np.float16),
    ]
    made = [_saved(array) for array in arrays]
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, arrays[0], version=(3, 0))
    return [*made, buffer.getvalue()]


def zipped_arrays(shared: Path | None) -> list[bytes]:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((3, 2, 4)).astype(np.float32)
    made = []
    for save, members in (
        (np.savez, {"x": x, "labels": np.array([0, 1, 0])}),
        (np.savez_compressed, {"x": x, "targets": np.array(["cat", "dog", "é"])}),
        (np.savez, {"x": x, "other": np.zeros(3), "y": x}),
    ):
        buffer = io.BytesIO()
        save(buffer, **members)
        made.append(buffer.getvalue())
    return made


def images(form: str, shared: Path | None) -> list[bytes]:
    """Images of one format, in several modes."""
    rng = np.random.default_rng(7)
    pixels = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, list[tuple[str, dict[str, object]]]] = {
        "PNG": [("RGB", {}), ("P", {"transparency": 3}), ("I;16", {}), ("LA", {}), ("RGBA", {"exif": exif}), ("1", {})],
        "JPEG": [("RGB", {"exif": exif}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})],
        "GIF": [("P", {}), ("L", {"transparency": 1})],
        "BMP": [("RGB", {}), ("P", {}), ("1", {})],
        "TIFF": [("RGB", {}), ("F", {}), ("I;16", {}), ("RGB", {"compression": "tiff_lzw", "exif": exif}), ("LAB", {})],
        "WEBP": [("RGB", {}), ("RGBA", {"lossless": True, "exif": exif})],
    }
    made = []
    for mode, settings in options[form]:
        image = pixels.convert("L").convert("I").convert("I;16") if mode == "I;16" else _converted(pixels, mode)
        buffer = io.BytesIO()
        image.save(buffer, form, **settings)
        made.append(buffer.getvalue())
    if shared is not None and form == "JPEG":
        paths = sorted((shared / "data" / "imagenet-sample").glob("*.JPEG"), key=lambda path: path.stat().st_size)
        made += [path.read_bytes() for path in paths[:2] if path.stat().st_size < 30_000]
    if shared is not None and form == "PNG":
        made += [path.read_bytes() for path in sorted((shared / "data" / "cifar10" / "calib").rglob("*.png"))[:2]]
    return made


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return Image.new("LAB", image.size, (40, 90, 160)) if mode == "LAB" else image.convert(mode)


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
