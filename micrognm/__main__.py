"""python -m micrognm: what is installed here, where each paper stands, how fast the kernels are."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m micrognm", description="micrognm's own tools.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("doctor", help="what is installed and in force here, what is missing, and what mends it")
    papers = commands.add_parser("papers", help="the table of the 31 papers and where each stands")
    papers.add_argument("--markdown", action="store_true", help="print it as the Markdown table of README.md")
    bench = commands.add_parser("bench", help="time the kernels, against PyTorch where it is installed")
    bench.add_argument("kernel", nargs="*", help="which ones; all where none is named")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    warm = commands.add_parser("warmup", help="compile the kernels now, instead of in the first training run")
    warm.add_argument("kernel", nargs="*", help="which ones; all where none is named")
    options = parser.parse_args(arguments)

    if options.command == "doctor":
        from micrognm import doctor

        return doctor.main()
    if options.command == "papers":
        from micrognm.papers import markdown, table

        print(markdown() if options.markdown else table())
        return 0
    if options.command in ("bench", "warmup"):
        from micrognm import bench as timing
        from micrognm import warmup as warming

        try:
            if options.command == "warmup":
                return warming.main(options.kernel)
            return timing.main(options.kernel, options.json)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    parser.print_help()
    return 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read, `head` perhaps, has gone: the last flush, at exit, must not say so again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
