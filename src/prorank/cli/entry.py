"""Where the command `prorank` begins: an interrupt while it is imported stops it as quietly as a later one.

Imports nothing at its head that takes time; the command line itself is `prorank.cli.main`.
"""

import sys


def main() -> None:
    """Import the command line and run it; exit with 130 on an interrupt."""
    try:
        from prorank.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
