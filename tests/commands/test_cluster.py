"""Statistics from a Ray cluster: the table of one machine, whatever workers do, and one line where that fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import quantkit
from quantkit.backends.devices import Devices
from quantkit.backends.onnxruntime import collecting_versions
from quantkit.backends.ray_cluster import _describe, _init, check_cluster, connect
from quantkit.cli import main
from quantkit.commands import calibrate, cluster, on_device
from quantkit.commands.calibrate import settle_calibrator
from quantkit.commands.chosen_samples import open_calibration_samples
from quantkit.commands.cluster import describe_inputs, split_samples
from quantkit.commands.shard import CalibrationShard, Gathered, Shard, collect_shard, merge_gathered
from quantkit.datasets.fingerprint import contents_of
from quantkit.errors import BackendError, CalibrationError, ChangedDataError, DatasetError, ModelError, OptionError
from quantkit.graph.float_model import FloatModel
from quantkit.types import TensorStatistics

from ..cli.conftest import CALIB as DATA
from ..cli.conftest import DIGITS as MODEL
from ..ray_nodes import Inline, started_nodes


@pytest.mark.parametrize(
    ("count", "shards", "batch"), [(1, 1, 32), (100, 3, 16), (100, 200, 7), (64, 4, 16), (1000, 7, 32)]
)
def test_parts_hold_every_sample_once_in_whole_batches(count, shards, batch):
    parts = split_samples(count, shards, batch)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) <= shards or len(parts) == -(-count // batch)
    assert all(len(part) % batch == 0 for part in parts[:-1])


@pytest.fixture
def without_ray(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_ray_is_named_where_it_is_missing(without_ray, dry, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", str(MODEL), "--data", str(DATA), "-o", str(tmp_path), "--ray", "auto", *dry])
    assert capsys.readouterr().err == 'quantkit: error: --ray needs Ray: pip install "quantkit-ptq[ray]"\n'


@pytest.mark.parametrize("other", [{"resume": True, "table_path": "x.json"}, {"histogram": "tensorrt"}])
def test_what_takes_samples_in_order_takes_no_cluster(other):
    with pytest.raises(CalibrationError, match="--ray excludes"):
        quantkit.calibrate(MODEL, DATA, ray="auto", **other)


def part(values: list[float], **rest) -> Gathered:
    histogram = np.zeros(8192, np.int64)
    histogram[:1] = len(values)
    tensors = {"x": TensorStatistics(histogram, 0.0, 0.0, 0.0)} if values else {}
    return Gathered(tensors, len(values), **rest)


def test_parts_without_a_readable_sample_add_only_their_names():
    both = merge_gathered(part([0.0, 0.0]), part([], unreadable={"a.png": "damaged"}))
    assert both.num_samples == 2
    assert both.tensors["x"].count == 2
    assert both.unreadable == {"a.png": "damaged"}
    assert merge_gathered(both, both).tensors["x"].count == 4


def test_a_tensor_that_was_not_finite_in_one_part_has_no_statistics():
    empty = Gathered({"x": TensorStatistics(np.zeros(8192, np.int64))}, 1)
    assert merge_gathered(part([0.0]), empty).tensors["x"].count == 0


def calibrated(data: Path, folder: Path, **options) -> bytes:
    table = folder / "digits.calib.json"
    chosen = {"accuracy": "fast", "num_samples": 200, "batch_size": 16, "progress": False, **options}
    quantkit.calibrate(MODEL, data, table_path=table, keep_statistics=True, **chosen)
    return table.read_bytes() + (folder / "digits.calib.stats").read_bytes()


def test_each_part_opens_a_url_itself(inline, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "local").mkdir()
    (tmp_path / "remote").mkdir()
    system = fsspec.filesystem("memory")
    system.put(f"{DATA}/", "/digits", recursive=True)
    try:
        found = calibrated("memory://digits", tmp_path / "remote", ray="auto")
    finally:
        system.rm("/digits", recursive=True)
    assert found == calibrated(DATA, tmp_path / "local")


def test_the_table_is_that_of_one_machine(inline, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    assert calibrated(DATA, here) == calibrated(DATA, there, ray="auto")


@pytest.mark.parametrize(("batch_size", "parts"), [(16, 3), (1, 12)])
def test_parts_are_of_several_batches_where_each_slot_has_one(batch_size, parts, inline, tmp_path):
    said = []
    calibrated(DATA, tmp_path, ray="auto", batch_size=batch_size, notify=said.append)
    assert any(notice.text.endswith(f" {parts} parts of the data") for notice in said)


def with_damage(folder: Path, count: int) -> Path:
    """A copy of the digits of which some cannot be read."""
    shutil.copytree(DATA, folder)
    for path in sorted(folder.rglob("*.png"))[:: 400 // count][:count]:
        path.write_bytes(b"no image")
    return folder


def test_unreadable_samples_are_left_out_as_on_one_machine(inline, tmp_path):
    data = with_damage(tmp_path / "data", 12)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    options = {"num_samples": 10_000, "min_readable": 0.5, "batch_size": 1}
    assert calibrated(data, here, **options) == calibrated(data, there, ray="auto", **options)
    with pytest.raises(DatasetError, match="cannot be read, so that less than --min-readable 1"):
        calibrated(data, there, ray="auto", force=True, **{**options, "min_readable": 1.0})


def shard_of(folder: Path, **other) -> CalibrationShard:
    """Two samples that are not those of the data."""
    options = quantkit.CalibrationOptions(batch_size=4, progress=False)
    inputs = describe_inputs(FloatModel.open(MODEL), DATA, (("a", "b"), ("c", "d")), options)
    return replace(CalibrationShard(options=options, **inputs), folder=str(folder), **other)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"model_hash": "0" * 64}, ModelError, r"digits\.onnx is another model than that of the command"),
        (
            {"versions": {**collecting_versions(), "onnxruntime": "0.1"}},
            BackendError,
            r"is installed: install quantkit .* with onnxruntime 0\.1, as",
        ),
        ({"code": {__file__: "0" * 64}}, ChangedDataError, r"\.py is another file than that of the command"),
        ({}, ChangedDataError, "calib holds other samples than those of the command"),
        ({"first": 1_000_000}, ChangedDataError, "calib holds other samples than those of the command"),
    ],
)
def test_a_node_that_sees_anything_else_than_the_command_says_so(other, error, message, tmp_path):
    with pytest.raises(error, match=message):
        collect_shard(shard_of(tmp_path, **other))


def test_a_node_with_another_library_of_operators_says_so(tmp_path):
    library = tmp_path / "operators.so"
    library.write_bytes(b"the command's")
    options = quantkit.CalibrationOptions(ort_extension=[library], batch_size=4, progress=False)
    inputs = describe_inputs(FloatModel.open(MODEL), DATA, (("a", "b"),), options)
    library.write_bytes(b"the node's")
    with pytest.raises(ChangedDataError, match=r"operators\.so is another file than that of the command"):
        collect_shard(CalibrationShard(options=options, **inputs))


def test_a_part_that_cannot_be_read_at_all_has_a_reason_for_each_sample(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    options = quantkit.CalibrationOptions(batch_size=4, progress=False)
    contents = contents_of(open_calibration_samples(FloatModel.open(MODEL), tmp_path, None, options))
    found = collect_shard(shard_of(tmp_path, data=str(tmp_path), contents=contents))
    assert sorted(found.unreadable) == ["a.png", "b.png"]
    assert not any(".png" in reason for reason in found.unreadable.values())


def test_batches_are_those_of_one_machine(inline, tmp_path, monkeypatch):
    def by_outputs(runner, first, **_):
        return len(runner.run(first.inputs))

    monkeypatch.setattr(on_device, "fitting_batch_size", by_outputs)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    assert calibrated(DATA, here, batch_size=None) == calibrated(DATA, there, ray="auto", batch_size=None)


@pytest.mark.parametrize("method", ["auto", "entropy"])
def test_a_cluster_calibrates_where_tensorrt_could(method, monkeypatch):
    wanted = []
    monkeypatch.setattr(calibrate, "check_cluster", lambda address: None)
    monkeypatch.setattr(calibrate, "choose_calibrator", lambda name, **_: (wanted.append(name), (None, ""))[1])
    _, _, reason = settle_calibrator(quantkit.CalibrationOptions(ray="auto", method=method))
    assert wanted == ["quantkit"]
    assert reason == "TensorRT's own does not run on a cluster"


class Nodes:
    def __init__(self, *resources: dict[str, float]) -> None:
        self._nodes = [{"Alive": True, "Resources": of_node} for of_node in resources]

    def nodes(self) -> list[dict]:
        return self._nodes


@pytest.mark.parametrize(
    ("nodes", "use_gpus", "found"),
    [
        ([{"CPU": 8}, {"CPU": 8, "GPU": 2}], True, (1, 1, 2)),
        ([{"CPU": 8}, {"CPU": 8, "GPU": 2}], False, (4, 0, 4)),
        ([{"CPU": 8}, {"GPU": 2}], True, (4, 0, 2)),  # no node could run a task with a GPU
    ],
)
def test_tasks_fit_on_nodes(nodes, use_gpus, found):
    cluster = _describe(Nodes(*nodes), use_gpus)
    assert (cluster.cpus, cluster.gpus, cluster.num_slots) == found


@pytest.mark.parametrize(("device", "of_task"), [("cuda:1,3", "cuda:0"), ("auto", "auto")])
def test_a_task_takes_the_gpu_that_ray_gives_it(device, of_task, inline, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(Inline, "gpus", 1)
    monkeypatch.setattr(on_device, "choose_devices", lambda _: Devices((), ""))

    def collect_here(shard: CalibrationShard) -> Gathered:
        seen.append(shard.options.device)
        return collect_shard(replace(shard, options=replace(shard.options, device="cpu")))

    monkeypatch.setattr(cluster, "collect_shard", collect_here)
    calibrated(DATA, tmp_path, ray="auto", device=device)
    assert set(seen) == {of_task}


def test_a_device_that_no_node_has_is_refused(inline, monkeypatch, tmp_path):
    monkeypatch.setattr(on_device, "choose_devices", lambda _: Devices((), ""))
    with pytest.raises(BackendError, match="--device cuda needs a GPU, but no node of the Ray cluster has one"):
        calibrated(DATA, tmp_path, ray="auto", device="cuda")


@pytest.mark.parametrize("address", ["", "head", "head:", ":6379", "head:0", "head:70000", "::1:6379", "a b:1"])
def test_what_is_no_address_is_named_with_what_is(address):
    with pytest.raises(OptionError, match=r"^--ray '.*' is not auto, local or HOST:PORT, such as 10\.0\.0\.1:6379"):
        quantkit.EvaluationOptions(ray=address)


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.1:6379", "ray://head:10001", "[fd00::1]:6379"])
def test_addresses_that_ray_takes(address):
    assert quantkit.CalibrationOptions(ray=address).ray == address


def test_ray_leaves_the_handler_of_sigterm_alone():
    before = signal.getsignal(signal.SIGTERM)
    connected = SimpleNamespace(init=lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    _init(connected, "auto")
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.signal(signal.SIGTERM, before) is before


# What follows needs Ray, which starts processes: with -m slow.


@pytest.fixture(scope="module")
def nodes() -> Iterator[object]:
    with started_nodes(2) as found:
        yield found


def on_nodes(nodes, data: Path, folder: Path, **options) -> bytes:
    folder.mkdir()
    return calibrated(data, folder, ray=nodes.address, **options)


@pytest.mark.slow
def test_two_nodes_make_the_table_of_one_machine(nodes, tmp_path):
    (tmp_path / "here").mkdir()
    assert on_nodes(nodes, DATA, tmp_path / "there") == calibrated(DATA, tmp_path / "here")


class Dying:
    """`collect_shard` whose worker is killed once."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __call__(self, shard: Shard) -> Gathered:
        if shard.first and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return collect_shard(shard)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_counts_twice(nodes, tmp_path, monkeypatch):
    mark = tmp_path / "died"
    monkeypatch.setattr(cluster, "collect_shard", Dying(mark))
    (tmp_path / "here").mkdir()
    there = on_nodes(nodes, DATA, tmp_path / "there")
    assert mark.exists()
    monkeypatch.undo()
    assert there == calibrated(DATA, tmp_path / "here")


@pytest.mark.slow
def test_a_node_that_dies_is_replaced(nodes, tmp_path, monkeypatch):
    third, show = nodes.add_node(num_cpus=1), cluster.show_progress
    (tmp_path / "here").mkdir()
    here = calibrated(DATA, tmp_path / "here")
    removed = []

    @contextmanager
    def removing(*arguments):
        with show(*arguments) as bar:
            update = bar.update

            def first_removes(count: int) -> None:
                if not removed:
                    removed.append(nodes.remove_node(third, allow_graceful=False))
                update(count)

            bar.update = first_removes
            yield bar

    monkeypatch.setattr(cluster, "show_progress", removing)
    assert on_nodes(nodes, DATA, tmp_path / "there") == here
    assert removed


@pytest.mark.slow
def test_errors_of_a_task_are_one_line_that_names_the_node(nodes, tmp_path):
    data = with_damage(tmp_path / "data", 3)
    with pytest.raises(DatasetError, match=r"^on Ray node .*\.png") as caught:
        on_nodes(nodes, data, tmp_path / "there", strict=True, num_samples=10_000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", [f"{'a' * 70}:1", "localhost:port", "127.0.0.1:1"])
def test_an_address_where_nobody_can_listen_is_one_line(address, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(BackendError, match=f"^--ray {address}: no Ray cluster .*ray start --head"):
        check_cluster(address)


@pytest.mark.slow
def test_no_cluster_is_one_line_with_the_fix():
    pytest.importorskip("ray")
    with (
        pytest.raises(BackendError, match=r"^--ray 127\.0\.0\.1:1: no Ray cluster .*ray start --head"),
        connect("127.0.0.1:1", use_gpus=False),
    ):
        pass


@pytest.mark.slow
def test_sigterm_while_ray_starts_ends_the_command_with_its_code(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "quantkit", "calibrate", MODEL, "--data", DATA, "-o", tmp_path, "--ray", "local"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while run.poll() is None and not children.read_text():
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate()
    assert (run.returncode, said.splitlines()[-1][:47]) == (143, "quantkit: error: Interrupted by SIGTERM; existi")
