"""Which units stay in float: against a damage that is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.refinement.float_tensors import FloatChoice, Measure, choose_additive, choose_float_tensors
from quantkit.types import QdqEdge

NAMES = "abcdefgh"
UNITS = {name: (QdqEdge(name, f"node_{name}", 0),) for name in NAMES}


def what_is_left(damages: Mapping[str, float], floats: Sequence[str]) -> float:
    """Damage of units that do not stay in float, where damages add up."""
    return sum(damage for name, damage in damages.items() if name not in floats)


def each(measure: Callable[[tuple[str, ...]], float]) -> Measure:
    return lambda sets: [measure(floats) for floats in sets]


def choose(
    damages: Mapping[str, float], *, work: Mapping[str, int] | None = None, limit: float = 1.0, enough: float = 0.0
) -> tuple[FloatChoice, list[tuple[str, ...]]]:
    """Of units whose damages add up; with every set that was measured."""
    measured: list[tuple[str, ...]] = []

    def measure(floats: tuple[str, ...]) -> float:
        measured.append(floats)
        return what_is_left(damages, floats)

    ranking = sorted(damages, key=lambda name: -damages[name])
    work = {f"node_{name}": 1 for name in NAMES} if work is None else work
    return choose_float_tensors(ranking, UNITS, work, each(measure), limit=limit, enough=enough), measured


def test_the_one_that_does_the_damage_stays_in_float() -> None:
    found, _ = choose({"a": 0.01, "b": 5.0, "c": 0.01})
    assert found.units[0] == "b"
    assert found.before == pytest.approx(5.02)


def test_nothing_is_left_in_float_where_the_damage_is_small_enough() -> None:
    found, measured = choose({"a": 0.001, "b": 0.002}, enough=0.01)
    assert (found.units, found.share, found.before, found.after) == ((), 0, 0.003, 0.003)
    assert measured == [()]


def test_a_unit_that_is_too_expensive_is_passed_over() -> None:
    work = {"node_a": 90, "node_b": 5, "node_c": 5}
    found, measured = choose({"a": 9.0, "b": 5.0, "c": 0.1}, work=work, limit=0.05)
    assert found.units == ("b",)
    assert found.share == pytest.approx(0.05)
    assert ("a",) not in measured


def test_what_a_unit_costs_must_pay() -> None:
    """Twice its share of the multiply-adds, or 3% where it costs next to nothing."""
    work = {"node_a": 40, "node_b": 0, "node_c": 10, "node_d": 950}
    damages = {"a": 7.0, "b": 4.0, "c": 3.0, "d": 86.0}
    found, _ = choose(damages, work=work, limit=0.05)
    assert found.units == ("b", "c")
    found, _ = choose(damages | {"a": 9.0}, work=work, limit=0.05)
    assert found.units == ("a", "b", "c")
    found, _ = choose(damages | {"b": 2.0, "c": 1.5}, work=work, limit=0.05)
    assert found.units == ()


@pytest.mark.parametrize(("saved", "expected"), [(30.0, ("b",)), (60.0, ("a", "b"))])
def test_a_unit_that_holds_most_of_the_weights_must_save_as_much(saved: float, expected: tuple[str, ...]) -> None:
    """Up to 15% of the weights, the multiply-adds alone decide."""
    damages = {"a": saved, "b": 10.0, "c": 90.0 - saved}
    found = choose_float_tensors(
        "ab",
        UNITS,
        {"other": 1},
        each(lambda floats: what_is_left(damages, floats)),
        limit=0.05,
        enough=0.0,
        weights={"node_a": 45, "node_b": 14, "other": 41},
    )
    assert found.units == expected


def test_only_what_may_be_the_best_is_tried_again() -> None:
    _, measured = choose({"a": 40.0, "b": 30.0, "c": 15.0, "d": 10.0, "e": 5.0})
    assert measured == [
        (),
        *(("abcde"[i],) for i in range(5)),
        tuple("ab"),
        tuple("abc"),
        tuple("abcd"),
        tuple("abcde"),
    ]
    limited, _ = choose({"a": 9.0, "b": 9.5, "c": 1.0})
    assert limited.units[0] == "b"


def test_a_unit_that_makes_the_output_finite_pays() -> None:
    units = {name: UNITS[name] for name in "abc"}
    found = choose_float_tensors(
        "abc",
        units,
        {"node_a": 1, "node_b": 1, "other": 98},
        each(lambda floats: 0.5 / (1 + len(floats)) if "b" in floats else math.inf),
        limit=0.05,
        enough=0.2,
    )
    assert (found.units[0], found.before, found.after) == ("b", math.inf, pytest.approx(0.5 / 3))
    nothing = choose_float_tensors("abc", units, {}, each(lambda _: math.inf), limit=0.05, enough=0.0)
    assert (nothing.units, nothing.after) == ((), math.inf)


def test_units_that_do_not_pay_do_not_hide_those_behind_them() -> None:
    damages = {"a": 30.0, **dict.fromkeys("bcdef", 0.5), "g": 5.0, "h": 60.0}  # "g" does little alone
    found = choose_float_tensors(
        "abcdefg",
        UNITS,
        {"node_h": 1000},
        each(lambda floats: what_is_left(damages, floats)),
        limit=0.05,
        enough=0.0,
    )
    assert found.units == ("a", "g")


def test_units_that_buy_nothing_end_the_search() -> None:
    _, measured = choose(dict.fromkeys(NAMES, 1e-9) | {"a": 1.0}, enough=0.0)
    assert measured[:2] == [(), ("a",)]
    units = {f"u{i}": (QdqEdge(f"u{i}", f"node{i}", 0),) for i in range(60)}
    tried: list[tuple[str, ...]] = []

    def measure(floats: tuple[str, ...]) -> float:
        tried.append(floats)
        return 1.0

    assert choose_float_tensors(list(units), units, {}, each(measure), limit=1, enough=0).units == ()
    assert 1 < len(tried) < 30


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_the_limit_holds_and_what_is_said_is_so(damages: dict[str, float], limit: float, enough: float) -> None:
    found, measured = choose(damages, limit=limit, enough=enough)
    assert found.share <= limit
    assert found.share == pytest.approx(len(found.units) / 8)
    assert found.before == pytest.approx(sum(damages.values()))
    assert found.after == pytest.approx(sum(d for name, d in damages.items() if name not in found.units))
    assert found.after <= found.before
    assert found.units in measured


def test_units_of_one_operator_count_its_work_once() -> None:
    units = {"a": (QdqEdge("a", "product", 0),), "b": (QdqEdge("b", "product", 1),)}
    found = choose_float_tensors(
        "ab", units, {"product": 10, "other": 90}, each(lambda floats: 4.0 ** -len(floats)), limit=1, enough=0
    )
    assert found.units == ("a", "b")
    assert found.share == 0.1


def test_a_first_unit_that_is_too_expensive_does_not_make_the_search_long() -> None:
    names = [f"n{i}" for i in range(100)]
    units = {name: (QdqEdge(name, f"node_{name}", 0),) for name in names}
    work = {f"node_{name}": 1 for name in names} | {"node_n0": 1000}
    measured = []
    found = choose_float_tensors(
        names, units, work, each(lambda floats: measured.append(floats) or 1.0), limit=0.05, enough=0.0
    )
    assert found.units == ()
    assert len(measured) <= 11


def choose_alone(
    damages: Mapping[str, float],
    work: Mapping[str, int],
    *,
    limit: float = 1.0,
    enough: float = 0.0,
    company: float = 0.0,
) -> tuple[FloatChoice, list[tuple[str, ...]]]:
    """By what the units do alone; leaving any in float costs `company` in the model."""
    measured: list[tuple[str, ...]] = []

    def measure(floats: tuple[str, ...]) -> float:
        measured.append(floats)
        return what_is_left(damages, floats) + company * bool(floats)

    found = choose_additive(damages, UNITS, work, each(measure), limit=limit, enough=enough)
    return found, measured


WORK = {"node_a": 8, "node_b": 2, "node_c": 4, "node_d": 86}


def test_what_adds_up_is_left_in_float_by_what_it_saves_for_its_work() -> None:
    damages = {"a": 4.0, "b": 2.0, "c": 3.0, "d": 1.0}
    found, measured = choose_alone(damages, WORK, limit=0.10)
    assert (found.units, found.before, found.after) == (("b", "c"), 10.0, 5.0)
    assert found.share == pytest.approx(0.06)
    assert measured == [(), ("b", "c")]  # the model is computed twice, however many units there are
    assert choose_alone(damages, WORK, limit=0.14)[0].units == ("b", "c", "a")
    assert choose_alone(damages, WORK, limit=0.14, enough=8.0)[0].units == ("b",)
    assert choose_alone(damages, WORK)[0].units == ("b", "c", "a")  # "d" costs more than it saves


def test_nothing_that_adds_up_is_left_in_float_if_the_model_is_not_better_for_it() -> None:
    found, _ = choose_alone({"a": 4.0, "b": 2.0}, WORK, company=7.0)
    assert (found.units, found.before, found.after, found.share) == ((), 6.0, 6.0, 0)
