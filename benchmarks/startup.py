"""How long `import tunas` and `tunas --help` take, beside an empty Python and `import torch`, in the same run.

python benchmarks/startup.py [--rounds 10]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tunas": ["-c", "import tunas"],
    "tunas --help": ["-m", "tunas", "--help"],
    "tunas spaces": ["-m", "tunas", "spaces"],
    "tunas search --help": ["-m", "tunas", "search", "--help"],
    "import torch": ["-c", "import torch"],
}


@dataclass
class Options:
    rounds: int = 10


def main(options: Options) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - start)
    print(f"median of {options.rounds} rounds after a first one")
    for name, seconds in times.items():
        print(f"{name:22} {1e3 * statistics.median(seconds[1:]):7.0f} ms")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
