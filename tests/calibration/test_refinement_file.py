"""MODEL.calib.weights: what is written is read back; what was damaged is refused in one line that names the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibration.refinement_file import load_refinement, refinement_path, save_refinement
from quantkit.errors import CalibrationError
from quantkit.types import Refinement, RoundedWeight, block_format, weight_format

TABLE = "a" * 64
REFINEMENT = Refinement(
    weights={
        "w: 1": RoundedWeight(
            np.arange(-6, 6, dtype=np.int8).reshape(3, 2, 2), np.array([0.5, 1e-20, 3], np.float32), 0
        ),
        "é": RoundedWeight(np.array([[127, -127]], np.int8), np.array(0.25, np.float32), None),
    },
    biases={"conv": np.array([1.5, -0.0, 2], np.float32)},
    shifts={"x": np.array([0.5, -1], np.float32)},
    channel_scales={"x": np.array([2, 1e-3], np.float32), "y": np.ones(3, np.float32)},
    amax={"x": 1.5, "y": 0.125},
    float_tensors={"z": "more accurate in float: 1 → 0.1"},
)


def arrays(refinement: Refinement) -> dict[str, object]:
    """Everything in it, with types and shapes."""

    def told(array: object) -> tuple[str, tuple[int, ...], list]:
        found = np.asarray(array)
        return found.dtype.str, found.shape, found.tolist()

    weights = {name: (told(w.codes), told(w.scale), w.axis) for name, w in refinement.weights.items()}
    others = (refinement.biases, refinement.shifts, refinement.channel_scales)
    return {
        "weights": weights,
        "others": [{name: told(array) for name, array in kind.items()} for kind in others],
        "amax": dict(refinement.amax),
        "float_tensors": dict(refinement.float_tensors),
    }


@pytest.mark.parametrize("refinement", [REFINEMENT, Refinement()])
def test_round_trip(tmp_path: Path, refinement: Refinement) -> None:
    path = save_refinement(refinement, tmp_path / "m.calib.weights", table=TABLE)
    again = load_refinement(path, table=TABLE)
    assert arrays(again) == arrays(refinement)
    assert save_refinement(again, tmp_path / "again", table=TABLE).read_bytes() == path.read_bytes()


OTHERS = Refinement(
    weights={
        "fp8": RoundedWeight(
            np.array([[448, -0.5], [0, 2**-9]], np.float32).astype(ml_dtypes.float8_e4m3fn),
            np.array([0.5, 2], np.float32),
            0,
            weight_format(0, kind="float"),
        ),
        "int4": RoundedWeight(np.full((4, 130), -8, np.int8), np.ones((4, 2), np.float32), 1, block_format(128)),
    },
    biases={"conv": np.ones(3, np.float32)},
)


def test_weights_of_other_formats_keep_their_format(tmp_path: Path) -> None:
    path = save_refinement(OTHERS, tmp_path / "m.calib.fp8.weights", table=TABLE)
    again = load_refinement(path, table=TABLE)
    assert arrays(again) == arrays(OTHERS)
    assert [w.format for w in again.weights.values()] == [w.format for w in OTHERS.weights.values()]
    assert again.weights["fp8"].fits(0, weight_format(0, kind="float"))
    assert not again.weights["int4"].fits(1, block_format(64))


def test_it_lies_beside_its_table() -> None:
    assert refinement_path("a/m.calib.json") == Path("a/m.calib.weights")
    assert refinement_path("a/m.calib.json", "int4+int8") == Path("a/m.calib.int4+int8.weights")


def sealed(header: object, body: bytes) -> bytes:
    """A file whose first line holds for it."""
    content = json.dumps(header).encode() + b"\n" + body
    return b"quantkit weights 1 %d %s\n%s" % (len(content), hashlib.sha256(content).hexdigest().encode(), content)


def array(kind: str, name: str = "w", shape: tuple[int, ...] = (2,), axis: int | None = None) -> dict:
    return {"kind": kind, "name": name, "shape": shape, "axis": axis}


def header(*entries: dict) -> dict:
    return {"table": TABLE, "arrays": entries}


INT4 = {"kind": "int", "bits": 4, "granularity": "block", "block": 2, "narrow_range": False}
FLOATS = np.ones(2, "<f4").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a file of rounded weights"),
        (b"quantkit statistics 1 0 0\n", "is not a file of rounded weights"),
        (b"quantkit weights one 0 0\n", "is not a file of rounded weights"),
        (b"quantkit weights " + b"9" * 40 + b" 0 0\n", "is not a file of rounded weights"),
        (b"quantkit weights 2 0 0\n", "format version 2, this quantkit reads version 1: upgrade"),
        (b"quantkit weights 0 0 0\n", "format version 0, this quantkit reads version 1: calibrate again"),
        (b"quantkit weights 1 5 00\n{}", "cut short: 2 of 5 bytes"),
        (sealed([], b""), "cannot be used"),
        (
            sealed({"table": "b" * 64, "arrays": []}, b""),
            "made from different inputs: table checksum: bbbbbbbbbbbb → aaaa",
        ),
        (sealed(header(array("magic")), FLOATS), "cannot be used: Invalid enum value 'magic'"),
        (sealed(header(array("bias", shape=(-2,))), FLOATS), "bias of 'w' contradicts itself"),
        (sealed(header(array("bias"), array("bias")), 2 * FLOATS), "bias of 'w' contradicts itself"),
        (sealed(header(array("bias", shape=(3,))), FLOATS), "bias of 'w' is not there"),
        (sealed(header(array("bias", shape=(2**40, 2**40))), FLOATS), "bias of 'w' is not there"),
        (sealed(header(array("bias")), np.array([1, np.nan], "<f4").tobytes()), "bias of 'w' is not finite"),
        (sealed(header(array("bias")), FLOATS + b"x"), "lists other arrays than follow"),
        (sealed(header(array("scale")), FLOATS), "lists other arrays than follow"),
        (sealed(header(array("codes")), b"ab"), "lists other arrays than follow"),
        (sealed(header(array("shift")), FLOATS), "lists other arrays than follow"),
        (sealed(header(array("amax", shape=())), FLOATS[:4]), "lists other arrays than follow"),
        (
            sealed(header(array("channel_scale")), np.array([1, 0], "<f4").tobytes()),
            "channel_scale of 'w' is not positive",
        ),
        (sealed(header(array("scale", shape=())), np.array(-1, "<f4").tobytes()), "scale of 'w' is not positive"),
        (sealed(header(array("amax")), FLOATS), "amax of 'w' is not one number"),
        (sealed(header(array("codes"), array("scale")), b"ab" + FLOATS), "scale of 'w' does not fit its codes"),
        (sealed(header(array("codes", axis=2), array("scale")), b"ab" + FLOATS), "scale of 'w' does not fit its codes"),
        (
            sealed(header(array("codes", axis=-1), array("scale")), b"ab" + FLOATS),
            "scale of 'w' does not fit its codes",
        ),
        (
            sealed(
                header(array("codes", axis=0) | {"format": INT4}, array("scale", shape=(1,), axis=0)),
                np.array([7, 8], np.int8).tobytes() + FLOATS[:4],
            ),
            "codes of 'w' are none of int4",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.calib.weights"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message) as error:
        load_refinement(path, table=TABLE)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot read rounded weights .*none: No such file"):
        load_refinement(tmp_path / "none", table=TABLE)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_refinement(REFINEMENT, tmp_path_factory.mktemp("stored") / "m.calib.weights", table=TABLE)


@given(st.data())
def test_no_byte_can_change_unnoticed(stored: Path, data: st.DataObject) -> None:
    content = bytearray(stored.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    damages: list[Callable[[], bytes]] = [
        lambda: bytes(content[:place]),
        lambda: bytes(
            content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
        ),
    ]
    path = stored.with_name("damaged")
    path.write_bytes(data.draw(st.sampled_from(damages))())
    with pytest.raises(CalibrationError):
        load_refinement(path, table=TABLE)
