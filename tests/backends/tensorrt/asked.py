"""Builds in a process that has one version of NVIDIA's bindings over the fake library, and what was asked of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.backends.tensorrt.options import BuildOptions
from quantkit.backends.tensorrt.profiles import Profile, ShapeRange
from quantkit.errors import QuantKitError
from quantkit.pipeline import build


def build_engine(model: str, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """`quantkit.build` with TensorRT. Returns the fake's engine, which is JSON, or the error."""
    told: list[str] = []
    try:
        built = build(model, library="tensorrt", options=make_options(options), tell=told.append, **arguments)
    except QuantKitError as error:
        return {"error": type(error).__name__, "message": str(error), "told": told}
    return {
        "engine": json.loads(built.path.read_bytes()),
        "manifest": asdict(built.manifest),
        "reused": built.reused,
        "told": told,
    }


def make_options(words: dict[str, Any]) -> BuildOptions:
    """Options that came as JSON."""
    profiles = tuple(
        Profile({name: ShapeRange(*map(tuple, three)) for name, three in shapes.items()})
        for shapes in words.pop("profiles", ())
    )
    cache = words.pop("timing_cache", None)
    return BuildOptions(profiles=profiles, timing_cache=None if cache is None else Path(cache), **words)


def interrupt_a_build(model: str) -> str:
    """A build whose logger meets Ctrl-C: what comes out."""
    from quantkit.backends.tensorrt.build import build_engine
    from quantkit.backends.tensorrt.library import load_library

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    try:
        build_engine(load_library("tensorrt"), Path(model), precision="fp16", mode="implicit", tell=stop, verbose=True)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def warnings_of_an_implicit_build(model: str, table: str) -> list[str]:
    """DeprecationWarnings that reach the user from an implicit INT8 build."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_engine(model, {"precision": "int8", "mode": "implicit", "table": table, "force": True}, {})
    return [str(w.message) for w in caught if w.category is DeprecationWarning]
