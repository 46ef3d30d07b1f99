"""The command line: one file per noun."""

import sys


def main() -> None:
    """The program `terascope`."""
    from terascope.cli.app import run

    sys.exit(run(sys.argv[1:]))
