from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import iterate_batches
from quantkit.datasets.description import describe_choice, describe_preprocessing
from quantkit.datasets.open import open_samples, prepared_as
from quantkit.errors import DatasetError, OptionError
from quantkit.notices import Notice
from quantkit.types import CalibrationTable, Dataset, Preprocessing, TensorRange, TensorSpec
from quantkit.types.options import ImageOptions

EXAMPLES = Path(__file__).parents[2] / "examples" / "loaders.py"
SPEC = TensorSpec("x", np.dtype(np.float32), ("n", 3, 4, 4))


def open_with(data: Path, *inputs: TensorSpec, **options: str) -> Dataset:
    return open_samples(inputs, data, ImageOptions(**options), None, num_samples=None, seed=0, order="given")  # type: ignore[arg-type]


@pytest.fixture
def code(tmp_path: Path):
    def write(text: str, name: str = "own.py") -> Path:
        (tmp_path / name).write_text(f"import numpy as np\n{text}\n")
        return tmp_path / name

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("L", (4, 2), 9).save(folder / "a.png", exif=exif)
    Image.new("RGB", (6, 6), (1, 2, 3)).save(folder / "b.png")
    return folder


# ----------------------------------------------------------------------------------------------------- --preprocess


def test_a_function_prepares_upright_images_as_they_are_stored(code, photos) -> None:
    file = code("def f(image):\n    return np.full((3, 4, 4), {'L': 10, 'RGB': 20}[image.mode] + image.width)")
    found = open_with(photos, TensorSpec("x", np.dtype(np.float64), ("n", 3, 4, 4)), preset=f"{file}:f")
    assert [float(found[i].inputs["x"][0, 0, 0]) for i in range(2)] == [12, 26]
    assert found[0].image_size == (4, 2)
    p = found.preprocessing
    assert p is not None
    assert describe_preprocessing(p) == f"own.py:f (source {str(p.function_hash)[:12]}), float64"


def test_the_source_is_the_identity(code, photos) -> None:
    def prepare(text: str) -> Preprocessing | None:
        return open_with(photos, SPEC, preset=f"{code(text)}:f").preprocessing

    text = "def f(image):\n    return np.zeros((3, 4, 4), np.float32)"
    assert prepare(text) == prepare(text)
    assert prepare(text) != prepare(f"{text} + 1")


def test_a_table_does_not_run_code_that_nobody_named(code, photos) -> None:
    file = code("def f(image):\n    return np.zeros((3, 4, 4), np.float32)")
    declared = open_with(photos, SPEC, preset=f"{file}:f").preprocessing
    table = CalibrationTable({"x": TensorRange(1.0, -1.0, 1.0)}, "", "", 1, {}, preprocessing=declared)
    with pytest.raises(DatasetError, match=r"prepared by own.py:f, which runs only where it is named: pass"):
        open_samples([SPEC], photos, prepared_as(table, None, photos), None, num_samples=None, seed=0, order="given")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return np.zeros((3, 4, 5), np.float32)",
            r"own.py:f on 'a.png': float32 \[3, 4, 5\] for input 'x', which takes",
        ),
        (
            "return np.zeros((3, 4, 4), complex)",
            r"complex128 \[3, 4, 4\] for input 'x', which takes float32 \[3, 4, 4\]",
        ),
        ("return np.full((3, 4, 4), np.nan)", "contains NaN or infinity"),
        ("return None", r"own.py:f on 'a.png': object \[\]"),
        ("return 1 / 0", r"own.py:3: own.py:f on 'a.png' raised ZeroDivisionError"),
    ],
)
def test_what_a_function_does_wrong_ends_the_run(code, photos, body, message) -> None:
    found = open_with(photos, SPEC, preset=f"{code(f'def f(image):{chr(10)}    {body}')}:f")
    with pytest.raises(OptionError, match=message):
        list(iterate_batches(found, 2))


def test_other_image_options_contradict_a_function(code, photos) -> None:
    file = code("def f(image):\n    return np.zeros((3, 4, 4), np.float32)")
    with pytest.raises(DatasetError, match="prepares the whole image: leave out other image options"):
        open_with(photos, SPEC, preset=f"{file}:f", color="BGR")


# --------------------------------------------------------------------------------------------------------- --loader

TOKENS = TensorSpec("ids", np.dtype(np.int64), ("n", "length"))
GAIN = TensorSpec("gain", np.dtype(np.float32), ("n",))


def test_a_loader_yields_samples_by_input_name(code, tmp_path) -> None:
    file = code(
        "def load(path):\n"
        "    for n, word in enumerate(path.read_text().split()):\n"
        "        yield {'ids': [ord(c) for c in word], 'gain': 0.5, 'label': len(word), 'more': None}"
    )
    (tmp_path / "words.dat").write_text("a bc de")
    found = open_with(tmp_path / "words.dat", TOKENS, GAIN, loader=f"{file}:load")
    assert (list(found.ids), list(found.targets or ())) == (["0", "1", "2"], [1, 2, 2])
    batches = list(iterate_batches(found, 8))
    assert [batch.inputs["ids"].tolist() for batch in batches] == [[[97]], [[98, 99], [100, 101]]]
    assert [batch.inputs["gain"].dtype for batch in batches] == [np.float32, np.float32]


def test_a_loader_is_printed_and_part_of_the_identity(code, tmp_path) -> None:
    text = "def load(path):\n    return [{'ids': [1], 'gain': 1.0, 'id': 'one'}]"
    first = open_with(tmp_path, TOKENS, GAIN, loader=f"{code(text)}:load")
    told: list[Notice] = []
    describe_choice(first, tmp_path, 0, told.append)
    assert [n.text for n in told][1] == f"loader: {first.dataset.loader}"  # type: ignore[attr-defined]
    assert first.dataset.loader.startswith("own.py:load (source ")  # type: ignore[attr-defined]
    same = open_with(tmp_path, TOKENS, GAIN, loader=f"{code(text, 'sub.py')}:load")
    assert same.fingerprint != first.fingerprint  # another file
    assert open_with(tmp_path, TOKENS, GAIN, loader=f"{code(text)}:load").fingerprint == first.fingerprint
    assert open_with(tmp_path, TOKENS, GAIN, loader=f"{code(text + '  # new')}:load").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return []", "own.py:load yielded no sample of"),
        ("return [1]", "sample 0 of own.py:load is int: a dict of arrays by input name is needed"),
        (
            "return [{'ids': [1]}]",
            "sample 0 of own.py:load has no 'gain', an input .*; add it, or pass --constant gain=",
        ),
        ("return [{'ids': [[1]], 'gain': 1.0}]", r"int64 \[1, 1\] for input 'ids', which takes int64 \[length\]"),
        ("return [{'ids': [1.5], 'gain': 1.0}]", r"float64 \[1\] for input 'ids', which takes int64"),
        ("return [{'ids': [[1], [1, 2]], 'gain': 1.0}]", "no array for 'ids'"),
        ("return [{'ids': [1], 'gain': 1., 'label': 0}, {'ids': [1], 'gain': 1.}]", "sample 1 of .* has no label"),
        ("yield open('nowhere')", r"own.py:3: own.py:load\(.*\) raised FileNotFoundError"),
    ],
)
def test_what_a_loader_does_wrong_is_told(code, tmp_path, body, message) -> None:
    file = code(f"def load(path):\n    {body}")
    with pytest.raises((OptionError, DatasetError), match=message):
        open_with(tmp_path, TOKENS, GAIN, loader=f"{file}:load")


def test_a_loader_reads_any_folder(code, tmp_path) -> None:
    (tmp_path / "files").mkdir()
    np.savez(tmp_path / "files" / "a.npz", other=np.zeros(3))
    file = code(
        "def f(path):\n    yield {'x': np.zeros((3, 4, 4), np.float32), 'id': [p.name for p in path.iterdir()]}"
    )
    assert open_with(tmp_path / "files", SPEC, loader=f"{file}:f").ids == ("['a.npz']",)


def test_a_loader_takes_no_image_options(code, tmp_path) -> None:
    with pytest.raises(DatasetError, match="--loader makes whole samples"):
        open_with(tmp_path, TOKENS, loader=f"{code('')}:load", color="BGR")


# --------------------------------------------------------------------------------------------------------- examples


def test_the_example_of_sentences(tmp_path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "small": 4, "test": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentences.txt").write_text("a small test\n\na huge test\na test\n")
    inputs = [
        TensorSpec(name, np.dtype(np.int64), ("batch", "sequence"))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    found = open_with(tmp_path / "sentences.txt", *inputs, loader=f"{EXAMPLES}:sentences")
    assert list(found.ids) == ["line 1", "line 3", "line 4"]
    first, second = iterate_batches(found, 8)
    assert first.inputs["input_ids"].tolist() == [[1, 3, 4, 5, 2], [1, 3, 0, 5, 2]]
    assert second.inputs["input_ids"].tolist() == [[1, 3, 5, 2]]
    assert (second.inputs["attention_mask"] == 1).all()


def test_the_example_of_wav_windows(tmp_path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as audio:
        audio.setparams((1, 2, 16_000, 0, "NONE", ""))
        audio.writeframes(np.arange(1200, dtype="<i2").tobytes())
    window = TensorSpec("input", np.dtype(np.float32), ("n", 512))
    found = open_with(tmp_path, window, loader=f"{EXAMPLES}:wav_windows")
    assert list(found.ids) == ["a.wav at 0.000 s", "a.wav at 0.032 s"]
    assert found[1].inputs["input"] == pytest.approx(np.arange(512, 1024) / 32768)


def test_the_example_of_faces(photos) -> None:
    found = open_with(photos, TensorSpec("x", np.dtype(np.float32), ("n", 3, 112, 112)), preset=f"{EXAMPLES}:face")
    (batch,) = iterate_batches(found, 2)
    assert batch.inputs["x"][1].mean(axis=(1, 2)) == pytest.approx([-1, 0, 1])
    assert not [name for name in sys.modules if name == "loaders"]
