"""What a run survives: killed at random moments, many times; and whether its memory grows.

    python benchmarks/faults.py [--kills 60] [--memory-steps 5000]

1. A search on the digits runs once undisturbed and once killed with SIGKILL at random moments and restarted until it
has been
   killed `--kills` times; weights, optimiser, controller and event scalars of the two are compared bit by bit. The same
   for a training with moving average, gradient accumulation and dropout, killed a third as often.
2. A process of a job of two is killed `--rank-kills` times, and the job restarted.
3. A byte is changed at `--flips` random places in random files of a run directory, which is then resumed.
4. A search of `--memory-steps` steps; the slope of its resident memory over the last four fifths.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.jobs import SEARCH, TRAIN, Job, finished
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import PATTERN, events_of, read_events


@dataclass
class Options:
    kills: int = 60
    rank_kills: int = 10
    flips: int = 60
    memory_steps: int = 5000
    seed: int = 0


def differences(one: Path, other: Path, tolerance: float = 0.0) -> list[str]:
    """What is not the same in two run directories."""
    first, second = newest_checkpoint(one), newest_checkpoint(other)
    assert first is not None and second is not None
    found = [
        name
        for name, value in first[0].items()
        if not torch.equal(value, second[0][name])
        and not torch.allclose(value, second[0][name], rtol=0, atol=tolerance)
    ]
    scalars, others = read_events(one)[0], read_events(other)[0]
    found += [
        f"step {step}"
        for step in scalars.keys() | others.keys()
        if not tolerance and scalars.get(step) != others.get(step)
    ]
    for directory in (one, other):
        steps = [
            event.step for path in directory.glob(PATTERN) for event in events_of(path, []) if event.HasField("summary")
        ]
        found += [f"{len(steps)} entries for {max(steps) + 1} steps"] * (sorted(steps) != list(range(max(steps) + 1)))
    return found


def killed(words: list[str], directory: Path, kills: int, rng: random.Random, ranks: int = 1) -> int:
    """How many of `kills` kills came while steps were running; the run is then brought to its end.

    Every second one comes at a random moment after the start, the others at a random moment after the first step.
    """
    at_work = 0
    for number in range(kills):
        began = time.time()
        job = Job([*words, f"--checkpoint-dir={directory}"], ranks)
        while number % 2 and not logging_since(directory, began) and job.processes[0].is_alive():
            time.sleep(0.002)
        job.processes[0].join(rng.uniform(0.0, 0.5 if number % 2 else 2.0))
        assert job.processes[0].is_alive(), f"the run is too short for so many kills: {job.output()}"
        at_work += logging_since(directory, began)
        job.signal(signal.SIGKILL, [rng.randrange(ranks)])
        job.wait()
    finished([*words, f"--checkpoint-dir={directory}"], ranks)
    return at_work


def logging_since(directory: Path, began: float) -> bool:
    """Whether a session that began then has logged a step."""
    return any(path.stat().st_mtime > began for path in directory.glob(PATTERN))


def kill_often(name: str, words: list[str], root: Path, kills: int, rng: random.Random, ranks: int = 1) -> None:
    finished([*words, f"--checkpoint-dir={root / name}-undisturbed"], ranks)
    began = time.monotonic()
    at_work = killed(words, root / name, kills, rng, ranks)
    lost = differences(root / f"{name}-undisturbed", root / name)
    steps = newest_checkpoint(root / name)[1]["step"]  # type: ignore[index]
    print(
        f"{name}: {steps} steps, killed {kills} times ({at_work} of them amid steps, the others while starting), "
        f"{time.monotonic() - began:.0f} s: {'lost ' + ', '.join(lost) if lost else 'nothing lost, bit-identical'}",
        flush=True,
    )


def flip_often(undisturbed: Path, words: list[str], root: Path, flips: int, rng: random.Random) -> None:
    outcomes = dict.fromkeys(("refused in one sentence", "bit-identical with a warning", "bit-identical", "WRONG"), 0)
    for number in range(flips):
        run = root / f"flip-{number}"
        shutil.copytree(undisturbed, run)
        path = rng.choice(sorted(run.iterdir()))
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        job = Job([*words, f"--checkpoint-dir={run}"])
        (code,) = job.wait()
        if code == 2:
            outcome = "refused in one sentence" if job.output().count("\n") == 1 else "WRONG"
        else:
            lost = [name for name in differences(undisturbed, run) if not path.name.startswith("events")]
            warned = "warning:" in job.output() or read_events(run)[1]
            outcome = "WRONG" if code or lost else "bit-identical with a warning" if warned else "bit-identical"
        outcomes[outcome] += 1
        if outcome == "WRONG":
            print(f"  {path.name} byte {place}: exit code {code}\n{job.output()}")
        shutil.rmtree(run)
    print(
        f"{flips} flipped bits: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()), flush=True
    )


def memory_slope(steps: int, root: Path) -> None:
    epochs = steps * 48 / 1077 + 0.01
    job = Job(
        [
            *SEARCH,
            f"--epochs={epochs}",
            f"--checkpoint-dir={root / 'memory'}",
            "--log-every=1",
            "--checkpoint-every=100",
        ]
    )
    began, readings = time.monotonic(), []
    page = 4096
    while job.processes[0].is_alive():
        try:
            resident = int(Path(f"/proc/{job.processes[0].pid}/statm").read_text().split()[1]) * page
        except (OSError, IndexError):
            break
        readings.append((time.monotonic() - began, resident))
        time.sleep(0.2)
    assert job.wait() == [0], job.output()
    seconds, resident = np.array(readings)[len(readings) // 5 : -2].T
    done = np.interp(seconds, [readings[0][0], readings[-1][0]], [0, steps])
    slope = np.polyfit(done, resident, 1)[0] * 1000
    print(
        f"memory: {steps} steps in {readings[-1][0]:.0f} s, {resident[0] / 2**20:.1f} MiB after a fifth, "
        f"{resident[-1] / 2**20:.1f} MiB at "
        f"the end, slope {slope / 2**10:+.1f} KiB per 1000 steps",
        flush=True,
    )


def main(options: Options) -> None:
    rng = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="tunas-faults-"))
    search = [*SEARCH, "--epochs=45", "--log-every=1", "--checkpoint-every=3"]
    train = [
        *TRAIN,
        "--epochs=45",
        "--checkpoint-every=3",
        "--ema-decay=0.9",
        "--gradient-accumulation=2",
        "--dropout-rate=0.3",
    ]
    try:
        kill_often("search", search, root, options.kills, rng)
        kill_often("train", [*train, "--path-dropout-rate=0.3"], root, options.kills // 3, rng)
        kill_often("two-processes", search, root, options.rank_kills, rng, ranks=2)
        flip_often(root / "search-undisturbed", search, root, options.flips, rng)
        memory_slope(options.memory_steps, root)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(tyro.cli(Options))
