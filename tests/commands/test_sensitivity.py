"""The ranking of units on the demo model: what was ruined leads it, and nothing depends on chance or order."""

from __future__ import annotations

from dataclasses import replace

import pytest

import quantkit
from quantkit.errors import OptionError, StaleTableError
from quantkit.refinement import sensitivity_analysis
from quantkit.refinement.unit_trials import UnitDamage, UnitTrials

from ..cli.conftest import CALIB, DIGITS, conv_model, write_images


@pytest.fixture(scope="module")
def table():
    return quantkit.calibrate(DIGITS, CALIB, num_samples=64, accuracy="fast", progress=False)


def rank(table, **options):
    return quantkit.sensitivity(DIGITS, CALIB, **{"table": table, "num_samples": 48, "progress": False, **options})


@pytest.fixture(scope="module")
def ranked(table):
    return rank(table)


@pytest.mark.parametrize("place", [1, 3])
def test_a_ruined_tensor_leads(table, ranked, place):
    name = ranked.of_kind("tensor")[place].name
    narrow = replace(table.tensors[name], amax=table.tensors[name].amax / 50)
    found = rank(replace(table, tensors={**table.tensors, name: narrow}))
    worst = found.of_kind("tensor")[0]
    assert worst.name == name
    assert worst.damage > 10 * found.of_kind("tensor")[1].damage
    assert worst.saved > found.damage / 2
    assert worst.clipped > 0.05
    assert found.of_kind("operator")[0].tensors == worst.tensors


def test_every_quantized_tensor_and_operator_is_ranked(table, ranked):
    found = ranked
    assert found.measure == "KL divergence"
    damages = [unit.damage for unit in found.units]
    assert damages == sorted(damages, reverse=True)
    tensors, operators = found.of_kind("tensor"), found.of_kind("operator")
    assert {name for unit in tensors for name in unit.tensors} <= table.tensors.keys()
    assert sum(unit.work for unit in operators) == pytest.approx(1)
    assert all(0 < unit.codes <= 256 and 0 <= unit.clipped < 0.1 for unit in found.units)
    assert all(20 < unit.sqnr_db < 80 for unit in found.units if unit.sqnr_db is not None)


def test_ranking_is_reproduced(table, ranked):
    assert rank(table) == ranked


def test_an_order_is_clear_when_more_samples_confirm_it(table, monkeypatch):
    """Even where the first round finds the operators in the graph's own order."""
    rounds = []

    class Trials(UnitTrials):
        def measure(self, unit):
            rounds.append(self.total)
            return UnitDamage(1 / len(rounds), 0.0, None)

    monkeypatch.setattr(sensitivity_analysis, "UnitTrials", Trials)
    found = rank(table)
    assert all(unit.num_samples > sensitivity_analysis.FIRST_SAMPLES for unit in found.units[:1])
    assert len(set(rounds)) > 1


def test_tensors_in_float_are_listed_and_not_ranked(table, ranked):
    name = ranked.of_kind("tensor")[0].name
    found = rank(replace(table, float_tensors={name: "tried"}))
    assert found.in_float == {name: "tried"}
    assert name not in {tensor for unit in found.units for tensor in unit.tensors}


def test_without_a_table_it_calibrates(tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    images = write_images(tmp_path / "images", 12)
    heard = []
    found = quantkit.sensitivity(model, images, progress=False, notify=heard.append)
    assert {unit.name for unit in found.of_kind("operator")} == {"conv", "fc"}
    assert any("--accuracy fast" in notice.text for notice in heard)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "net.onnx"]


def test_a_table_of_another_model_is_refused_if_given_and_ignored_beside(table, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    images = write_images(tmp_path / "images", 12)
    quantkit.save_table(table, tmp_path / "net.calib.json")
    with pytest.raises(StaleTableError):
        quantkit.sensitivity(model, images, table=tmp_path / "net.calib.json")
    heard = []
    quantkit.sensitivity(model, images, progress=False, notify=heard.append)
    assert any(notice.kind == "warning" and "is not used: the calibration table of" in notice.text for notice in heard)


def test_no_samples_is_a_usage_error():
    with pytest.raises(OptionError, match="--num-samples 0"):
        quantkit.sensitivity(DIGITS, CALIB, num_samples=0)


def test_a_table_that_quantizes_nothing_ranks_nothing(table):
    *others, output = table.tensors
    zero = replace(table, tensors={output: table.tensors[output]}, skipped=dict.fromkeys(others, "zero"))
    assert rank(zero, progress=True).units == ()
