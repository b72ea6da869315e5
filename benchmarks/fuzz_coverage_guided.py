"""Coverage-guided fuzzing of one parser of tests/fuzz with atheris (libFuzzer).

pip install atheris; python benchmarks/fuzz_coverage_guided.py "TensorRT cache" --seconds 60

Failures are defined as in `fuzz_parsers.py`; a failing input is saved in the current folder as crash-*.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["quantkit"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.oracle import check

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    with tempfile.TemporaryDirectory() as beside, tempfile.TemporaryDirectory() as corpus:
        if target.setup is not None:
            target.setup(Path(beside))
        for i, content in enumerate(target.seeds(None)):
            (Path(corpus) / str(i)).write_bytes(content)

        def try_one(content: bytes) -> None:
            check(target, content if target.seal is None else target.seal(content), Path(beside))

        limits = [f"-max_total_time={arguments.seconds}", "-timeout=5", "-rss_limit_mb=4096", "-max_len=8192"]
        atheris.Setup([sys.argv[0], *limits, corpus], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
