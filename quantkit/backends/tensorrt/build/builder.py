"""Builds an engine from ONNX with TensorRT 8.6 to 11 or TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantkit.backends.cuda.context import on_current_device
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.build_progress import OnProgress, make_monitor
from quantkit.backends.tensorrt.build.configuration import add_profiles, check_options, configure
from quantkit.backends.tensorrt.build.dla import check_fallback, check_static
from quantkit.backends.tensorrt.build.layer_types import set_io_formats, set_layer_precisions
from quantkit.backends.tensorrt.build.precision import (
    Typing,
    constrain_to_float,
    network_has_qdq,
    quiet_deprecations,
    set_flags,
    set_ranges,
)
from quantkit.backends.tensorrt.build.profiles import Shapes, resolve_profiles
from quantkit.backends.tensorrt.build.timing_cache import save_timing_cache
from quantkit.backends.tensorrt.calibrators.streaming import Calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.backends.tensorrt.plugins import init_standard_plugins, load_plugins
from quantkit.errors import BackendError, BackendUnavailableError, EngineBuildError, ModelError
from quantkit.notices import Notice, Notify, announcing, logs_duration
from quantkit.types import SCHEMES

_SHOWN_ERRORS = 3

_FIRST_WITH_NATIVE_NORMALIZATION = 10
"""Before, InstanceNormalization is a plugin, which engines for other versions or GPUs cannot hold."""

_HOST_CODE = "a version-compatible engine carries code that runs when it is loaded: load only those of people you trust"

_HARMLESS = ("Converting conv", "differs from one already registered")
"""Warnings about FP16 scales, one per convolution, and about a runner that is open during the build."""

_HINTS = (
    ("precision constraint", "a layer that must stay in float has no such kernel: --precision-constraints prefer"),
    ("out of memory", "free GPU memory or reduce --max-shapes"),
    ("insufficient memory", "increase --workspace"),
    ("find any implementation", "increase --workspace, or remove restrictions on kernels"),
    ("no scaling factors", "calibrate without --no-all-tensors, so that every tensor has a range"),
    ("fp32 gemm is not supported", "build with --precision fp16"),
)


@dataclass(frozen=True)
class OnnxInput:
    """The model that an engine is built from.

    Attributes:
        content: serialized ONNX, or the path of a file, for weights in external files.
        name: for messages.
        node_titles: of the ONNX nodes in order, for parser errors of TensorRT 8, which only gives their index.
        fp32_nodes: names of ONNX nodes that overflow in FP16, for builds where flags decide.
    """

    content: bytes | Path
    name: str = "the model"
    node_titles: Sequence[str] = ()
    fp32_nodes: Collection[str] = ()


@dataclass(frozen=True)
class ImplicitQuantization:
    """Dynamic ranges for implicit quantization, from a table or from a calibrator.

    Attributes:
        ranges: amax by tensor name.
        calibrator: a `trt.IInt8Calibrator`, which reads a cache or streams data.
        calibration_shapes: shape by input of the data that the calibrator streams, for dynamic inputs.
        float_nodes: names of ONNX nodes that stay in float.

    Raises:
        BackendError: neither or both of `ranges` and `calibrator` are given.
    """

    ranges: Mapping[str, float] | None = None
    calibrator: Calibrator | None = None
    calibration_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    float_nodes: Collection[str] = ()

    def __post_init__(self) -> None:
        if (self.ranges is None) == (self.calibrator is None):
            raise BackendError("implicit INT8 needs ranges or a calibrator, not both")


@logs_duration
def build_engine(
    library: Library,
    model: OnnxInput,
    *,
    typing: Typing,
    implicit: ImplicitQuantization | None = None,
    options: BuildOptions | None = None,
    on_progress: OnProgress | None = None,
    notify: Notify | None = None,
    verbose: bool = False,
) -> bytes:
    """Builds a serialized engine.

    Args:
        library: from `load_library`.
        model: with Q/DQ for explicit INT8.
        typing: from `choose_typing`.
        implicit: for implicit INT8, and only for that.
        options: everything but precision.
        on_progress: called with the completed fraction and the phase (TensorRT 10 and later, TensorRT-RTX).
        notify: called with each `Notice`; without it, notices are only logged.
        verbose: pass on every message of TensorRT.

    Returns:
        The engine, for `trt.Runtime.deserialize_cuda_engine`.

    Raises:
        BackendUnavailableError: TensorRT finds no GPU.
        BackendError: an option that this library lacks or that does not fit the model.
        ModelError: TensorRT cannot parse the model, or it does not fit the precision.
        EngineBuildError: TensorRT cannot build it.
    """
    options = options or BuildOptions()
    with on_current_device():
        return _build(library, model, typing, implicit, options, on_progress, announcing(notify), verbose)


def _build(
    library: Library,
    model: OnnxInput,
    typing: Typing,
    implicit: ImplicitQuantization | None,
    options: BuildOptions,
    on_progress: OnProgress | None,
    notify: Notify,
    verbose: bool,
) -> bytes:
    precision = typing.precision
    if (implicit is not None) != (precision == "int8" and typing.mode == "implicit"):
        if implicit is None:
            raise BackendError("implicit INT8 needs ranges or a calibrator")
        raise BackendError(f"ranges, calibrators and float nodes are for implicit INT8, not {typing.mode} {precision}")
    check_options(library, options, gpu=find_gpu())
    build = _Build.start(library, typing, model, options=options, notify=notify if verbose else None)
    build.parse()
    if network_has_qdq(library, build.network) != (precision in SCHEMES and typing.mode == "explicit"):
        raise ModelError(_wrong_qdq(model.name, typing))
    options = replace(options, profiles=resolve_profiles(build.input_shapes(), options.profiles))
    build.set_types(options, typing)
    if options.version_compatible:
        notify(Notice("info", "engine", _HOST_CODE))
    if options.dla_core is not None:
        check_static(options.profiles)
    configure(library, build.builder, build.config, options)
    add_profiles(build.builder, build.config, options)
    set_flags(library, build.config, typing)
    if implicit is not None:
        if implicit.ranges is not None:
            build.set_dynamic_ranges(implicit.ranges, notify)
        if implicit.calibrator is not None:
            build.set_calibrator(implicit.calibrator, implicit.calibration_shapes)
        if implicit.float_nodes:
            build.constrain_to_float(implicit.float_nodes, options, notify, half="FP16" in typing.flags)
    if model.fp32_nodes and "FP16" in typing.flags:
        build.constrain_to_float(model.fp32_nodes, options, notify, half=False)
    if options.dla_core is not None:
        check_fallback(library, build.network, build.config, allowed=options.allow_gpu_fallback, notify=notify)
    engine = build.run(on_progress, implicit.calibrator if implicit is not None else None)
    if options.timing_cache is not None:
        save_timing_cache(build.config, options.timing_cache)
    if not verbose:
        _report_warnings(build.logger, notify)
    return engine


@dataclass
class _Build:
    """TensorRT's objects of one build. They reference each other in C++, so all must live until the end."""

    library: Library
    logger: Any
    builder: Any
    network: Any
    parser: Any
    config: Any
    model: OnnxInput

    @classmethod
    def start(
        cls,
        library: Library,
        typing: Typing,
        model: OnnxInput,
        *,
        options: BuildOptions,
        notify: Notify | None,
    ) -> _Build:
        trt = library.module
        logger = make_logger(library, notify=notify, verbose=notify is not None)
        init_standard_plugins(library, logger)
        load_plugins(library, options.plugins)
        try:
            builder = trt.Builder(logger)
        except (TypeError, RuntimeError) as error:
            said = "; ".join(logger.errors()[:_SHOWN_ERRORS]) or "no CUDA driver"
            raise BackendUnavailableError(
                f"{library.title} cannot start, it needs an NVIDIA GPU ({said}); TensorRT-RTX builds without one: "
                "pip install tensorrt-rtx and --library rtx"
            ) from error
        flags = trt.NetworkDefinitionCreationFlag
        bits = 0
        if hasattr(flags, "EXPLICIT_BATCH"):  # 8.6 refuses ONNX without it, 10 ignores it, 11 has no such flag
            bits |= 1 << int(flags.EXPLICIT_BATCH)
        if typing.strong:
            bits |= 1 << int(flags.STRONGLY_TYPED)
        network = builder.create_network(bits)
        config = builder.create_builder_config()
        if network is None or config is None:  # `not network` would be true of an empty one
            raise EngineBuildError(f"{library.title} makes no network: {'; '.join(logger.errors()[:_SHOWN_ERRORS])}")
        parser = trt.OnnxParser(network, logger)
        if library.version[0] < _FIRST_WITH_NATIVE_NORMALIZATION and options.is_portable:
            parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
        if options.dla_core is not None and typing.strong and hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):
            parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
        return cls(library, logger, builder, network, parser, config, model)

    def parse(self) -> None:
        """Parses the ONNX model into the network."""
        parser, content = self.parser, self.model.content
        parsed = parser.parse(content) if isinstance(content, bytes) else parser.parse_from_file(str(content))
        if parsed:
            return
        reasons = list(dict.fromkeys(self._describe(parser.get_error(i)) for i in range(parser.num_errors)))
        shown = "; ".join(reasons[:_SHOWN_ERRORS] or self.logger.errors()[:1] or ["it does not say why"])
        more = f"; and {len(reasons) - _SHOWN_ERRORS} more" if len(reasons) > _SHOWN_ERRORS else ""
        raise ModelError(f"{self.library.title} cannot parse {self.model.name}: {shown}{more}")

    def input_shapes(self) -> Shapes:
        """Shape by input name; a dynamic dimension is None."""
        tensors = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        for tensor in tensors:
            if tensor.is_shape_tensor:
                raise ModelError(
                    f"input {tensor.name!r} of {self.model.name} is a shape, not data: export it as a constant"
                )
        return {tensor.name: tuple(size if size >= 0 else None for size in tensor.shape) for tensor in tensors}

    def set_types(self, options: BuildOptions, typing: Typing) -> None:
        """Sets types and formats of inputs, outputs and layers that were asked for."""
        if options.weight_streaming and not typing.strong:
            raise BackendError("--weight-streaming is for strongly typed networks: omit --mode implicit")
        if options.layer_precisions and typing.strong:
            raise BackendError(
                "--layer-precisions: in a strongly typed network the model says all types; --mode implicit (TensorRT "
                "up to 10) takes them"
            )
        set_io_formats(self.library, self.network, options.io_formats, strong=typing.strong)
        if options.layer_precisions:
            with quiet_deprecations():
                how = f"{options.precision_constraints.upper()}_PRECISION_CONSTRAINTS"
                self.config.set_flag(getattr(self.library.module.BuilderFlag, how))
                set_layer_precisions(self.library, self.network, options.layer_precisions)

    def set_dynamic_ranges(self, ranges: Mapping[str, float], notify: Notify) -> None:
        """Sets the dynamic ranges of an implicit build."""
        used = set_ranges(self.library, self.network, ranges)
        if used.missing:
            total = used.num_set + len(used.missing)
            notify(
                Notice(
                    "info",
                    "ranges",
                    f"{used.num_set} of {total} tensors have a range: layers that use the others stay in float "
                    "(calibrate again: by default every tensor is observed)",
                )
            )

    def constrain_to_float(self, nodes: Collection[str], options: BuildOptions, notify: Notify, *, half: bool) -> None:
        """Constrains the layers of ONNX nodes where flags decide."""
        how = options.precision_constraints
        count = constrain_to_float(self.library, self.network, self.config, nodes, half=half, how=how)
        notify(Notice("info", "engine", f"{count} layers are kept in {'FP16' if half else 'FP32'}"))

    def set_calibrator(self, calibrator: Calibrator, shapes: Mapping[str, Sequence[int]]) -> None:
        """Sets the calibrator and its calibration profile."""
        dynamic = [name for name, shape in self.input_shapes().items() if None in shape]
        with quiet_deprecations():
            self.config.int8_calibrator = calibrator
            if missing := [name for name in dynamic if name not in shapes]:
                raise BackendError(f"input {missing[0]!r} is dynamic: calibration needs its shape")
            if not shapes:
                return
            # Otherwise TensorRT calibrates with the OPT shape of the inference profile, not with the shape of the data.
            profile = self.builder.create_optimization_profile()
            for name in self.input_shapes():
                if name in shapes:
                    profile.set_shape(name, *(tuple(shapes[name]),) * 3)
            self.config.set_calibration_profile(profile)

    def run(self, on_progress: OnProgress | None, calibrator: Calibrator | None) -> bytes:
        """Builds the engine; raises what a callback raised, including Ctrl-C."""
        monitor = make_monitor(self.library, _watching(calibrator, on_progress))
        if monitor is not None:
            self.config.progress_monitor = monitor
        plan = self.builder.build_serialized_network(self.network, self.config)
        self.logger.check()
        if monitor is not None and monitor.error is not None:
            raise monitor.error
        if calibrator is not None:
            calibrator.check()
        if plan is None:
            errors = self.logger.errors()
            said = "; ".join(errors[:_SHOWN_ERRORS]) or "it does not say why"
            raise EngineBuildError(f"{self.library.title} cannot build {self.model.name}: {said} ({_hint(errors)})")
        return bytes(plan)

    def _describe(self, error: Any) -> str:
        """Node and reason of a parser error, in one line."""
        reason = " ".join(error.desc().split())
        if str(getattr(error.code(), "name", "")).startswith("UNSUPPORTED"):
            reason = "it does not support this operator" + (f" ({reason})" if reason != "false" else "")
        elif "Plugin not found" in reason:
            fix = "" if self.library.is_rtx else " (--plugins LIBRARY)"
            reason = f"this is not an ONNX operator, and no plugin of that name is loaded{fix}"
        index = error.node()
        if hasattr(error, "node_name") and (node := error.node_name()):
            title = f"node {node!r} ({error.node_operator()})"
        elif 0 <= index < len(self.model.node_titles):
            title = f"node {self.model.node_titles[index]}"
        else:
            title = f"node {index}" if index >= 0 else ""
        return f"{title}: {reason}" if title else reason


def _wrong_qdq(name: str, typing: Typing) -> str:
    if typing.precision not in SCHEMES:
        return f"{name} contains Q/DQ: use --precision int8, or pass the float model"
    if typing.mode == "implicit":
        return f"{name} contains Q/DQ, which define its ranges: omit the table, cache or calibrator"
    return f"{name} has no Q/DQ and there is no calibration table: pass one"


def _hint(errors: Sequence[str]) -> str:
    text = " ".join(errors).lower()
    return next((hint for word, hint in _HINTS if word in text), "--verbose prints all of its messages")


def _watching(calibrator: Calibrator | None, on_progress: OnProgress | None) -> OnProgress | None:
    """Progress callback that cancels the build once the calibrator has failed; TensorRT would continue."""
    if calibrator is None:
        return on_progress

    def watch(share: float, phase: str) -> None:
        error = getattr(calibrator, "error", None)
        if error is not None:
            raise error
        if on_progress is not None:
            on_progress(share, phase)

    return watch


def _report_warnings(logger: Any, notify: Notify) -> None:
    texts = (" ".join(text.split()) for name, text in logger.messages if name == "WARNING")
    found = list(dict.fromkeys(text for text in texts if not any(word in text for word in _HARMLESS)))
    if found:
        rest = f" (and {len(found) - 1} more: --verbose shows them)" if len(found) > 1 else ""
        notify(Notice("warning", "tensorrt", f"TensorRT: {found[0]}{rest}"))
