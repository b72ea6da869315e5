"""Shell completion as a shell asks for it, and in Bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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
        ("quantkit calibrate --target foo --num-s", ["--num-samples"]),  # what is wrong before is said later
        ("quantkit calibrate --data '' --num-s", ["--num-samples"]),
    ],
)
def test_commands_options_and_choices_are_offered(complete, line, offered):
    assert complete(line) == offered


@pytest.fixture
def command(tmp_path) -> Path:
    """A `quantkit` for a shell's PATH that is this one."""
    path = tmp_path / "bin" / "quantkit"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m quantkit "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs Bash")
def test_bash_completes_choices_and_files(command):
    """The script of --show-completion."""
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


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs Zsh")
def test_zsh_completes_at_the_first_tab_of_a_session(command, tmp_path, monkeypatch):
    """What --install-completion leaves, in a terminal."""
    import pty  # of Unix alone

    home = tmp_path / "home"
    home.mkdir()
    for name, value in (("HOME", home), ("ZDOTDIR", home), ("TERM", "dumb"), ("COLUMNS", 80), ("LINES", 24)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    subprocess.run([command, "--install-completion", "zsh"], check=True)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("zsh", ["zsh", "-i"])
    os.write(terminal, b"quantkit calibrate --method \t")
    shown = b""
    try:
        while b"percentile" not in shown and (more := os.read(terminal, 4096)):
            shown += more
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert b"minmax" in shown


@pytest.mark.parametrize("shell", ["bash", "Zsh", "fish", "powershell"])
def test_the_script_of_a_named_shell_is_shown(quantkit, shell):
    shown = quantkit("--show-completion", shell)
    assert (shown.code, shown.err) == (0, "")
    assert "_QUANTKIT_COMPLETE" in shown.out
    assert ("funcstack" in shown.out) == (shell == "Zsh")


def test_an_unknown_shell_is_refused_with_those_that_are_known(quantkit):
    refused = quantkit("--install-completion", "tcsh")
    assert (refused.code, refused.out) == (2, "")
    assert "--install-completion: name the shell: bash, zsh, fish, powershell, pwsh" in refused.err
