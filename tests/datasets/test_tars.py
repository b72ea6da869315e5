"""Samples in tars: the index against what `tarfile` extracts, WebDataset's keys and labels, and damaged files."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.datasets import tar_index
from quantkit.datasets.boxes import open_boxes
from quantkit.datasets.description import how_to_label
from quantkit.datasets.image_folder import open_image_folder
from quantkit.datasets.open import holds_arrays, open_dataset, open_samples
from quantkit.datasets.tar_index import index_tar
from quantkit.datasets.tar_samples import index_ahead
from quantkit.errors import ChangedDataError, DatasetError
from quantkit.types import Dataset, Preprocessing, TensorSpec
from tests.bar import Bar

Write = Callable[..., Path]


def png(level: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def npz(level: int = 7, **more: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image=np.full((3, 8, 8), level, np.float32), **more)
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]], **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda files, name="t.tar", **options: write_tar(tmp_path / name, files, **options)


@pytest.fixture
def open_here(spec: TensorSpec, plain: Preprocessing) -> Callable[..., Dataset]:
    return lambda path, **options: open_dataset(path, [spec], preprocessing=plain, **options)


_PART = st.text("abXY é日", min_size=1, max_size=60).map(str.strip).filter(bool)
_PATHS = st.lists(_PART, min_size=1, max_size=4).map("/".join)


@given(
    st.dictionaries(_PATHS, st.binary(max_size=1500), min_size=1, max_size=8),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_what_tarfile_extracts(tmp_path_factory, files, format):
    path = tmp_path_factory.mktemp("tars") / "t.tar"
    try:
        write_tar(path, files, format=format)
    except ValueError:
        return  # a name too long for USTAR
    found = index_tar(path).members
    with tarfile.open(path) as tar:
        assert {name: member.read() for name, member in found.items()} == {
            info.name: tar.extractfile(info).read() for info in tar
        }


def test_files_of_one_key_are_a_sample_with_its_class(write: Write, open_here: Write) -> None:
    files = {"b.png": png(1), "b.cls": b"3\n", "b.json": b"{}", "a.cls": b"0", "a.png": png(2), "a.mask.png": png(3)}
    dataset = open_here(write(files, "train-000.tar"))
    assert dataset.ids == ["train-000.tar/a.png", "train-000.tar/b.png"]
    assert dataset.targets == [0, 3]
    assert [dataset[i].inputs["image"].max() for i in range(2)] == [2, 1]
    assert dataset.remarks == ("left out, not readable as images: 1 .json, 1 .mask.png",)


def test_classes_of_names_and_of_folders(write: Write, open_here: Write) -> None:
    named = open_here(write({"1.png": png(), "1.cls": b"dog", "2.png": png(), "2.cls": b"cat"}))
    assert (named.targets, named.classes) == ([1, 0], ("cat", "dog"))
    files = {f"./set/{label}/{n}.png": png(n) for label in ("dog", "cat") for n in (1, 2)}
    folders = open_here(write(files, "u.tar"))
    assert folders.ids[0] == "u.tar/set/cat/1.png"
    assert (folders.targets, folders.classes) == ([0, 0, 1, 1], ("cat", "dog"))
    assert open_here(write({"set/1.png": png(), "set/2.png": png()}, "v.tar")).targets is None
    with pytest.raises(DatasetError, match=r"w\.tar/2\.png has no \.cls file, but others have one"):
        open_here(write({"1.png": png(), "1.cls": b"1", "2.png": png()}, "w.tar"))


def test_folders_and_patterns_name_several_tars(write: Write, open_here: Write, tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write({"x.png": png(number)}, f"shards/t-{number:02}.tar")
    wanted = ["t-08.tar/x.png", "t-09.tar/x.png", "t-10.tar/x.png"]
    assert open_here(tmp_path / "shards").ids == wanted
    assert open_here(tmp_path / "shards" / "t-{08..10}.tar").ids == wanted
    assert open_here(tmp_path / "shards" / "t-{08,10}.tar").ids == wanted[::2]
    write({"x.png": png()}, "more/t-09.tar")
    assert open_here(tmp_path / "{shards,more}" / "t-09.tar").ids == ["shards/t-09.tar/x.png", "more/t-09.tar/x.png"]
    with pytest.raises(DatasetError, match=r"t-07\.tar does not exist \(1 of the 2 tars that .* names\)"):
        open_here(tmp_path / "shards" / "t-{07..08}.tar")
    with pytest.raises(DatasetError, match="must go up"):
        open_here(tmp_path / "t-{3..1}.tar")
    (tmp_path / "shards" / "x.png").write_bytes(png())
    beside = open_here(tmp_path / "shards")
    assert (beside.ids, beside.remarks) == (["x.png"], ("left out, not readable as images: 3 .tar",))


def test_an_index_that_was_made_ahead_is_used(write: Write, open_here: Write, tmp_path: Path, monkeypatch) -> None:
    for number in (1, 2):
        write({f"{number}.png": png(number)}, name=f"t-{number}.tar")
    index_ahead(tmp_path, None, show=False)
    monkeypatch.setattr(tar_index._Reader, "index", lambda self: pytest.fail("indexed again"))
    assert len(open_here(tmp_path)) == 2
    index_ahead(tmp_path / "none", None, show=False)  # what opens the data says it


def test_a_bar_moves_within_a_tar(write: Write, tmp_path: Path, monkeypatch) -> None:
    sizes = [write({f"{n}.png": png(n) for n in range(5)}, name=f"t-{t}.tar").stat().st_size for t in (1, 2)]
    bars: list[Bar] = []
    monkeypatch.setattr("quantkit.progress.tqdm", lambda *_, **look: bars.append(Bar(look)) or bars[-1])
    index_ahead(tmp_path, None, show=True)
    (bar,) = bars
    assert (bar.look["total"], bar.look["unit"], len(bar.steps)) == (sum(sizes), "B", 10)
    assert sum(bar.steps) == 10 * 1024  # without the zeros at the end: a header and a block of content for each


def test_choice_and_fingerprint_do_not_depend_on_the_order(write: Write, spec: TensorSpec, tmp_path: Path) -> None:
    files = [(f"{n}.png", png(n)) for n in range(10)]
    options = {"num_samples": 4, "seed": 3, "order": "shuffled"}
    chosen = [
        open_samples([spec], write(ordered, f"{name}/t.tar"), "none", None, **options)
        for name, ordered in (("a", files), ("b", files[::-1]))
    ]
    assert chosen[0].ids == chosen[1].ids
    assert chosen[0].fingerprint == chosen[1].fingerprint
    for name, content in files:
        (tmp_path / "t.tar").mkdir(exist_ok=True)
        (tmp_path / "t.tar" / name).write_bytes(content)
    extracted = open_samples([spec], tmp_path, "none", None, labeled=False, **options)
    assert extracted.ids == chosen[0].ids
    assert extracted.fingerprint == chosen[0].fingerprint


def test_arrays_are_samples_where_there_is_no_image(write: Write, spec: TensorSpec) -> None:
    path = write({"1.npz": npz(1), "2.npz": npz(2), "1.cls": b"5", "2.cls": b"4"})
    assert holds_arrays(path)
    dataset = open_dataset(path, [spec])
    assert (dataset.ids, dataset.targets) == (["t.tar/1.npz", "t.tar/2.npz"], [5, 4])
    assert dataset[1].inputs["image"].max() == 2
    labeled = open_dataset(write({"1.npz": npz(label=3)}, "u.tar"), [spec])
    assert labeled.targets == [3]
    assert not holds_arrays(write({"1.npz": npz(), "1.png": png()}, "v.tar"))


def test_what_is_wrong_with_a_member_is_said_with_its_name(write: Write, open_here: Write, tmp_path: Path) -> None:
    dataset = open_here(write({"a.png": png(), "b.png": png()[:-30]}))
    with pytest.raises(DatasetError, match=r"^t\.tar/b\.png: cannot be read"):
        dataset[1]
    _ = dataset.fingerprint
    (tmp_path / "t.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:600])
    with pytest.raises(ChangedDataError, match=r"t\.tar was cut short while it was in use"):
        dataset[1]


def special(path: Path, name: str, kind: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "y.png"
        tar.addfile(info)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("x.png", tarfile.SYMTYPE, "is a link to 'y.png': write the tar with --dereference"),
        ("x.png", tarfile.LNKTYPE, "is a link to 'y.png': write the tar with --dereference"),
        ("x.png", tarfile.FIFOTYPE, "is neither file nor folder"),
        ("/x.png", tarfile.REGTYPE, "lies outside the tar: write it with relative names"),
        ("a/../../x.png", tarfile.REGTYPE, "lies outside the tar: write it with relative names"),
    ],
)
def test_members_without_content_or_place_are_refused(tmp_path: Path, name: str, kind: bytes, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason) as raised:
        index_tar(special(tmp_path / "t.tar", name, kind))
    assert repr(name) in str(raised.value)


def test_a_key_of_several_images_and_a_name_that_comes_again(write: Write, open_here: Write) -> None:
    with pytest.raises(DatasetError, match=r"sample 'a' has several files \(\.jpg, \.png\)"):
        open_here(write({"a.jpg": png(), "a.png": png()}))
    with pytest.raises(DatasetError, match=r"holds 'a\.png' twice"):
        open_here(write([("a.png", png()), ("./a.png", png())], "u.tar"))
    with pytest.raises(DatasetError, match=r"holds 'a\.cls' twice"):
        open_here(write([("a.png", png()), ("a.cls", b"1"), ("a.cls", b"2")], "v.tar"))
    for content in (b"", b"\xff", b"1" * 2000):
        with pytest.raises(DatasetError, match=r"w\.tar/a\.cls holds no class index"):
            open_here(write({"a.png": png(), "a.cls": content}, "w.tar"))


def test_tars_that_are_none(write: Write, open_here: Write, tmp_path: Path) -> None:
    whole = write({"a.png": png(), "b.png": png()}).read_bytes()
    second = 512 + 512 * (-(-len(png()) // 512))
    damaged = bytearray(whole)
    damaged[second + 150] ^= 0xFF  # its checksum
    for content, reason in (
        (b"", "the file is empty"),
        (b"no tar" * 200, "is no tar, or damaged"),
        (gzip.compress(whole), "is compressed, and members of a tar are read where they lie: run gunzip"),
        (bytes(10240), "holds no file"),
        (whole[:100], "is no tar, or damaged"),
        (whole[: second - 200], "damaged"),
        (whole[:second], "is cut short: it has no end after 'a.png'"),
        (whole[: second + 100], "is cut short: it has no end after 'a.png'"),
        (bytes(damaged), "is damaged after 'a.png'"),
        (whole + whole, r"goes on \(were tars joined by cat\?\) after 'b.png'"),
    ):
        (tmp_path / "t.tar").write_bytes(content)
        with pytest.raises(DatasetError, match=reason):
            open_here(tmp_path / "t.tar")
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(DatasetError, match=r"t\.tar\.gz is compressed"):
        open_here(tmp_path / "t.tar.gz")
    with pytest.raises(DatasetError, match=r"holds no image .*; found: 1 \.txt"):
        open_here(write({"a.txt": b"x"}, "u.tar"))
    with pytest.raises(DatasetError, match=r"no\.tar does not exist"):
        open_here(tmp_path / "no.tar")


@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_damaged_byte_is_told_or_changes_one_content(tmp_path_factory, place: int, value: int) -> None:
    """Never a traceback, an endless loop or a lost member."""
    path = write_tar(tmp_path_factory.mktemp("tars") / "t.tar", {"a": b"1" * 700, "b/" + "c" * 120: b"2", "d": b"3"})
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    try:
        found = index_tar(path).members
    except DatasetError:
        return
    assert len(found) == 3


def test_a_tar_of_a_folder_is_the_folder(tmp_path: Path, spec: TensorSpec, plain: Preprocessing, open_here) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "1.2.png").write_bytes(png(len(label)))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "set", ".")
    folder = open_image_folder(tmp_path / "set", spec, preprocessing=plain)
    tarred = open_here(tmp_path / "t.tar")
    assert tarred.targets == folder.targets
    assert tarred.classes == folder.classes
    assert [f"t.tar/{name}" for name in folder.ids] == tarred.ids


def test_what_gives_labels_is_said_of_tars(write: Write) -> None:
    assert how_to_label(write({"a.png": png()})) == "add a .cls file with the class to each image of the tars"


def test_annotations_are_found_by_the_names_of_members(write: Write, open_here: Write, tmp_path: Path) -> None:
    data = write({"a.png": png(), "b.png": png()})
    dataset = open_here(data)
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    boxes = open_boxes(tmp_path / "coco.json", dataset, data=data)
    assert [len(boxes.boxes[name]) for name in dataset.ids] == [0, 1]
    for name in ("a", "b"):
        place = tmp_path / "labels" / "t.tar" / f"{name}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("0 0.5 0.5 0.5 0.5\n")
    boxes = open_boxes(tmp_path / "labels", dataset, data=data)
    assert [len(boxes.boxes[name]) for name in dataset.ids] == [1, 1]
