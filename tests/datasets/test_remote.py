"""Data at URLs: fsspec's memory file system, and a web server that sends parts of files, or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantkit.datasets.image_folder import open_image_folder
from quantkit.datasets.open import holds_arrays, open_dataset, open_samples
from quantkit.datasets.remote_path import RemotePath, locate
from quantkit.errors import DatasetError, MachineError, NotInstalledError
from quantkit.types import Dataset, Preprocessing, TensorSpec
from quantkit.urls import DataUrl, data_path, without_credentials

from ..web_server import Handler, serving
from .test_tars import npz, png, write_tar

fsspec = pytest.importorskip("fsspec")

Open = Callable[..., Dataset]


@pytest.fixture
def open_here(spec: TensorSpec, plain: Preprocessing) -> Open:
    return lambda path, **options: open_dataset(path, [spec], preprocessing=plain, **options)


@pytest.fixture
def put() -> Iterator[Callable[[str, bytes], None]]:
    """Writes to fsspec's memory."""
    system = fsspec.filesystem("memory")
    yield lambda path, content: system.pipe(f"/bucket/{path}", content)
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, type[Handler], Path]]:
    """Address of a web server, its handler and its folder."""
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as (address, handler):
        yield address, handler, folder


def fill(folder: Path) -> None:
    """Two classes of images, something else and something hidden."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/notes.txt", "dog/.hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))


def test_a_folder_is_what_it_is_on_a_disk(put, tmp_path: Path, spec: TensorSpec, plain: Preprocessing, open_here: Open):
    fill(tmp_path)
    for file in tmp_path.rglob("*.*"):
        put(f"set/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    local, remote = open_image_folder(tmp_path, spec, preprocessing=plain), open_here("memory://bucket/set")
    assert remote.ids == local.ids
    assert (remote.targets, remote.classes) == (local.targets, local.classes)
    assert remote.remarks == local.remarks == ("left out, not readable as images: 1 .txt",)
    assert remote.fingerprint == local.fingerprint
    assert (remote[2].inputs["image"] == local[2].inputs["image"]).all()


def test_tars_are_what_they_are_on_a_disk(put, tmp_path: Path, open_here: Open) -> None:
    for number in (1, 2):
        files = {"b.png": png(1), "b.cls": b"1", "a.png": png(number), "a.cls": b"0"}
        put(f"t-{number}.tar", write_tar(tmp_path / f"t-{number}.tar", files).read_bytes())
    local = open_here(tmp_path)
    for url in ("memory://bucket", "memory://bucket/t-{1..2}.tar"):
        remote = open_here(url)
        assert (remote.ids, remote.targets) == (local.ids, local.targets)
        assert remote.fingerprint == local.fingerprint
    assert open_here(f"file://{tmp_path}").ids == local.ids
    assert len(open_here("memory://bucket/t-1.tar")) == 2
    put("t-1.tar", write_tar(tmp_path / "t-1.tar", {"c.png": png()}).read_bytes())
    assert open_here("memory://bucket/t-1.tar").ids == ["t-1.tar/c.png"]
    with pytest.raises(DatasetError, match=r"memory://bucket/t-3\.tar does not exist \(1 of the 2 tars"):
        open_here("memory://bucket/t-{2..3}.tar")
    put("bad.tar", b"no tar" * 200)
    with pytest.raises(DatasetError, match=r"^memory://bucket/bad\.tar is no tar, or damaged"):
        open_here("memory://bucket/bad.tar")


def test_lists_and_sample_files(put, spec: TensorSpec, open_here: Open, tmp_path: Path) -> None:
    put("set/a.png", png(1))
    put("set/labels.csv", b"path,label\na.png,dog\nmissing.png,cat\n")
    listed = open_here("memory://bucket/set/labels.csv")
    assert (listed.ids, listed.targets) == (["a.png", "missing.png"], [1, 0])
    assert listed[0].inputs["image"].max() == 1
    with pytest.raises(DatasetError, match=r"missing\.png: cannot be read \(No such file or directory\)"):
        listed[1]
    (tmp_path / "here.txt").write_text("memory://bucket/set/a.png\n")
    assert open_here(tmp_path / "here.txt").ids == ["bucket/set/a.png"]
    for number in (1, 2):
        put(f"arrays/{number}.npz", npz(number, label=number))
    assert holds_arrays("memory://bucket/arrays")
    arrays = open_dataset("memory://bucket/arrays", [spec])
    assert (arrays.ids, arrays.targets) == (["1.npz", "2.npz"], [1, 2])
    assert arrays[1].inputs["image"].max() == 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://bucket/none", "memory://bucket/none does not exist"),
        ("memory://bucket/one.jpg", "memory://bucket/one.jpg is not a data set"),
        ("memory://bucket/texts", r"memory://bucket/texts holds no image .*; found: 1 \.txt"),
        ("memory://bucket/a.npz", r"memory://bucket/a.npz: an array must be a local file"),
        ("memory://bucket/data.yaml", r"memory://bucket/data.yaml: a YOLO data.yaml must be a local file"),
        ("nothing://bucket/a", "cannot open nothing://bucket/a: ValueError: Protocol not known"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(put, spec: TensorSpec, url: str, reason: str) -> None:
    for name in ("one.jpg", "texts/a.txt", "data.yaml"):
        put(name, b"1")
    put("a.npz", npz())
    with pytest.raises(DatasetError, match=f"^{reason}"):
        open_dataset(url, [spec])


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = sys.modules["fsspec.registry"]
    entry = {"class": "quantkit_has_no.such", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(registry.known_implementations, "qks3", entry)
    with pytest.raises(NotInstalledError, match=r"^qks3://b/a needs quantkit_has_no \(Install s3fs to"):
        locate("qks3://b/a")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(NotInstalledError, match=r'^s3://b/a needs fsspec: pip install "quantkit-ptq\[remote\]"'):
        locate("s3://me:secret@b/a?token=secret")


def test_failing_servers_end_the_run_and_do_not_blame_the_sample(put, open_here: Open, monkeypatch) -> None:
    put("set/a.png", png())
    dataset = open_here("memory://bucket/set")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("reset by https://me:secret@host/a?token=secret")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    with pytest.raises(MachineError, match=r"cannot read .*/set/a\.png: RuntimeError: reset by https://host/a:"):
        dataset[0]


def test_the_web_serves_folders_and_parts_of_tars(served, open_here: Open, tmp_path: Path) -> None:
    address, handler, folder = served
    fill(folder / "set")
    local = open_here(folder / "set")
    remote = open_here(f"{address}/set")
    assert (remote.ids, remote.targets, remote.fingerprint) == (local.ids, local.targets, local.fingerprint)
    files = {f"{n:02}.png": png(n) + bytes(300_000) for n in range(40)}
    tar = write_tar(folder / "t.tar", files)
    dataset = open_here(f"{address}/t.tar?token=secret")
    assert dataset.ids == open_here(tar).ids
    handler.requests.clear()
    assert dataset[7].inputs["image"].max() == 7
    member = open_here(tar).paths[7]
    assert handler.requests == [f"/t.tar?token=secret bytes={member.offset}-{member.offset + member.size - 1}"]
    assert "secret" not in str(dataset.paths[7])


def test_a_server_without_parts_is_told_from_a_damaged_tar(served, open_here: Open) -> None:
    address, handler, folder = served
    handler.sends_parts = False
    write_tar(folder / "t.tar", {f"{n}.png": png(n) + bytes(3_000_000) for n in range(4)})
    with pytest.raises(DatasetError, match=r"t\.tar: its server sends no parts of files, which tars need: put"):
        open_here(f"{address}/t.tar")
    assert len(open_here(f"simplecache::{address}/t.tar")) == 4


def test_the_web_refuses_or_is_not_there(served, open_here: Open) -> None:
    address, _, _ = served
    with pytest.raises(DatasetError, match=r"none\.tar does not exist"):
        open_here(f"{address}/none.tar")
    with pytest.raises(DatasetError, match=r"cannot open http://127.*/secret/t\.tar: no permission \(403"):
        open_here(f"{address}/secret/t.tar?token=me")
    with pytest.raises(DatasetError, match=r"broken/t\.tar: its server answers 500 Internal Server Error$"):
        open_here(f"{address}/broken/t.tar?token=me")
    with pytest.raises(DatasetError, match=r"cannot open http://127\.0\.0\.1:9/t\.tar: Client"):
        open_here("http://127.0.0.1:9/t.tar")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a@2x.png", "s3://bucket/a@2x.png"),
        ("s3://bucket/a#2.png", "s3://bucket/a#2.png"),
        ("--data=s3://bucket/a#2.png?versionId=x", "--data=s3://bucket/a#2.png"),
        ("https://host:8080/a.tar", "https://host:8080/a.tar"),
        ("simplecache::https://host/a.tar#part", "simplecache::https://host/a.tar"),
        ("https://me:pass@word/x@host/a.tar", "https://host/a.tar"),
        ("https://token@host/a.tar?b=c#d", "https://host/a.tar"),
        ("simplecache::https://me:secret@host/a.tar", "simplecache::https://host/a.tar"),
        ("--data=s3://key:secret@bucket/a", "--data=s3://bucket/a"),
        ("C:/data?", "C:/data?"),
        ("no URL?", "no URL?"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_a_url_shows_no_credentials_and_others_stay_paths(tmp_path: Path, spec: TensorSpec) -> None:
    url = data_path("https://me:secret@host/train.tar?signature=secret")
    assert isinstance(url, DataUrl)
    assert {str(url), str(Path(url).name), f"{url!r}"} == {"https://host/train.tar", "train.tar", "DataUrl()"}
    assert url.name == "train.tar"
    assert data_path(url) is url
    assert data_path("file:///a/b") == Path("/a/b")
    assert data_path("C:/a") == Path("C:/a")
    assert "secret" not in str(RemotePath(None, "https://me:secret@host/train.tar?signature=secret", "https"))


def test_local_data_import_nothing_of_fsspec(tmp_path: Path) -> None:
    fill(tmp_path)
    code = (
        "import sys\nfrom quantkit.datasets.open import open_dataset\nimport numpy as np\n"
        "from quantkit.types import TensorSpec\n"
        f"open_dataset({str(tmp_path)!r}, [TensorSpec('x', np.dtype('f4'), ('N', 3, 8, 8))])\n"
        "print('fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_choice_is_read_and_nothing_else(put, spec: TensorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(f"set/{number:02}.jfif", png(number))
    read: list[str] = []
    original = RemotePath.read
    monkeypatch.setattr(RemotePath, "read", lambda self, *most: read.append(self.name) or original(self, *most))
    chosen = open_samples([spec], "memory://bucket/set", "none", None, num_samples=3, seed=1, order="shuffled")
    _ = chosen.fingerprint
    assert sorted(read) == sorted(chosen.ids)


def test_folders_are_listed_anew_for_each_run(put, spec: TensorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    put("set/a.png", png())
    system = fsspec.filesystem("memory")
    known: dict[str, list[str]] = {}
    find = system.find
    monkeypatch.setattr(system, "find", lambda path: known.setdefault(path, find(path)), raising=False)
    monkeypatch.setattr(system, "invalidate_cache", lambda: known.clear(), raising=False)
    options = {"num_samples": None, "seed": 0, "order": "given"}
    assert len(open_samples([spec], "memory://bucket/set", "none", None, **options)) == 1
    put("set/b.png", png())
    assert len(open_samples([spec], "memory://bucket/set", "none", None, **options)) == 2
