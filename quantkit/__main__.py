"""``python -m quantkit`` and the command ``quantkit``."""


def main() -> None:
    """Runs the command line; Ctrl-C while it is imported ends it as later, without a traceback."""
    try:
        from quantkit.cli import main as run  # inside "try": Ctrl-C may come while it loads
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
