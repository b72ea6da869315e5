import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import open_dataset
from quantkit.datasets.lint import check_classes, check_duplicates, check_files, check_overlap, check_samples
from quantkit.types import Preprocessing, TensorSpec


@pytest.fixture
def write(tmp_path):
    """Writes an image of noise, different for each name, or of one color."""

    def save(name, *, size=(8, 8), mode="RGB", color=None):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if color is not None:
            image = Image.new(mode, size, color)
        else:
            rng = np.random.default_rng(list(name.encode()))
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)
        image.save(path)
        return path

    return save


@pytest.fixture
def opened(tmp_path, spec, plain):
    def open_data(preprocessing=plain, **options):
        return open_dataset(tmp_path / "data", [spec], preprocessing=preprocessing, **options)

    return open_data


def kinds(findings):
    return {(f.severity, f.check) for f in findings}


def find(findings, check):
    (found,) = (f for f in findings if f.check == check)
    return found


def test_good_data_has_only_a_note_on_its_number(write, opened):
    for i in range(40):
        write(f"{i}.png")
    facts, findings = check_samples(opened())
    assert kinds(findings) == {("note", "number")}
    assert facts.num_samples == 40
    assert facts.modes == {"RGB": 40}
    assert facts.sizes == ((8, 8), (8, 8))
    assert 0 <= facts.minimum < 16
    assert 240 < facts.maximum <= 255
    assert 100 < facts.mean < 155


def test_unreadable_files_are_errors_with_their_reason(write, opened, tmp_path):
    good = write("a.png")
    (tmp_path / "data" / "half.png").write_bytes(good.read_bytes()[:100])
    (tmp_path / "data" / "empty.jpg").write_bytes(b"")
    facts, findings = check_samples(opened())
    found = find(findings, "unreadable")
    assert found.severity == "error"
    assert facts.unreadable == ("empty.jpg", "half.png")
    assert found.where[0] == "empty.jpg: the file is empty"


def test_unreadable_data_is_a_finding(opened, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).write_bytes(b"text")
    facts, findings = check_samples(opened())
    assert len(facts.unreadable) == 2
    assert ("error", "unreadable") in kinds(findings)
    json.dumps(asdict(facts))
    assert check_duplicates(opened())[0].check == "duplicates"


def test_unsupported_formats_are_reported(write, tmp_path):
    write("a.png")
    for name in ("b.PSD", "c/d.svg", "notes.txt", ".hidden.psd"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    (found,) = check_files(tmp_path / "data")
    assert found.where == ("b.PSD", "c/d.svg")
    assert check_files(tmp_path / "data" / "c")[0].what.endswith(": 1 .svg")


def test_some_constant_images_are_a_warning(write, opened):
    write("a.png", color=(1, 200, 3))
    write("b.png")
    found = find(check_samples(opened())[1], "constant")
    assert (found.severity, found.where) == ("warning", ("a.png",))


def test_only_constant_images_are_an_error(write, opened):
    write("a.png", color=(0, 0, 0))
    write("b.png", color=(1, 1, 1))
    findings = check_samples(opened())[1]
    assert {("error", "constant"), ("warning", "range")} <= kinds(findings)


def test_floats_saved_as_bytes_are_reported(opened, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 2, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    normalised = Preprocessing(size=(8, 8), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert ("warning", "range") in kinds(check_samples(opened(normalised))[1])
    assert ("warning", "range") in kinds(check_samples(opened())[1])


@pytest.mark.parametrize("name", ["tiny", "aspect"])
def test_unusual_sizes_are_reported(write, opened, name):
    write("good.png")
    write("tiny.png", size=(3, 8))
    write("aspect.png", size=(40, 8))
    findings = check_samples(opened())[1]
    found = find(findings, {"tiny": "size", "aspect": "aspect"}[name])
    assert [place.partition(".")[0] for place in found.where] == [name]


def test_unusual_color_modes_are_reported(write, opened, tmp_path):
    write("rgb.png")
    write("alpha.png", mode="RGBA")
    write("gray.png", mode="L")
    write("print.jpg", mode="CMYK")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(tmp_path / "data" / "deep.png")
    findings = [f for f in check_samples(opened())[1] if f.check == "color"]
    assert {f.where: f.severity for f in findings} == {
        ("alpha.png",): "note",
        ("deep.png",): "note",
        ("print.jpg",): "warning",
        ("gray.png",): "note",
    }


def test_gray_images_alone_are_not_reported(write, opened):
    for i in range(3):
        write(f"{i}.png", mode="L")
    assert not any(f.check == "color" for f in check_samples(opened())[1])


def test_duplicates_and_contradicting_labels_are_reported(write, opened, tmp_path):
    first = write("cat/a.png")
    (tmp_path / "data" / "cat" / "b.png").write_bytes(first.read_bytes())
    other = write("cat/c.png")
    write("dog/d.png")
    (tmp_path / "data" / "dog" / "e.png").write_bytes(other.read_bytes())
    findings = check_duplicates(opened())
    assert kinds(findings) == {("error", "labels"), ("warning", "duplicates")}
    assert find(findings, "duplicates").where == ("cat/a.png = cat/b.png",)
    assert find(findings, "labels").where == ("cat/c.png = dog/e.png",)


def test_overlap_is_found_by_content(write, opened, tmp_path, spec, plain):
    first = write("a.png")
    write("b.png")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "other.png").write_bytes(first.read_bytes())
    against = open_dataset(tmp_path / "val", [spec], preprocessing=plain)
    (found,) = check_overlap(opened(), against, name="val")
    assert (found.severity, found.where) == ("error", ("a.png = other.png",))
    first.unlink()
    assert check_overlap(opened(), against, name="val") == []


def test_unreadable_files_are_not_duplicates(opened, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "nowhere")
    assert check_duplicates(opened()) == []


def test_imbalance_and_empty_classes_are_reported(write, opened, tmp_path):
    for i in range(20):
        write(f"a/{i}.png")
    write("b/1.png")
    (tmp_path / "data" / "c").mkdir()
    findings = check_classes(opened(), 3)
    assert kinds(findings) == {("warning", "balance"), ("warning", "classes")}
    assert find(findings, "balance").where == ("b: 1", "a: 20")
    assert find(findings, "classes").where == ("c",)


@pytest.mark.parametrize(("scores", "severity"), [(1, "error"), (2, None), (5, "warning"), (None, None)])
def test_labels_outside_the_model_classes_are_reported(write, opened, scores, severity):
    write("a/1.png")
    write("b/1.png")
    findings = check_classes(opened(), scores)
    assert [f.severity for f in findings] == ([severity] if severity else [])


def test_parts_of_a_data_set_are_no_classes(write, opened):
    write("train/a.png")
    write("Val/b.png")
    assert find(check_classes(opened(), 10), "classes").fix.startswith("pass one of Val, train as --data")


def test_a_single_class_is_taken_for_a_folder_too_high(write, opened):
    write("a/1.png")
    finding = find(check_classes(opened(), 10), "classes")
    assert finding.what == "the data has 1 of the 10 classes that the model scores: numbered by name"
    assert finding.fix.startswith("pass the folder with a sub-folder for each class as --data")


def test_arrays_that_look_like_pixels_are_noted(tmp_path):
    spec = TensorSpec("x", np.dtype(np.float32), ("n", 3, 8, 8))
    rng = np.random.default_rng(0)
    for name, factor, expected in (("raw", 255, {("note", "range")}), ("scaled", 1, set())):
        np.save(tmp_path / f"{name}.npy", rng.random((200, 3, 8, 8), np.float32) * factor)
        facts, findings = check_samples(open_dataset(tmp_path / f"{name}.npy", [spec]))
        assert kinds(findings) == expected
        assert facts.sizes is None
