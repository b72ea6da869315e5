"""Options of a task: those that all tasks share by name, and those that a registered task has of its own."""

import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks import TASKS
from quantkit.evaluation.tasks.task import Task, TaskOptions
from quantkit.types.option import OwnOption, option_fields


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    class Weighted(Task):
        own_options = (OwnOption("beta", 1.0, "Weight of recall", is_valid=lambda beta: beta > 0, expected="above 0"),)

    monkeypatch.setitem(TASKS, "weighted", Weighted)


def test_an_option_of_its_own_has_its_default_or_what_is_given():
    assert TaskOptions("weighted").own("beta") == 1
    assert TaskOptions("weighted", task_options={"beta": 2.0}).own("beta") == 2


def test_an_option_of_its_own_is_offered_with_its_task_and_type():
    (found,) = (found for found in option_fields(TaskOptions) if found.name == "beta")
    assert (found.flags, found.kind, found.option.group) == (("--beta",), float | None, "Task")
    assert found.option.help == "Weight of recall, for --task weighted (default: 1.0)."


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("weighted", {"beta": 0.0}, r"--beta 0\.0 must be above 0"),
        ("classify", {"beta": 2.0}, "--beta has no meaning for --task classify: it is for --task weighted"),
        ("weighted", {"gamma": 2.0}, "--gamma has no meaning for --task weighted"),
    ],
)
def test_values_and_options_that_do_not_fit_are_refused(task, given, message):
    with pytest.raises(EvaluationError, match=message):
        TaskOptions(task, task_options=given)
