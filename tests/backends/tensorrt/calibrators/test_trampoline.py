"""The calibrator through NVIDIA's real bindings: called in C++, by the vtable, over a fake libnvinfer and a fake GPU.

The functions that are not tests run in a process that holds one release of the bindings.
"""

import contextlib
import hashlib
import json
import signal
import warnings

import numpy as np
import pytest

from quantkit.backends.cuda.memory import DeviceFeed, PrimaryContext
from quantkit.backends.tensorrt.calibrators.padded_batches import PaddedBatches
from quantkit.backends.tensorrt.calibrators.streaming import cache_header, make_calibrator
from quantkit.backends.tensorrt.library import load_library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.errors import BackendError, QuantKitError
from quantkit.types import Batch, TensorSpec
from tests.backends import gpu as imaginary
from tests.fake_trt.releases import RELEASES

SHAPE = (2, 3, 4, 4)
ERRORS = {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}


# ------------------------------------------------------------------------------------------ in the other process


def list_missing_names():
    """Of what the calibrator and the attaching of it use."""
    trt = load_library().module
    wanted = {
        "trt": ["IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "CalibrationAlgoType", "ILogger"],
        "IInt8EntropyCalibrator2": [
            "get_algorithm",
            "get_batch",
            "get_batch_size",
            "read_calibration_cache",
            "write_calibration_cache",
        ],
        "IBuilderConfig": ["int8_calibrator", "set_calibration_profile", "get_calibration_profile", "set_flag"],
        "IOptimizationProfile": ["set_shape", "get_shape"],
        "BuilderFlag": ["INT8", "FP16"],
        "CalibrationAlgoType": ["ENTROPY_CALIBRATION_2", "MINMAX_CALIBRATION"],
    }
    return [
        f"{owner}.{name}"
        for owner, names in wanted.items()
        for name in names
        if not hasattr(trt if owner == "trt" else getattr(trt, owner), name)
    ]


def build(
    *,
    num_samples=7,
    planned=None,
    error_at=None,
    error="ValueError",
    interrupt=False,
    algorithm="entropy",
    cache=None,
    builds=1,
    second_input=False,
    dynamic=True,
    stop_after=None,
    wrong_name=False,
):
    """Builds with a calibrator, once or more; returns what the GPU held for each batch, and what came of it."""
    from tests.fake_trt.library import fake

    library = load_library()
    trt = library.module
    names = ["image", "other"] if second_input else ["image"]
    specs = [TensorSpec(name, np.dtype(np.float32), SHAPE) for name in names]
    seen, outcome = [], {"engines": [], "raised": [], "attributes": []}
    fake.max_batches = stop_after or 1000
    patch, gpu = pytest.MonkeyPatch(), imaginary.Gpu()
    imaginary.install(gpu, patch)

    def on_batch(asked, pointers):
        content = {name: digest(gpu.read(p, 4 * int(np.prod(SHAPE)))) for name, p in zip(asked, pointers, strict=True)}
        assert set(gpu.memory) >= set(pointers)
        seen.append(content)

    def read():
        for number, batch in enumerate(make_batches(num_samples, ["wrong"] if wrong_name else names)):
            if number == error_at:
                if interrupt:
                    signal.raise_signal(signal.SIGINT)
                raise ERRORS[error]("on purpose")
            yield batch

    fake.on_batch = on_batch
    try:
        with PrimaryContext() as context, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            batches = PaddedBatches(read, specs, num_samples=num_samples) if not wrong_name else read
            given = list(read()) if wrong_name else batches
            fed = [TensorSpec("wrong", np.dtype(np.float32), SHAPE)] if wrong_name else batches.inputs
            with DeviceFeed(fed, context=context) as feed:
                calibrator = make_calibrator(
                    library,
                    given,
                    feed,
                    batch_size=SHAPE[0],
                    num_batches=planned,
                    algorithm=algorithm,
                    cache=cache.encode() if cache is not None else None,
                )
                logger = make_logger(library)
                for _ in range(builds):
                    engine = run_builder(trt, logger, calibrator, names, dynamic)
                    outcome["engines"].append(engine)
                    try:
                        calibrator.check()
                        outcome["raised"].append(None)
                    except BaseException as raised:
                        outcome["raised"].append([type(raised).__name__, str(raised)])
                    outcome["attributes"].append(
                        {
                            "delivered": calibrator.consumed_batches,
                            "cache": calibrator.cache.decode() if calibrator.cache is not None else None,
                            "refusal": calibrator.rejection_reason,
                        }
                    )
        assert gpu.is_empty()
    finally:
        fake.on_batch = None
        patch.undo()
    assert not fake.errors
    return {"seen": seen, "messages": logger.messages, "header": cache_header(library, algorithm), **outcome}


def run_builder(trt, logger, calibrator, names, dynamic):
    """TensorRT's part, with the calls that a build with a calibrator makes; the engine as a dict."""
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(make_model(names, dynamic))
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = calibrator
    profile = builder.create_optimization_profile()
    for name in names:
        profile.set_shape(name, SHAPE, SHAPE, SHAPE)
    assert config.add_optimization_profile(profile) == 0
    assert config.set_calibration_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return None if engine is None else json.loads(bytes(engine))


def make_model(names, dynamic):
    from onnx import TensorProto, helper

    shape = ["N", *SHAPE[1:]] if dynamic else list(SHAPE)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape) for name in names]
    nodes = [helper.make_node("Relu", [name], [f"{name}_out"], name=f"relu_{name}") for name in names]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)).SerializeToString()


def make_without_calibrators():
    with contextlib.suppress(BackendError):
        make_calibrator(load_library(), [], None, batch_size=1, num_batches=1)
        return "made"
    return "refused"


# ------------------------------------------------------------------------------------------------ in both processes


def make_batches(num_samples, names):
    """Batches of the data set; the last one may be smaller."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((num_samples, *SHAPE[1:])).astype(np.float32) for name in names}
    for start in range(0, num_samples, SHAPE[0]):
        part = {name: np.ascontiguousarray(v[start : start + SHAPE[0]]) for name, v in values.items()}
        yield Batch(inputs=part, ids=tuple(f"s{start + i}" for i in range(len(next(iter(part.values()))))))


def expect(num_samples, names=("image",)):
    """Digest of every full batch by input."""
    specs = [TensorSpec(name, np.dtype(np.float32), SHAPE) for name in names]
    full = PaddedBatches(lambda: make_batches(num_samples, names), specs, num_samples=num_samples)
    return [{name: digest(array.tobytes()) for name, array in batch.inputs.items()} for batch in full]


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ tests


def run(bindings, **options):
    return bindings.call(_build_with, options)


def _build_with(options):
    return build(**options)


def test_every_name_that_is_used_exists(calibrating):
    assert calibrating.call(list_missing_names) == []


@pytest.mark.parametrize("bindings", [n for n, r in RELEASES.items() if r.major > 10], indirect=True)
def test_tensorrt_11_has_no_calibrator(bindings):
    assert bindings.call(make_without_calibrators) == "refused"


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_every_batch_reaches_tensorrt_in_order(calibrating, algorithm, dynamic):
    done = run(calibrating, algorithm=algorithm, dynamic=dynamic)
    assert done["raised"] == [None]
    assert done["seen"] == expect(7)
    (engine,), (attributes,) = done["engines"], done["attributes"]
    assert engine["calibration"]["batch_size"] == SHAPE[0]
    assert engine["calibration_profile"] == {"image": list(SHAPE)}
    assert attributes["delivered"] == 4
    assert attributes["cache"] == f"{done['header']}\nimage: 3c010a14\nimage_out: 3c010a14\n"


def test_two_buffers_alternate(calibrating):
    (engine,) = run(calibrating)["engines"]
    pointers = [pointers[0] for pointers in engine["calibration"]["pointers"]]
    assert len(set(pointers)) == 2
    assert pointers[::2] == pointers[:1] * 2
    assert pointers[1::2] == pointers[1:2] * 2


def test_two_inputs_are_matched_by_name(calibrating):
    done = run(calibrating, second_input=True)
    assert done["raised"] == [None]
    assert done["seen"] == expect(7, ("image", "other"))


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("error_at", [0, 2])
def test_an_exception_comes_back_after_the_build(calibrating, error, error_at):
    done = run(calibrating, error=error, error_at=error_at)
    assert done["raised"] == [[error, "on purpose"]]
    assert done["seen"] == expect(7)[:error_at]
    assert done["attributes"][0]["cache"] is None
    assert (done["engines"][0] is None) == (error_at == 0)  # TensorRT goes on with what it has


@pytest.mark.parametrize("planned", [3, 5])
def test_unexpected_number_of_batches_fails(calibrating, planned):
    done = run(calibrating, planned=planned)
    assert done["raised"][0][0] == "CalibrationError"
    assert f"4 of {planned} planned" in done["raised"][0][1]


def test_tensorrt_that_stops_early_fails(calibrating):
    done = run(calibrating, stop_after=2)
    assert "2 of 4 planned" in done["raised"][0][1]
    assert done["attributes"][0]["cache"] is None


def test_an_input_that_the_data_lack_fails(calibrating):
    done = run(calibrating, wrong_name=True)
    assert "asks for input 'image', but the data have 'wrong'" in done["raised"][0][1]


def test_the_second_build_takes_the_cache_of_the_first(calibrating):
    done = run(calibrating, builds=2)
    assert done["raised"] == [None, None]
    assert [engine["calibration"]["cache_used"] for engine in done["engines"]] == [False, True]
    assert len(done["seen"]) == 4
    assert done["attributes"][0]["cache"] == done["attributes"][1]["cache"]


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_a_cache_of_this_library_replaces_the_data(calibrating, algorithm):
    header = run(calibrating, algorithm=algorithm)["header"]
    text = f"{header}\nimage: 3c010a14\nimage_out: 3b\n"
    done = run(calibrating, algorithm=algorithm, cache=text)
    assert done["raised"] == [None]
    assert done["engines"][0]["calibration"]["cache_used"]
    assert done["seen"] == []
    assert done["attributes"][0] == {"delivered": 0, "cache": text, "refusal": None}


@pytest.mark.parametrize("header", ["TRT-8510-EntropyCalibration2", "TRT-101601-MinMaxCalibration", "hello", ""])
def test_a_foreign_cache_is_never_handed_over(calibrating, header):
    done = run(calibrating, cache=f"{header}\nimage: 3c010a14\n")
    assert done["raised"] == [None]
    assert done["seen"] == expect(7)
    assert done["attributes"][0]["refusal"]
    assert not any("does not match" in text for _, text in done["messages"])


def test_a_real_interrupt_inside_a_callback_is_raised(calibrating):
    done = calibrating.call(interrupt_in_the_callback)
    assert done["raised"][0][0] == "KeyboardInterrupt"
    assert done["attributes"][0]["cache"] is None


def interrupt_in_the_callback():
    """Ctrl-C while TensorRT waits for a batch: the signal is delivered in the main thread, inside the callback."""
    import threading

    from tests.fake_trt.library import fake

    fake.max_batches = 1000
    library = load_library()
    main = threading.main_thread().ident

    class Feed:
        def stream(self, batches):
            yield {"image": 1}
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
            threading.Event().wait(30)
            yield {"image": 2}

    calibrator = make_calibrator(library, [], Feed(), batch_size=2, num_batches=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_builder(library.module, make_logger(library), calibrator, ["image"], False)
    try:
        calibrator.check()
        raised = None
    except (KeyboardInterrupt, QuantKitError) as error:
        raised = [type(error).__name__, str(error)]
    return {"raised": [raised], "attributes": [{"cache": calibrator.cache}]}
