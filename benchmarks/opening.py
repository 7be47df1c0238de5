"""Opening a folder of as many files as ImageNet has: seconds, memory, and what each process that decodes adds.

    python benchmarks/opening.py [--files 1300000] [--workers 4] [--root DIRECTORY]

A thousand class folders of hard links to one small image each are made, beside a small folder of the same classes. Each
measurement is a process of its own. Memory of a worker is what it alone has (private pages), at the large folder and at
the small one, for processes that are forked and for such that are started anew.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

CLASSES = 1000
SMALL = 20_000


def write_tree(root: Path, files: int) -> None:
    """root/train/<class>/*.JPEG, hard links of one file a class."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 30)).save(buffer, "JPEG")
    for label in range(CLASSES):
        directory = root / "train" / f"n{label:08d}"
        directory.mkdir(parents=True)
        first = directory / f"n{label:08d}_0.JPEG"
        first.write_bytes(buffer.getvalue())
        for number in range(1, files // CLASSES):
            os.link(first, directory / f"n{label:08d}_{number}.JPEG")


def private_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def measure(directory: str, method: str, workers: int) -> dict[str, float]:
    """In a process of its own."""
    from tunas.data import DataConfig, open_data

    multiprocessing.set_start_method(method)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    data = open_data(DataConfig(dataset_dir=directory, image_size=32, num_workers=workers))
    seconds = time.perf_counter() - began
    found = {
        "images": data.size("full_train"),
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
    }
    if workers:
        stream = data.stream("train", 256, seed=0, augment=True)
        for _ in range(3):
            next(stream)
        children = multiprocessing.active_children()
        found["worker"] = sum(private_bytes(child.pid or 0) for child in children) / len(children)
        stream.close()  # type: ignore[attr-defined]
    return found


def measured(directory: Path, method: str, workers: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", str(directory), method, str(workers)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_300_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--root", help="make the folders here, or take those that are there, and keep them")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        directory, method, workers = arguments.one
        print(json.dumps(measure(directory, method, int(workers))))
        return
    with tempfile.TemporaryDirectory(prefix="tunas-opening-") as temporary:
        place = Path(arguments.root or temporary)
        large, small = place / "large", place / "small"
        for root, files in ((large, arguments.files), (small, SMALL)):
            if not root.exists():
                write_tree(root, files)
        for round_number in range(2):
            found = measured(large, "fork", 0)
            print(
                f"opened {found['images']:.0f} images in {found['seconds']:.1f} s (round {round_number}), at most "
                f"{found['peak'] / 2**20:.0f} MiB more than before"
            )
        for method in ("fork", "forkserver"):
            by_size = [measured(root, method, arguments.workers)["worker"] / 2**20 for root in (small, large)]
            print(
                f"{method}: a worker's own memory is {by_size[0]:.0f} MiB at {SMALL} images and {by_size[1]:.0f} MiB "
                f"at {arguments.files}"
            )


if __name__ == "__main__":
    main()
