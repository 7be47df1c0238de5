"""What `tunas design` estimates for its parts, against what they take.

    python benchmarks/design_estimates.py [--workers 2] [--out runs/estimates] [flags of tunas design]

Without flags the quickstart: the embedded digits, the published tables, three random architectures. Prints a row for
each part, as docs/design.md has it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from tunas.cli import main as tunas_main

QUICKSTART = ("--cost_model=pixel1", "--latency=84", "--random=3")


def rows_of(directory: Path) -> list[tuple[str, float, float]]:
    """(part, seconds estimated, seconds taken), then the same of all together."""
    document = json.loads((directory / "design.json").read_text())
    took, estimated = document["took"], document["estimates"]
    rows = [(part, estimated[part]["seconds"], took[part]) for part in estimated if part in took]
    return [*rows, ("together", sum(row[1] for row in rows), sum(row[2] for row in rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/estimates", help="removed first")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="a design for each")
    args, flags = parser.parse_known_args()
    for workers in args.workers:
        out = Path(f"{args.out}-{workers}")
        shutil.rmtree(out, ignore_errors=True)
        tunas_main(["design", *(flags or QUICKSTART), f"--workers={workers}", f"--out={out}"])
        load = os.getloadavg()[1]
        print(f"\n{workers} trainings at a time, {os.cpu_count()} processors, load {load:.1f} over five minutes\n")
        print("| part | estimated | took | took / estimated |\n| --- | --- | --- | --- |")
        for part, seconds, taken in rows_of(out):
            print(f"| {part} | {seconds:.1f} s | {taken:.1f} s | {taken / seconds:.2f} |")


if __name__ == "__main__":
    main()
