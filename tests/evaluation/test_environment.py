from __future__ import annotations

import platform

import numpy as np
import pytest

from quantkit import _version
from quantkit.evaluation.environment import describe_environment


@pytest.fixture
def machine(tmp_path):
    """Writes a file of the tree in which Linux tells of itself."""

    def write(**files: str) -> dict[str, str]:
        for path, text in files.items():
            file = tmp_path / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return describe_environment(tmp_path)

    def write_all(files: dict[str, str]) -> dict[str, str]:
        return write(**{path.replace("/", "__"): text for path, text in files.items()})

    return write_all


def test_versions_are_of_this_process():
    environment = describe_environment()
    assert environment["python"] == platform.python_version()
    assert environment["numpy"] == np.__version__
    assert environment["quantkit"] == _version.__version__
    assert int(environment["cpu_cores"]) >= 1
    assert all(isinstance(value, str) and value for value in environment.values())


def test_reads_linux_description_of_the_processor(machine):
    environment = machine(
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2: fast\ncpu MHz\t: 2596.12\n"
            "flags\t\t: fpu avx2 avx512_vnni avx2x\n\nprocessor\t: 1\nmodel name\t: Other\nflags\t\t: amx_int8\n"
        }
    )
    assert environment["cpu"] == "Some CPU @ 2: fast"
    assert environment["cpu_flags"] == "avx2 avx512_vnni"
    assert environment["cpu_clock"] == "2596 MHz"


def test_clocks_and_governors_are_read(machine):
    cpu = "sys/devices/system/cpu"
    environment = machine(
        {
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/cpu10/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1200123\n",
            f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "3700000\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
        }
    )
    assert environment["cpu_governor"] == "performance, powersave"
    assert environment["cpu_clock"] == "1200 MHz, at most 3700 MHz"
    assert environment["cpu_boost"] == "on"
    assert machine({f"{cpu}/intel_pstate/no_turbo": "1"})["cpu_boost"] == "off"


def test_boost_is_read_on_other_processors(machine):
    assert machine({"sys/devices/system/cpu/cpufreq/boost": "0"})["cpu_boost"] == "off"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, "1.5 cores"),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        # The group around it allows less.
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
                "sys/fs/cgroup/pod/box/cpu.max": "800000 100000",
            },
            "2 cores",
        ),
        # Version 1; in a container the folder is the mount itself.
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1234\n3:memory:/docker/1234\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            "0.5 cores",
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/../../x\n0\n\n:::\n", "sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_container_quota_is_read(machine, files, quota):
    assert machine(files).get("cpu_quota") == quota


def test_memory_is_that_of_machine_or_container(machine):
    meminfo = {"proc/meminfo": "MemTotal:       24684100 kB\nMemFree: 1 kB\n", "proc/self/cgroup": "0::/\n"}
    assert machine(meminfo)["memory"] == "25.3 GB"
    assert machine({"sys/fs/cgroup/memory.max": "max"})["memory"] == "25.3 GB"
    assert machine({"sys/fs/cgroup/memory.max": "9223372036854771712"})["memory"] == "25.3 GB"
    assert machine({"sys/fs/cgroup/memory.max": "4294967296"})["memory"] == "4.29 GB (limit of the control group)"


def test_unknown_facts_are_left_out(tmp_path):
    environment = describe_environment(tmp_path / "missing")
    assert not {"cpu_flags", "cpu_governor", "cpu_clock", "cpu_boost", "cpu_quota", "memory"} & environment.keys()
    assert environment["os"]


def test_environment_does_not_identify_the_machine():
    assert platform.node() not in " ".join(describe_environment().values()) or not platform.node()
