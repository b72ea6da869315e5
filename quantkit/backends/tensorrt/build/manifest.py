"""Engine manifest: the model, table, library, GPU and options of an engine, as JSON next to it.

An engine itself contains little of that, and TensorRT rejects one of another version or GPU without naming either.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from quantkit.backends.tensorrt.gpu import Gpu
from quantkit.backends.tensorrt.library import Library, parse_version
from quantkit.errors import BackendError
from quantkit.machine import read_file, read_input
from quantkit.notices import Notice, Notify, join_names
from quantkit.provenance import why_stale
from quantkit.storage import write_bytes, write_text

_FORMAT = "quantkit engine"
_FORMAT_VERSION = 1

_LATER_MAJORS = {8: (9, 10), 10: (11,)}
"""Major versions beside its own on which a version-compatible engine runs. Never on one older than the builder's."""

_NOT_DECIDING = (
    *("engine_sha256", "engine_size_bytes", "model_name", "created", "selection", "format", "format_version"),
)


@dataclass(frozen=True)
class Manifest:
    """What an engine was made of.

    Attributes:
        model_name, model_hash: the ONNX model (`quantkit.graph.model.model_hash`).
        precision: "fp32", "fp16" or "int8".
        mode: "explicit" (the model's own types and Q/DQ) or "implicit" (ranges and builder flags).
        high_precision: of what stays in float beside INT8; None where that is not asked or the model says it.
        exclude: what was excluded from quantization.
        library, library_version: "tensorrt" or "tensorrt-rtx", and which.
        gpu: of the machine, which TensorRT builds for; None for TensorRT-RTX, whose targets are among the options.
        table: of the calibration: its own hash, the data's fingerprint, method, number of samples; empty without one.
        options: what else was asked for (`BuildOptions.facts`).
        quantkit_version: that made the graph.
        engine_sha256, engine_size_bytes: of the engine.
        created: ISO 8601, UTC.
        selection: of `build_best`: which engines were timed, which was chosen, and why; empty where none was.
    """

    model_name: str
    model_hash: str
    precision: str
    mode: str
    library: str
    library_version: str
    gpu: str | None
    quantkit_version: str
    high_precision: str | None = None
    exclude: tuple[str, ...] = ()
    table: Mapping[str, str | int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    engine_sha256: str = ""
    engine_size_bytes: int = 0
    created: str = ""
    selection: Mapping[str, Any] = field(default_factory=dict)
    format: str = _FORMAT
    format_version: int = _FORMAT_VERSION

    @property
    def facts(self) -> dict[str, object]:
        """What decides the engine, flat: options and table by their own names."""
        facts: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("table", "options"):
                facts |= {f"{f.name} {key.replace('_', ' ')}": inner for key, inner in value.items()}
            elif f.name not in _NOT_DECIDING:
                facts[f.name.replace("_", " ")] = list(value) if isinstance(value, tuple) else value
        return facts

    @property
    def holds_host_code(self) -> bool:
        """Whether loading the engine runs code that it carries: it is version-compatible."""
        return bool(self.options.get("version_compatible", False))

    @property
    def summary(self) -> str:
        """What the engine is for and how its precisions come about; "" where the library's name says it all."""
        words = []
        if self.precision not in ("fp32", "fp16"):
            beside = f", {self.high_precision.upper()} beside it" if self.high_precision else ""
            words.append(f"{self.mode} {self.precision.upper()}{beside}")
        if self.library == "tensorrt-rtx":
            words.append(
                f"for {join_names(self.options['targets'])}" if "targets" in self.options else "for sm80 and newer"
            )
        elif self.gpu is not None:
            words.append(f"for {self.gpu}")
        return ", ".join(words)


def manifest_path(engine: str | os.PathLike[str]) -> Path:
    """model.int8.engine → model.int8.engine.json."""
    return Path(f"{os.fspath(engine)}.json")


def save_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Writes the manifest atomically."""
    head = {"format": _FORMAT, "format_version": _FORMAT_VERSION}
    write_text(path, json.dumps({**head, **msgspec.to_builtins(manifest)}, indent=2, ensure_ascii=False) + "\n")


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest.

    Raises:
        BackendError: the file is missing, no manifest, or of a newer format.
    """
    file = Path(path)
    stored = read_input(file, BackendError)
    try:
        data = msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendError(f"{file} is not an engine manifest: {error}") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise BackendError(f"{file} is not an engine manifest: it does not say format {_FORMAT!r}")
    if data.get("format_version") != _FORMAT_VERSION:
        raise BackendError(f"{file} has format version {data.get('format_version')!r}, not {_FORMAT_VERSION}")
    try:
        manifest = msgspec.convert(data, Manifest)
    except msgspec.ValidationError as error:
        raise BackendError(f"{file} is not a valid engine manifest: {error}") from error
    targets = manifest.options.get("targets", [])
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise BackendError(f"{file} is not a valid engine manifest: its targets are not a list of names")
    return manifest


def find_reusable(path: Path, wanted: Manifest, notify: Notify) -> Manifest | None:
    """The manifest of the engine at `path`, if building would give the same engine; says why not otherwise."""
    if not path.exists() or not manifest_path(path).exists():
        return None
    try:
        stored = load_manifest(manifest_path(path))
    except BackendError as error:
        notify(Notice("info", "reuse", f"Rebuilding: {error}"))
        return None
    reason = why_stale(path.name, stored.facts, wanted.facts)
    if not reason and not is_engine_of(stored, path):
        reason = f"{path.name} is not the file that its manifest describes"
    if reason:
        notify(Notice("info", "reuse", f"Rebuilding: {reason}"))
        return None
    text = f"Reusing {path}: same model, table, library, GPU and options. Pass --force to rebuild."
    notify(Notice("info", "reuse", text))
    return stored


def write_engine(path: str | os.PathLike[str], engine: bytes, made_of: Manifest) -> Manifest:
    """Writes an engine with its manifest. Returns the manifest, which names the engine now."""
    manifest = replace(
        made_of,
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        engine_size_bytes=len(engine),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    # The engine first: a manifest without its engine, after a crash between the two, does not match and is replaced.
    write_bytes(path, engine)
    save_manifest(manifest, manifest_path(path))
    return manifest


def is_engine_of(manifest: Manifest, engine: str | os.PathLike[str]) -> bool:
    """Whether the file `engine` is the one that the manifest was written for."""
    try:
        content = read_file(engine, most_bytes=None)
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == manifest.engine_sha256


def find_manifest(engine: Path) -> Manifest | None:
    """The manifest of this engine, MODEL.engine.json; None where there is none or it is another engine's."""
    path = manifest_path(engine)
    manifest = load_manifest(path) if path.is_file() else None
    return manifest if manifest is not None and is_engine_of(manifest, engine) else None


def may_run_host_code(engine: Path) -> bool:
    """Whether a manifest beside an engine says that it is version-compatible; an unusable one says nothing."""
    try:
        manifest = find_manifest(engine)
    except BackendError:
        return False
    return manifest is not None and manifest.holds_host_code


def describe_build(engine: Path) -> dict[str, str]:
    """What the manifest next to an engine says, in words; nothing where there is none, or it is another engine's."""
    path = manifest_path(engine)
    if not path.is_file():
        return {}
    try:
        manifest = load_manifest(path)
    except BackendError as error:
        return {"manifest": f"unusable: {error}"}
    if not is_engine_of(manifest, engine):
        return {"manifest": f"{path.name} is of another engine: build again, or delete it"}
    facts = {
        "model": f"{manifest.model_name} (hash {manifest.model_hash[:12]})",
        "asked for": f"{manifest.precision}, {manifest.mode}",
        "built with": f"{manifest.library} {manifest.library_version}",
        "built on": manifest.gpu or "",
        "excluded": ", ".join(manifest.exclude),
        "chosen": str(manifest.selection.get("reason", "")),
        "host code": "allowed: the engine is version-compatible" if manifest.holds_host_code else "",
        "calibration": ", ".join(f"{key} {str(value)[:12]}" for key, value in manifest.table.items()),
    }
    return {key: value for key, value in facts.items() if value}


def check_loadable(manifest: Manifest, library: Library, gpu: Gpu | None, *, name: str) -> None:
    """Rejects an engine of another library, version or GPU, for which TensorRT would only return None.

    Args:
        manifest: of the engine.
        library: that is to load it.
        gpu: that is to run it.
        name: of the engine, for the message.

    Raises:
        BackendError: naming what the engine was built for, and what is here.
    """
    version = ".".join(map(str, library.version))
    fix = "build it again here with quantkit build"
    built = parse_version(manifest.library_version)
    if manifest.library != library.name:
        raise BackendError(f"{name} was built with {manifest.library}, not for {library.title}: {fix}")
    if manifest.library_version != version:
        is_known = library.version > built and library.version[0] in (built[0], *_LATER_MAJORS.get(built[0], ()))
        if not (manifest.holds_host_code and is_known):
            raise BackendError(
                f"{name} was built with version {manifest.library_version}, this is {library.title}: {fix}"
            )
    if gpu is None:
        return
    targets = manifest.options.get("targets", [])
    if targets and gpu.target not in targets:
        raise BackendError(f"{name} was built for {', '.join(targets)}, this is {gpu}: add --target {gpu.target}")
    if manifest.gpu is None or manifest.gpu == str(gpu):
        return
    portable = manifest.options.get("hardware_compatibility")
    if portable is None:
        raise BackendError(f"{name} was built for {manifest.gpu}, this is {gpu}: {fix}")
    if portable == "ampere-plus" and not gpu.is_ampere_or_newer:
        raise BackendError(f"{name} was built for sm80 and newer, this is {gpu}: {fix}")
    if portable == "same-compute-capability" and not manifest.gpu.endswith(f"({gpu.target})"):
        raise BackendError(f"{name} was built for the compute capability of {manifest.gpu}, this is {gpu}: {fix}")
