from __future__ import annotations

from dataclasses import replace

from quantkit.reporting.measurement_setup import facts_from_mapping, facts_from_preprocessing, how_measured
from quantkit.types import Preprocessing

from .reports import make_engines, make_report, make_unlabeled
from .samples import make_classification


def test_how_it_was_measured_is_told_for_each_method():
    (host,) = how_measured(make_report())
    assert "Host clock: wall time of one call at batch size 4," in host
    assert "intra-op threads: 1" in host
    assert "1,234 calls of each" in host
    both = how_measured(make_engines())
    assert len(both) == 2
    assert "GPU events, as in trtexec" in both[1]
    assert "CUDA graph" not in both[1]
    graphs = tuple(e for e in make_engines().evaluations if e.latency.cuda_graph)
    (device,) = how_measured(replace(make_engines(), evaluations=graphs))
    assert "replayed from a CUDA graph" in device
    assert how_measured(make_unlabeled()) == ()


def test_facts_are_for_people():
    assert facts_from_mapping({"num_samples": 5, "a": None, "b": True, "c": 1 / 3}) == {
        "num samples": "5",
        "a": "–",
        "b": "yes",
        "c": "0.333333",
    }
    assert facts_from_preprocessing(None) == {}
    crop = facts_from_preprocessing(Preprocessing(size=(224, 224), resize="crop", shorter_side=256))
    assert crop["resize"] == "shorter side to 256 px, center crop, bilinear"


def test_all_batch_sizes_are_named():
    assert "one call at batch size 1, 8 or 32, including" in how_measured(make_classification())[0]
