"""Compiles the two inner loops where there is a compiler; everything else is declared in pyproject.toml.

Without a compiler the package installs all the same, and NumPy computes the same values. QUANTKIT_PURE_PYTHON=1 builds
the wheel for such machines. The wheel of CPython 3.11 serves all later versions (stable ABI); free-threaded ones have
none.
"""

import os
import sys
import sysconfig

from setuptools import Extension, setup

has_stable_abi = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")
kernels = [
    Extension(
        f"quantkit.{package}.{name}",
        [f"quantkit/{package}/{name}.c"],
        define_macros=[("QUANTKIT_STABLE_ABI", "1")] if has_stable_abi else [],
        extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
        py_limited_api=has_stable_abi,
        optional=True,
    )
    for package, name in (("calibration", "_magnitudes"), ("datasets", "_pixels"))
]
setup(
    ext_modules=[] if os.environ.get("QUANTKIT_PURE_PYTHON") else kernels,
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if has_stable_abi else {},
)
