from __future__ import annotations

import platform

import numpy as np

from quantkit import _version
from quantkit.evaluation.environment import describe_environment


def test_versions_are_of_this_process():
    environment = describe_environment()
    assert environment["python"] == platform.python_version()
    assert environment["numpy"] == np.__version__
    assert environment["quantkit"] == _version.__version__
    assert int(environment["cpu_cores"]) >= 1
    assert all(isinstance(value, str) and value for value in environment.values())


def test_reads_linux_description_of_the_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2: fast\nflags\t\t: fpu avx2 avx512_vnni avx2x\n\n"
        "processor\t: 1\nmodel name\t: Other\nflags\t\t: amx_int8\n"
    )
    environment = describe_environment(cpuinfo)
    assert environment["cpu"] == "Some CPU @ 2: fast"
    assert environment["cpu_flags"] == "avx2 avx512_vnni"


def test_elsewhere_it_leaves_out_what_it_cannot_know(tmp_path):
    environment = describe_environment(tmp_path / "missing")
    assert "cpu_flags" not in environment
    assert environment["os"]


def test_nothing_tells_whose_machine_it_is():
    assert platform.node() not in " ".join(describe_environment().values()) or not platform.node()
