"""Builds in a process that has one version of NVIDIA's bindings over the fake library, and what was asked of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.layer_types import parse_io_formats, parse_layer_precisions
from quantkit.backends.tensorrt.build.profiles import OptimizationProfile, ShapeRange
from quantkit.commands.build import build
from quantkit.errors import QuantKitError
from quantkit.notices import Notice


def build_engine(model: str, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """`quantkit.build` with TensorRT. Returns the fake's engine, which is JSON, or the error."""
    told: list[str] = []
    try:
        built = build(
            model,
            library="tensorrt",
            options=make_options(options),
            notify=lambda notice: told.append(notice.text),
            **arguments,
        )
    except QuantKitError as error:
        return {"error": type(error).__name__, "message": str(error), "told": told}
    return {
        "engine": json.loads(built.path.read_bytes()),
        "manifest": asdict(built.manifest),
        "reused": built.reused,
        "told": told,
    }


def build_on_jetson(
    model: str, arguments: dict[str, Any], options: dict[str, Any], version: str = ""
) -> dict[str, Any]:
    """`build_engine` on a machine with two DLA cores, by a TensorRT that calls itself `version`."""
    from tests.fake_trt.library import fake

    own = fake.trt.__version__
    fake.dla_cores, fake.trt.__version__ = 2, version or own
    try:
        return build_engine(model, arguments, options)
    finally:
        fake.dla_cores, fake.trt.__version__ = 0, own


def make_options(words: dict[str, Any]) -> BuildOptions:
    """Options that came as JSON."""
    profiles = tuple(
        OptimizationProfile({name: ShapeRange(*map(tuple, three)) for name, three in shapes.items()})
        for shapes in words.pop("profiles", ())
    )
    cache = words.pop("timing_cache", None)
    for name, parse in (("io_formats", parse_io_formats), ("layer_precisions", parse_layer_precisions)):
        words[name] = parse(words.get(name, ()))
    return BuildOptions(profiles=profiles, timing_cache=None if cache is None else Path(cache), **words)


def interrupt_a_build(model: str, cache: str, output: str) -> str:
    """A build during which Ctrl-C comes while TensorRT logs something: what comes out of it."""

    def stop(notice: Notice) -> None:
        if notice.topic == "tensorrt" and notice.kind == "info":
            raise KeyboardInterrupt(notice.text)

    try:
        build(
            model,
            precision="int8",
            library="tensorrt",
            calibration_cache=cache,
            output=output,
            verbose=True,
            notify=stop,
        )
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def warnings_of_implicit_builds(model: str, table: str, cache: str, output: str) -> list[str]:
    """DeprecationWarnings that reach the user from implicit INT8 builds."""
    import warnings

    words = {"precision": "int8", "mode": "implicit", "force": True, "exclude": ["Conv"], "output": output}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for source in ({"table": table}, {"calibration_cache": cache}):
            assert "engine" in build_engine(model, {**words, **source}, {})
    return [str(w.message) for w in caught if w.category is DeprecationWarning]
