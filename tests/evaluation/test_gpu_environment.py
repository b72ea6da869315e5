from __future__ import annotations

import sys

import pytest

from quantkit.evaluation import gpu_environment
from quantkit.evaluation.gpu_environment import describe_gpu_settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")

H100 = "550.90.07, 345 MHz, 1980 MHz, 2619 MHz, 69.46 W, 700.00 W, 31, 0 %, Enabled"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the path that prints this and notes how it was called."""

    def install(text: str, *, code: int = 0, seconds: int = 0):
        script = tmp_path / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/called\n[ {seconds} = 0 ] || exec /bin/sleep {seconds}\n'
            f"/bin/cat <<'END'\n{text}\nEND\nexit {code}\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / "called"

    return install


def test_settings_are_those_of_the_used_gpu(nvidia_smi):
    called = nvidia_smi(H100)
    assert describe_gpu_settings("0000:01:00.0") == {
        "gpu_driver": "550.90.07",
        "gpu_clock": "345 MHz, at most 1980 MHz",
        "gpu_memory_clock": "2619 MHz",
        "gpu_power": "69.46 W, at most 700.00 W",
        "gpu_temperature": "31 °C",
        "gpu_load": "0 %",
        "gpu_persistence_mode": "enabled",
    }
    words = called.read_text().split()
    assert words[-1] == "--id=0000:01:00.0"
    assert "--format=csv,noheader" in words
    assert words[0].count(",") == H100.count(",")


def test_unsupported_settings_are_left_out(nvidia_smi):
    nvidia_smi("535.1, 1200 MHz, [N/A], [Not Supported], [N/A], [N/A], [N/A], [N/A], Disabled")
    assert describe_gpu_settings() == {
        "gpu_driver": "535.1",
        "gpu_clock": "1200 MHz",
        "gpu_persistence_mode": "disabled",
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (H100, 6),
        ("", 0),
        (f"{H100}\n{H100}", 0),
        ("No devices were found", 0),
        ('Field "clocks.sm" is not a valid field to query.', 0),
    ],
)
def test_unexpected_output_is_ignored(nvidia_smi, text, code):
    nvidia_smi(text, code=code)
    assert describe_gpu_settings() == {}


def test_query_never_fails(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi(H100, seconds=30)
    monkeypatch.setattr(gpu_environment, "_TIMEOUT_S", 0.2)
    assert describe_gpu_settings() == {}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert describe_gpu_settings() == {}
