"""``python -m quantkit`` and the command ``quantkit``."""

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while it is imported ends it as later, in one line."""
    try:
        from quantkit.cli import main as run  # inside "try": Ctrl-C may come while it loads

        run()
    except KeyboardInterrupt:
        print("quantkit: error: Interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
