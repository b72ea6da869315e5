"""What is installed under which name: the distribution, its extras, and what messages tell users to install."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from quantkit._version import DISTRIBUTION
from quantkit.backends.onnxruntime import runtime_version
from quantkit.errors import BackendUnavailableError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_distribution_has_the_name_that_messages_give():
    assert PROJECT["name"] == DISTRIBUTION


def test_each_onnx_runtime_has_an_extra_and_tests_take_one():
    extras = {
        name: [re.split("[<>=]", line)[0] for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
    }
    assert extras["cpu"] == ["onnxruntime"]
    assert extras["cuda"] == ["onnxruntime-gpu"]
    assert f"{DISTRIBUTION}[cpu]" in extras["test"]
    assert not any("onnxruntime" in line for line in PROJECT["dependencies"])


def test_a_missing_onnx_runtime_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=re.escape(f"pip install '{DISTRIBUTION}[cpu]'")) as caught:
        runtime_version()
    assert f"'{DISTRIBUTION}[cuda]'" in str(caught.value)


@pytest.mark.parametrize("folder", ["quantkit", "docs", "examples", "."])
def test_nothing_tells_to_install_the_other_project_of_that_name(folder):
    pattern = "*" if folder == "." else "**/*"
    files = [p for p in (REPOSITORY / folder).glob(pattern) if p.suffix in {".py", ".md", ".jinja"}]
    assert files
    for file in files:
        told = re.search(r"pip install [^\n`&;|#]*\bquantkit(?![-\w/])", file.read_text(encoding="utf-8"))
        assert not told, f"{file}: {told[0]}"


def locked_versions(file: str) -> dict[str, set[str]]:
    """Versions by name, of a lock in which each has a hash."""
    text = (REPOSITORY / "requirements" / file).read_text(encoding="utf-8")
    locked: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)):
        name, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()
        assert "--hash=sha256:" in entry, name
        locked.setdefault(canonicalize_name(name), set()).add(version)
    return locked


def requirements(*extras: str) -> list[Requirement]:
    """Of the distribution and of extras of it."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [r for r in map(Requirement, lines) if r.name != DISTRIBUTION]


def test_the_lock_of_ci_holds_every_dependency_with_hashes_and_as_new_as_asked():
    locked = locked_versions("ci.txt")
    for requirement in requirements("cpu", "remote", "test", "dev"):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_lock_of_the_oldest_versions_holds_the_lower_bounds():
    locked = locked_versions("lowest.txt")
    for requirement in requirements("cpu", "remote", "test"):
        if requirement.name != "tensorrt-rtx":
            (bound,) = requirement.specifier
            oldest = min(map(Version, locked[canonicalize_name(requirement.name)]))
            asked = Version(bound.version).release
            assert oldest.release[: len(asked)] == asked, requirement
