"""The search for the smallest set: what it finds, and how few evaluations it takes."""

import math

import pytest

from quantkit.refinement.budget_search import find_smallest_set


def search(needed, ranking, work=None):
    asked = []

    def is_met(units):
        assert units not in asked[-1:]
        asked.append(units)
        return needed <= set(units)

    costs = work or dict.fromkeys(ranking, 1.0)
    return find_smallest_set(ranking, lambda units: costs, is_met), asked


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 40])
@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_prefix_up_to_the_last_needed_is_found_and_pruned(count, depth):
    ranking = list(range(count))
    last = min(depth, count) - 1
    found, asked = search({last}, ranking)
    assert found[-1] == last
    assert len(found) <= max(last + 1 - 6, 1)
    assert len(asked) <= 2 * math.log2(max(count, 2)) + 2 + 6


def test_nothing_stays_in_float_where_the_budget_is_met_at_once():
    assert search(set(), list("abc")) == ((), [()])


def test_no_set_where_all_of_them_miss_it():
    assert search({"z"}, list("abc"))[0] is None
    assert search({"z"}, [])[0] is None


def test_the_costliest_is_pruned_first():
    ranking = list("abcdefghij")
    work = {name: float(index) for index, name in enumerate(ranking)}
    _, asked = search({"a", "j"}, ranking, work)
    pruned = asked[-6:]
    assert [set(ranking) - set(units) for units in pruned[:2]] == [{"i"}, {"i", "h"}]


def test_a_set_that_needs_every_member_is_kept():
    assert search({"a", "c"}, list("abcd"))[0] == ("a", "c")


def test_what_has_no_cost_stays_in_float():
    ranking = list("abcdefgh")
    found, asked = search({"h"}, ranking, {"b": 1.0, "d": 2.0})
    assert found == tuple("acefgh")
    assert [set(ranking) - set(units) for units in asked[-2:]] == [{"d"}, {"b", "d"}]
