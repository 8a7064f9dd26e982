"""The entry point. `--version` is answered before anything else is imported: probes and scripts call it often."""

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        from rotator import __version__  # noqa: PLC0415 - see above

        sys.stdout.write(f"rotator {__version__}\n")
        return
    from rotator.cli.main import run  # noqa: PLC0415 - see above

    run()


if __name__ == "__main__":
    main()
