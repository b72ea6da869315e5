import pytest

from quantkit.processor import products_saturate, read_cpuinfo


def cpuinfo(folder, flags, key="flags"):
    path = folder / "cpuinfo"
    lines = ["processor\t: 0", "model name\t: Some CPU @ 3 GHz", f"{key}\t\t: {flags}", "", f"{key}\t: other"]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("flags", "machine", "saturates"),
    [
        ("fpu avx2 fma", "x86_64", True),
        ("avx2 avx512f avx512bw", "AMD64", True),
        ("avx2 avx512_vnni", "x86_64", False),
        ("avx2 avx_vnni", "x86_64", False),
        ("amx_int8", "x86_64", False),
        ("asimd", "aarch64", False),
        ("", "arm64", False),
    ],
)
def test_products_saturate_without_vnni(tmp_path, flags, machine, saturates):
    assert products_saturate(cpuinfo(tmp_path, flags), machine) is saturates


def test_what_is_unknown_is_taken_as_saturating_on_x86(tmp_path):
    assert products_saturate(tmp_path / "none", "x86_64")
    assert not products_saturate(tmp_path / "none", "aarch64")


def test_first_processor(tmp_path):
    assert read_cpuinfo(cpuinfo(tmp_path, "a b")) == ("Some CPU @ 3 GHz", {"a", "b"})
    assert read_cpuinfo(cpuinfo(tmp_path, "a b", key="Features"))[1] == {"a", "b"}
    assert read_cpuinfo(tmp_path / "none") == ("", frozenset())
