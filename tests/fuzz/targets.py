"""Every parser of quantkit that takes a file from outside, with what is done to what it read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from PIL import Image
from rich.console import Console

from quantkit.backends.tensorrt.build.manifest import check_loadable, load_manifest, save_manifest
from quantkit.backends.tensorrt.gpu import Gpu
from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayers
from quantkit.backends.tensorrt.inspection.engine_reader import _without_metadata
from quantkit.backends.tensorrt.inspection.inspector import join_profile, parse_inspector
from quantkit.backends.tensorrt.inspection.rtx_plan import read_plan
from quantkit.backends.tensorrt.library import Library
from quantkit.caches.contents import Shown, shown_cache
from quantkit.caches.formats.detect import ranges_json, read_ranges
from quantkit.caches.formats.ort_tables import check_names, flatbuffers_table, json_table, text_table
from quantkit.caches.formats.tensorrt_cache import TensorRTCache
from quantkit.caches.inspection import rows_from_ranges
from quantkit.caches.match import match_to_model
from quantkit.caches.open import open_cache, read_map
from quantkit.caches.range_cache import RangeCache, difference, rename
from quantkit.caches.reuse import find_checkpoint
from quantkit.calibration.refinement_file import load_refinement, save_refinement
from quantkit.calibration.statistics_file import KeptStatistics, load_statistics, save_statistics
from quantkit.calibration.table import load_table, save_table
from quantkit.cli import cache
from quantkit.commands.inspect import inspect
from quantkit.datasets.arrays import ArrayRows, open_arrays
from quantkit.datasets.file_list import open_file_list
from quantkit.datasets.image_files import ImageFiles
from quantkit.errors import (
    BackendError,
    CalibrationError,
    DatasetError,
    EvaluationError,
    GateFailedError,
    ModelError,
    QuantKitError,
)
from quantkit.evaluation.gate import check_limits, require_passed
from quantkit.evaluation.limits import Drop, Limits
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import external_files, float_precision, input_specs, save_model
from quantkit.graph.model_hash import model_hash
from quantkit.notices import Notice
from quantkit.provenance import differences
from quantkit.reporting import gate_json, gate_junit, gate_markdown, print_report, remarks, report_html, report_markdown
from quantkit.reporting.join import join_reports
from quantkit.reporting.json import load_report, report_json
from quantkit.types import CalibrationTable, Preprocessing, Refinement, Report, TensorSpec
from quantkit.types.options import CLASS_NAMES

from . import seeds
from .labels import LABELS, check_message
from .mutations import mutate_json, mutate_json_lines, mutate_protobuf, mutate_text, mutate_zip, seal_png, set_integer
from .options import OPTIONS
from .oracle import Target

__all__ = ["TARGETS", "load_targets"]

PIXELS = TensorSpec("x", np.dtype(np.float32), (None, 3, 8, 9))
ROWS = TensorSpec("x", np.dtype(np.float32), (None, 2, 4))
INTEGER_ROWS = TensorSpec("x", np.dtype(np.int8), (None, 2, 4))


def seal_table(content: bytes) -> bytes:
    """The checksum of a table made to fit."""
    try:
        table = json.loads(content)
        checked = {name: value for name, value in table.items() if name not in ("checksum", "digests")}
        canonical = json.dumps(checked, sort_keys=True, separators=(",", ":"))
        table["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
        return json.dumps(table).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return content


def seal_statistics(content: bytes) -> bytes:
    """Length and checksum of a file of statistics or rounded weights made to fit."""
    line, separator, rest = content.partition(b"\n")
    words = line.split(b" ")
    if not separator or len(words) < 3:
        return content
    return b" ".join([*words[:3], b"%d" % len(rest), hashlib.sha256(rest).hexdigest().encode()]) + b"\n" + rest


def mutate_statistics(rng: np.random.Generator, content: bytes) -> bytes:
    """The JSON header, or an integer of what follows."""
    line, _, rest = content.partition(b"\n")
    header, _, body = rest.partition(b"\n")
    if rng.random() < 0.7:
        header = mutate_json(rng, header)
    else:
        body = set_integer(rng, body)
    return b"\n".join([line, header, body])


def use_table(table: CalibrationTable, path: Path) -> None:
    written = save_table(table, path.with_suffix(".written"))
    assert load_table(written) == table, "another table is read back"


def use_refinement(refinement: Refinement, path: Path) -> None:
    written = save_refinement(refinement, path.with_suffix(".written"), table=seeds.REFINED_TABLE)
    again = load_refinement(written, table=seeds.REFINED_TABLE)
    rewritten = save_refinement(again, path.with_suffix(".again"), table=seeds.REFINED_TABLE)
    assert rewritten.read_bytes() == written.read_bytes(), "another refinement is read back"


def use_statistics(kept: KeptStatistics, path: Path) -> None:
    written = save_statistics(kept, path.with_suffix(".written"))
    again = load_statistics(written)
    assert again.origin == kept.origin, "another origin is read back"
    assert save_statistics(again, path.with_suffix(".again")).read_bytes() == written.read_bytes()
    for tensor in kept.tensors.values():
        assert tensor.count >= 0
        assert tensor.amax >= 0


NO_SAMPLES = ArrayRows(Path("none.npz"), {}, {}, (), None, ())


def parse_checkpoint(path: Path) -> KeptStatistics:
    """What `--resume` does with a checkpoint; a reason to start anew counts as a refusal."""
    told: list[Notice] = []
    kept = find_checkpoint(
        path, seeds.ORIGIN, seeds.STATISTICS_TENSORS, NO_SAMPLES, batch_size=None, strict=False, notify=told.append
    )
    if kept is None:
        raise CalibrationError("; ".join(notice.text for notice in told))
    return kept


def setup_table(folder: Path) -> None:
    """The table of the first statistics that `seeds.older_statistics` makes, where it is looked for."""
    table = seeds.TESTS / "calibration" / "data" / "version_1.calib.json"
    (folder / "input.calib.json").write_bytes(table.read_bytes())


def setup_statistics(folder: Path) -> None:
    (folder / "input.calib.stats").write_bytes(seeds.older_statistics(None)[0])


def use_shown(shown: Shown, path: Path) -> None:
    """Shown as text and as JSON."""
    for histogram in shown.histograms.values():
        assert min(histogram.counts) >= 0
        assert math.isfinite(histogram.upper)
    for as_json in (False, True):
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            cache.show(path, as_json=as_json)
        text = written.getvalue()
        assert text.replace("\n", "").isprintable(), "control characters are shown"
        if as_json:
            json.loads(text)


def use_ranges(cache: RangeCache, path: Path) -> None:
    """Shown, compared with itself, renamed, and written in every form that can hold it."""
    rows_from_ranges(cache.tensors)
    assert cache.title
    assert difference(cache, cache).is_same, "it differs from itself"
    rename(cache, {name: f"{name}_" for name in list(cache.tensors)[:1]})
    written = path.with_name("written")
    written.write_text(ranges_json(cache), encoding="utf-8")
    if cache.tensors:
        _check_same(read_ranges(written), cache, "its JSON")
    plain = {n: r for n, r in cache.tensors.items() if n and not set("\r\n") & set(n)}
    bits = {name: r.scale_bits for name, r in plain.items()}
    text = TensorRTCache(cache.version or 8601, cache.algorithm or "EntropyCalibration2", bits).text()
    written.write_bytes(text.encode())
    assert {n: r.scale_bits for n, r in read_ranges(written).tensors.items()} == bits, "TensorRT's cache"
    usable = {name: r for name, r in plain.items() if r.is_valid}
    if usable:
        for content in (flatbuffers_table(usable), json_table(usable, method=cache.method).encode()):
            written.write_bytes(content)
            again = read_ranges(written).tensors
            assert again.keys() == usable.keys(), "another table of ONNX Runtime is read back"
        try:
            check_names(list(usable), as_text=True)
        except CalibrationError as error:
            check_message(error)
        else:
            written.write_text(text_table(usable), encoding="utf-8")
            again = read_ranges(written).tensors
            assert {n: r.amax for n, r in again.items()} == {n: r.amax for n, r in usable.items()}


def _check_same(read: RangeCache, cache: RangeCache, what: str) -> None:
    found = {name: (r.scale_bits, r.minimum, r.maximum, r.note) for name, r in read.tensors.items()}
    wanted = {name: (r.scale_bits, r.minimum, r.maximum, r.note) for name, r in cache.tensors.items()}
    assert found == wanted, f"{what} is read back as something else"


def use_map(names: dict[str, str], path: Path) -> None:
    from quantkit.types.calibration import TensorRange

    cache = RangeCache("c", "json", {name: TensorRange(1.0) for name in [*names, "kept"]})
    try:
        rename(cache, names)
    except CalibrationError as error:
        check_message(error)


def parse_model(path: Path) -> Any:
    model = FloatModel(path).graph
    _named(path, lambda: input_specs(model))
    return model


def use_model(model: Any, path: Path) -> None:
    identity = model_hash(model)
    external_files(model)  # raises nothing, whatever the model says
    assert float_precision(model) in ("fp32", "fp16")
    written = path.with_name("written.onnx")
    save_model(model, written)
    assert model_hash(FloatModel(written).graph) == identity, "another model is read back"


def parse_float_model(path: Path) -> Any:
    """As far as a cache or a calibration needs it: prepared, with what INT8 reads."""
    model = FloatModel(path)
    model.check_float()
    return _named(path, model.prepared)


def use_float_model(graph: Any, path: Path) -> None:
    try:
        match_to_model(RangeCache("c", "json", {}), graph)
    except ModelError as error:
        check_message(error)


def setup_external_model(folder: Path) -> None:
    (folder / "weights.data").write_bytes(seeds.external_weights(None)[0])


def setup_external_weights(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(seeds._external("input.data")[0])


def parse_external_weights(path: Path) -> Any:
    return parse_model(path.with_name("model.onnx"))


def use_external_weights(model: Any, path: Path) -> None:
    use_model(model, path.with_name("model.onnx"))


def use_report(report: Report, path: Path) -> None:
    written = path.with_name("written.json")
    written.write_text(report_json(report), encoding="utf-8")
    assert report_json(load_report(written)) == report_json(report), "another report is read back"
    render(report)
    try:
        render(join_reports({"a": report, "b": report}))
    except EvaluationError as error:
        check_message(error)
    judge(report)


def render(report: Report) -> None:
    """In every form that people read."""
    report_html(report)
    report_markdown(report)
    print_report(report, Console(file=io.StringIO(), width=100))


def judge(report: Report) -> None:
    """What `quantkit compare` does with it."""
    for limits in (
        Limits(max_drop=Drop(1.0, "%"), min_agreement=0.98, min_speedup=1.2, max_size_ratio=0.5, allow_partial=True),
        Limits(gates=("mlperf-99",), min_speedup=1.0, at_batch=8, confident=True, allow_partial=True),
        Limits(max_drop=Drop(0.5, ""), max_size_ratio=0.5),
    ):
        try:
            checks = check_limits(report, limits)
            gate_json(report, checks), gate_junit(report, checks)
            gate_markdown(report, checks, cautions=remarks(report))
            require_passed(checks)
        except (EvaluationError, GateFailedError) as error:
            check_message(error)


def use_manifest(manifest: Any, path: Path) -> None:
    """Written again, compared with another, and asked whether its engine loads here."""
    written = path.with_name("written.json")
    save_manifest(manifest, written)
    assert load_manifest(written) == manifest, "another manifest is read back"
    assert differences(manifest.facts, manifest.facts) == []
    differences(manifest.facts, replace(manifest, options={"targets": ["sm86"]}).facts)
    for name, version in (("tensorrt-rtx", (1, 7, 0)), ("tensorrt", (10, 3, 0))):
        for gpu in (Gpu("RTX 4090", "8.9"), Gpu("H100", "9.0"), None):
            try:
                check_loadable(manifest, Library(SimpleNamespace(), name, version), gpu, name=path.name)
            except BackendError as error:
                check_message(error)


def parse_profile(path: Path) -> EngineLayers:
    engine_layers = parse_inspector(seeds.inspector_json(None)[0], name="inspector.json")
    renamed = [
        replace(layer, name=name) for layer, name in zip(engine_layers.layers, ("a", "Conv_9", "a"), strict=True)
    ]
    return join_profile(replace(engine_layers, layers=tuple(renamed)), path.read_bytes(), name=str(path))


def use_engine_layers(engine_layers: EngineLayers | None, path: Path) -> None:
    if engine_layers is None:
        return
    for coverage in (engine_layers.weighted_coverage, engine_layers.layer_coverage, engine_layers.time_coverage):
        assert coverage is None or coverage.fraction is None or 0 <= coverage.fraction <= 1
    assert engine_layers.total_ms is None or not math.isnan(engine_layers.total_ms)
    assert engine_layers.reformat_ms is None or engine_layers.reformat_ms >= 0
    assert all(layer.reason for layer in engine_layers.left_in_float)


def parse_list(path: Path) -> ImageFiles:
    return open_file_list(path, PIXELS, preprocessing=Preprocessing(size=(8, 9)))


def use_list(files: ImageFiles, path: Path) -> None:
    assert len(set(files.ids)) == len(files)
    assert all(p.is_file() for p in files.paths)
    assert files.fingerprint
    if files.targets is not None:
        assert len(files.targets) == len(files)
        assert min(files.targets) >= 0


def setup_images(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("a.png", "sub/b c.png"):
        Image.new("RGB", (3, 3)).save(folder / name)
    Image.new("RGB", (3, 3)).save(folder / "plain", "PNG")


def parse_class_list(path: Path) -> list[str] | None:
    try:
        return CLASS_NAMES.parse(str(path))
    except ValueError as error:  # which the command line words as an error of its option
        raise DatasetError(str(error)) from None


def parse_arrays(path: Path) -> ArrayRows:
    try:
        return open_arrays(path, [ROWS])
    except DatasetError:
        return open_arrays(path, [INTEGER_ROWS])


def use_arrays(rows: ArrayRows, path: Path) -> None:
    for i in range(min(len(rows), 10)):
        rows.content_hash(i)
        try:
            sample = rows[i]
        except DatasetError as error:
            check_message(error, path.name)
        else:
            assert all(np.isfinite(array).all() for array in sample.inputs.values())


def parse_image(path: Path) -> Any:
    files = ImageFiles(
        kind="image list",
        paths=[path],
        ids=[path.name],
        targets=None,
        classes=(),
        input_name="x",
        preprocessing=Preprocessing(size=(8, 9), resize="letterbox"),
    )
    return files[0].inputs["x"]


def use_image(array: Any, path: Path) -> None:
    assert array.shape == (3, 8, 9)
    assert np.isfinite(array).all()


def use_inspection(inspection: Any, path: Path) -> None:
    use_engine_layers(getattr(inspection, "engine_layers", None), path)


def _named(path: Path, read: Any) -> Any:
    """Readers of a loaded model have no path: who calls them names the file."""
    try:
        return read()
    except QuantKitError as error:
        raise type(error)(f"{path.name}: {error}") from error


_MODEL = mutate_protobuf(onnx.ModelProto)

TARGETS: dict[str, Target] = {
    "calibration table": Target(".calib.json", seeds.table_files, load_table, use_table, mutate_json, seal_table),
    "table as ranges": Target(".json", seeds.table_files, open_cache, use_ranges, mutate_json, seal_table),
    "statistics": Target(
        ".stats", seeds.statistics_files, load_statistics, use_statistics, mutate_statistics, seal_statistics
    ),
    "rounded weights": Target(
        ".weights",
        seeds.refinement_files,
        partial(load_refinement, table=seeds.REFINED_TABLE),
        use_refinement,
        mutate_statistics,
        seal_statistics,
    ),
    "checkpoint of --resume": Target(
        ".partial", seeds.statistics_files, parse_checkpoint, use_statistics, mutate_statistics, seal_statistics
    ),
    "statistics, shown": Target(
        ".calib.stats",
        seeds.older_statistics,
        shown_cache,
        use_shown,
        mutate_statistics,
        seal_statistics,
        setup=setup_table,
    ),
    "table beside statistics": Target(
        ".calib.json", seeds.table_files, shown_cache, use_shown, mutate_json, seal_table, setup=setup_statistics
    ),
    "TensorRT cache": Target(".cache", seeds.tensorrt_caches, open_cache, use_ranges, mutate_text),
    "ONNX Runtime flatbuffers": Target(".flatbuffers", seeds.ort_flatbuffers, open_cache, use_ranges, set_integer),
    "ONNX Runtime JSON": Target(".json", seeds.ort_json, open_cache, use_ranges, mutate_json),
    "ONNX Runtime text": Target(".cache", seeds.ort_text, open_cache, use_ranges, mutate_text),
    "ranges JSON": Target(".json", seeds.ranges_json, open_cache, use_ranges, mutate_json),
    "map of names": Target(".json", seeds.maps, read_map, use_map, mutate_json),
    "model with Q/DQ": Target(".onnx", seeds.quantized_models, open_cache, use_ranges, _MODEL),
    "model": Target(".onnx", seeds.float_models, parse_model, use_model, _MODEL),
    "model, prepared": Target(".onnx", seeds.float_models, parse_float_model, use_float_model, _MODEL),
    "model with external data": Target(
        ".onnx", seeds.external_models, parse_model, use_model, _MODEL, setup=setup_external_model
    ),
    "external data": Target(
        ".data",
        seeds.external_weights,
        parse_external_weights,
        use_external_weights,
        setup=setup_external_weights,
        share=0.5,
    ),
    "report": Target(".json", seeds.report_files, load_report, use_report, mutate_json),
    "engine manifest": Target(".engine.json", seeds.manifests, load_manifest, use_manifest, mutate_json),
    "engine inspector JSON": Target(".json", seeds.inspector_json, inspect, use_inspection, mutate_json),
    "layer profile": Target(".json", seeds.profiles, parse_profile, use_engine_layers, mutate_json),
    "TensorRT-RTX plan": Target(
        ".engine", seeds.plans, lambda path: read_plan(path.read_bytes()), use_engine_layers, mutate_text
    ),
    "Ultralytics engine": Target(
        ".engine", seeds.ultralytics_engines, lambda path: _without_metadata(path.read_bytes()), share=0.5
    ),
    "text list": Target(".txt", seeds.text_lists, parse_list, use_list, mutate_text, setup=setup_images),
    "CSV list": Target(".csv", seeds.csv_lists, parse_list, use_list, mutate_text, setup=setup_images),
    "JSON list": Target(".jsonl", seeds.json_lists, parse_list, use_list, mutate_json_lines, setup=setup_images),
    "class names": Target(".txt", seeds.class_lists, parse_class_list, None, mutate_text, share=0.5),
    ".npy arrays": Target(".npy", seeds.array_files, parse_arrays, use_arrays),
    ".npz arrays": Target(".npz", seeds.zipped_arrays, parse_arrays, use_arrays, mutate_zip(mutate_text)),
    "PNG image": Target(".png", partial(seeds.images, "PNG"), parse_image, use_image, seal=seal_png),
    "JPEG image": Target(".jpg", partial(seeds.images, "JPEG"), parse_image, use_image),
    "GIF image": Target(".gif", partial(seeds.images, "GIF"), parse_image, use_image, share=0.5),
    "BMP image": Target(".bmp", partial(seeds.images, "BMP"), parse_image, use_image, share=0.5),
    "TIFF image": Target(".tif", partial(seeds.images, "TIFF"), parse_image, use_image, set_integer),
    "WebP image": Target(".webp", partial(seeds.images, "WEBP"), parse_image, use_image, share=0.5),
    **LABELS,
    **OPTIONS,
}


def load_targets() -> dict[str, Target]:
    """For a child process, which finds them by this function's name."""
    return TARGETS
