from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.datasets.image_folder import open_image_folder
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing, TensorSpec

Save = Callable[..., Path]


@pytest.fixture
def open_here(tmp_path: Path, spec: TensorSpec, plain: Preprocessing) -> Callable[..., object]:
    return lambda **options: open_image_folder(tmp_path, spec, preprocessing=plain, **options)


def test_images_are_found_recursively_in_the_order_of_their_paths(save_image: Save, open_here: Save) -> None:
    for name in ("b/2.png", "b/10.PNG", "a/z/y.jpeg", "top.bmp", "a.webp", "a/x.gif", "c/1.tif", "c/1.tiff", "C.jpg"):
        save_image(name)
    dataset = open_here()
    assert dataset.ids == [
        "C.jpg",
        "a.webp",
        "a/x.gif",
        "a/z/y.jpeg",
        "b/10.PNG",
        "b/2.png",
        "c/1.tif",
        "c/1.tiff",
        "top.bmp",
    ]
    assert dataset.targets is None
    assert dataset.classes == ()
    assert {dataset[i].inputs["image"].shape for i in range(len(dataset))} == {(3, 8, 8)}


def test_first_level_folders_are_classes(save_image: Save, open_here: Save) -> None:
    for name in ("dog/1.png", "cat/deep/er/1.png", "cat/2.png"):
        save_image(name)
    dataset = open_here()
    assert dataset.classes == ("cat", "dog")
    assert dataset.ids == ["cat/2.png", "cat/deep/er/1.png", "dog/1.png"]
    assert dataset.targets == [0, 0, 1]
    assert dataset[2].target == 1


def test_image_outside_subfolders_disables_classes(save_image: Save, open_here: Save) -> None:
    save_image("dog/1.png")
    save_image("1.png")
    assert open_here().targets is None


def test_numbered_folders_are_class_indices(save_image: Save, open_here: Save) -> None:
    for name in ("10/1.png", "9/1.png", "007/1.png"):
        save_image(name)
    dataset = open_here()
    assert dataset.targets == [7, 10, 9]
    assert dataset.classes == ()


def test_numbered_folders_match_the_given_classes(save_image: Save, open_here: Save) -> None:
    save_image("1/1.png")
    assert open_here(classes=["cat", "dog"]).targets == [1]
    with pytest.raises(DatasetError, match="label 1, but there is only 1 class"):
        open_here(classes=["cat"])


def test_mixed_folder_names_are_class_names(save_image: Save, open_here: Save) -> None:
    for name in ("10/1.png", "9/1.png", "x/1.png"):
        save_image(name)
    assert open_here().classes == ("10", "9", "x")


def test_empty_class_keeps_its_index(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("dog/1.png")
    (tmp_path / "cat").mkdir()
    dataset = open_here()
    assert dataset.classes == ("cat", "dog")
    assert dataset.targets == [1]


def test_folder_without_images_is_not_a_class(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("dog/1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "dog.xml").write_text("<dog/>")
    (tmp_path / "README.txt").write_text("dogs")
    assert open_here().classes == ("dog",)


def test_given_classes_override_the_order(save_image: Save, open_here: Save) -> None:
    save_image("dog/1.png")
    save_image("cat/1.png")
    dataset = open_here(classes=["dog", "bird", "cat"])
    assert dataset.classes == ("dog", "bird", "cat")
    assert dataset.targets == [2, 0]


def test_folder_outside_the_given_classes_is_refused(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("dogs/1.png")
    with pytest.raises(DatasetError, match=r"dogs: 'dogs' is not among the 2 given classes; did you mean 'dog'\?"):
        open_here(classes=["cat", "dog"])
    with pytest.raises(DatasetError, match="'cat' is in the list of classes 2 times"):
        open_here(classes=["cat", "cat"])


def test_hidden_files_and_folders_are_left_out(save_image: Save, open_here: Save) -> None:
    for name in ("a.png", ".b.png", ".git/c.png", "d/._e.png"):
        save_image(name)
    assert open_here().ids == ["a.png"]


def test_links_are_followed_without_loops(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "b").symlink_to("a", target_is_directory=True)
    assert open_here().ids == ["a/1.png", "b/1.png"]


def test_broken_link_is_reported_on_read(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    dataset = open_here()
    assert dataset.ids == ["a.png", "b.png"]
    with pytest.raises(DatasetError, match=r"^b\.png: cannot be read \(No such file"):
        dataset[1]
    assert dataset.content_hash(1) == "unreadable"
    assert len(dataset.fingerprint) == 64


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_ignored(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("a.png")
    os.mkfifo(tmp_path / "b.png")
    assert open_here().ids == ["a.png"]


def test_empty_folder_is_refused(open_here: Save) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        open_here()


def test_folder_without_images_is_refused_with_its_contents(open_here: Save, tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "c.json", "LICENSE"):
        (tmp_path / name).write_text("")
    with pytest.raises(DatasetError, match=r"holds no image .*found: 2 \.txt, 1") as raised:
        open_here()
    assert "1 .json" in str(raised.value)
    assert "1 without an extension" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_non_utf8_names_are_escaped(save_image: Save, open_here: Save) -> None:
    try:
        save_image(os.fsdecode(b"caf\xe9.png"))
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 only")
    dataset = open_here()
    assert dataset.ids == ["caf\N{REPLACEMENT CHARACTER}.png"]
    assert len(dataset.fingerprint) == 64
    assert dataset[0].inputs["image"].shape == (3, 8, 8)


def test_fingerprint_depends_on_names_and_contents_only(
    save_image: Save, spec: TensorSpec, plain: Preprocessing, tmp_path: Path
) -> None:
    save_image("one/a/1.png", 1)
    save_image("one/b/2.png", 2)
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    def fingerprint(name: str) -> str:
        return open_image_folder(tmp_path / name, spec, preprocessing=plain).fingerprint

    first = fingerprint("one")
    assert first == fingerprint("two")
    stored = bytearray((tmp_path / "two/b/2.png").read_bytes())
    stored[-1] ^= 1
    (tmp_path / "two/b/2.png").write_bytes(stored)
    assert fingerprint("two") != first
    shutil.copy(tmp_path / "one/b/2.png", tmp_path / "two/b/2.png")
    assert fingerprint("two") == first
    (tmp_path / "two/b/2.png").rename(tmp_path / "two/b/3.png")
    assert fingerprint("two") != first


def test_files_are_hashed_once(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    save_image("1.png", 1)
    dataset = open_here()
    first = dataset.fingerprint
    save_image("1.png", 2)
    assert dataset.fingerprint == first
    assert open_here().fingerprint != first


def test_a_graph_of_links_ends(save_image: Save, open_here: Save, tmp_path: Path) -> None:
    """Two links in each folder to the next: 2 ** 40 paths lead to the last."""
    for i in range(40):
        save_image(f"all/{i:02}/a.png")
    for i in range(39):
        for name in ("left", "right"):
            (tmp_path / "all" / f"{i:02}" / name).symlink_to(f"../{i + 1:02}", target_is_directory=True)
    ids = open_here().ids
    assert {f"all/{i:02}/a.png" for i in range(40)} <= set(ids)
    assert len(ids) <= 80
