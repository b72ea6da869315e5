"""Version and distribution name of the package. The build reads the version without importing anything else."""

__version__ = "0.1.0"

DISTRIBUTION = "quantkit-ptq"
"""Name on PyPI, where `quantkit` is another project."""
