"""Shell completion as a shell asks for it, and in Bash itself."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.cli.conftest import REPOSITORY


@pytest.fixture
def complete(quantkit, monkeypatch):
    """What Bash is offered for the last word of a line."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_QUANTKIT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return quantkit().out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("quantkit cal", ["calibrate"]),
        ("quantkit cache ve", ["verify"]),
        ("quantkit data ", ["check"]),
        ("quantkit calibrate --num-s", ["--num-samples"]),
        ("quantkit calibrate --target ", ["tensorrt", "cpu"]),
        ("quantkit calibrate --method e", ["entropy"]),
        ("quantkit evaluate --task s", ["segment"]),
        ("quantkit evaluate --variants fp16,int8", ["fp16,int8", "fp16,int8-cpu"]),
        ("quantkit evaluate --variants fp16,f", ["fp16,fp32", "fp16,fp8"]),
        ("quantkit cache convert x --to ort", ["ort", "ort-json", "ort-text"]),
        ("quantkit calibrate mod", []),  # nothing: the shell offers files
        ("quantkit calibrate --data im", []),
    ],
)
def test_commands_options_and_choices_are_offered(complete, line, offered):
    assert complete(line) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs Bash")
def test_bash_completes_choices_and_files(tmp_path):
    """The script of --show-completion in a Bash whose `quantkit` is this one."""
    command = tmp_path / "bin" / "quantkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m quantkit "$@"\n')
    command.chmod(0o755)
    script = f"""
        export PATH={command.parent}:$PATH
        eval "$(quantkit --show-completion bash)"
        complete -p quantkit
        COMP_WORDS=(quantkit calibrate --method m); COMP_CWORD=3
        _quantkit_completion quantkit; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(quantkit calibrate net); COMP_CWORD=2
        _quantkit_completion quantkit; echo "files: ${{#COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "complete -o default -F _quantkit_completion quantkit",  # default: files where nothing is offered
        "minmax mse",
        "files: 0",
    ]
