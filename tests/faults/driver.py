"""Runs a command again and again, in children of one process, and lets the n-th system call of each fail.

Prints a line of JSON for each run. Started by `test_faults` with the shim preloaded.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from pathlib import Path

import quantkit.commands.calibrate
import quantkit.commands.evaluate
import quantkit.commands.quantize  # noqa: F401 - imported before any call is counted
from quantkit.cli import load_command, main

CALLS = ("write", "fsync", "rename", "open", "read")


def run(shim, call, number, code, folder, words):
    """Exit code, error output, and whether a call failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said, exit_code = io.StringIO(), 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            shim.fault_arm(CALLS.index(call), number, code, os.fsencode(folder), ctypes.c_size_t(0))
            try:
                main(words)
            except SystemExit as stop:
                exit_code = int(stop.code or 0)
            except BaseException as error:
                exit_code = -1
                said.write(repr(error))
        fired = shim.fault_fired()
        shim.fault_arm(-1, 0, 0, b"", ctypes.c_size_t(0))
        os.write(writing, json.dumps([exit_code, said.getvalue()[-2000:], fired]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def contents(folder):
    return {p.name: p.read_bytes().hex()[-64:] for p in sorted(folder.rglob("*")) if p.is_file()}


def campaign(folder: Path, out: Path, words, *, step: int, code: int):
    """Every `step`-th call of each kind, until there is no further one."""
    shim = ctypes.CDLL(None)
    load_command(words[0])
    old = folder.parent / "old"
    shutil.copytree(out, old)
    for call in CALLS:
        number = 1
        while True:
            shutil.rmtree(out)
            shutil.copytree(old, out)
            exit_code, said, fired = run(shim, call, number, code, folder, words)
            if not fired:
                break
            print(json.dumps([call, number, exit_code, said, contents(out)]), flush=True)
            number += step


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    campaign(Path(given["folder"]), Path(given["out"]), given["words"], step=given["step"], code=given["code"])
