"""How near the quickstart's search ends to its target: searches on the embedded digits, one a seed.

    python benchmarks/landing.py [--output runs/landing] [--seeds 0 1 … 9] [--recipes auto rates plain] [--workers 2]
        [--dataset_dir IMAGES --image_size 32 --epochs 24]

Every search is written to OUTPUT/landing.json as it ends; the same command goes on with those that are missing, and a
search that was killed goes on from its checkpoint in RUNS. Beside the recipes, `rates` learns the shared weights by the
published rates on the small recipe's views, and `plain` by those rates on images as they are: what searches on small
data did by themselves until 26 November 2026, the latter on the embedded digits. `--dataset_dir` searches on a folder
of images instead.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

SPACE = "proxylessnas_search"
PUBLISHED_RATES = {
    "recipe": "small",
    "model_learning_rate": 0.165,
    "model_warmup_steps_fraction": 0.025,
    "clip_grad": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    **{name: {"recipe": name} for name in ("auto", "published", "small", "modern")},
    "rates": PUBLISHED_RATES,
    "plain": {**PUBLISHED_RATES, "augment": "none"},
}


def searched(runs: Path, recipe: str, seed: int, device: str, data: dict[str, Any]) -> dict[str, Any]:
    import tunas

    began = time.perf_counter()
    config = tunas.SearchConfig(
        ssd=SPACE,
        checkpoint_dir=str(runs / f"{recipe}-{seed}"),
        seed=seed,
        device=device,
        num_workers=0,
        **data,
        **RECIPES[recipe],
    )
    result = tunas.search(config)
    assert result.cost is not None and result.target is not None
    return {
        "off_target": result.cost / result.target - 1,
        "quality": result.quality,
        "indices": result.architecture.text,
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(found: dict[str, Any], recipes: list[str]) -> None:
    print("| recipe | searches | mean distance | mean of its size | largest | within 1 % | shared quality | each |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for recipe in recipes:
        rows = [row for key, row in sorted(found.items()) if key.startswith(f"{recipe}/")]
        if rows:
            off = np.array([100 * row["off_target"] for row in rows])
            quality = np.mean([row["quality"] for row in rows])
            print(
                f"| {recipe} | {len(off)} | {off.mean():+.2f} % | {abs(off).mean():.2f} % | {abs(off).max():.2f} % | "
                f"{(abs(off) <= 1).sum()} | {quality:.2%} | {', '.join(f'{each:+.2f}' for each in off)} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/landing"), help="directory of landing.json")
    parser.add_argument("--runs", type=Path, help="directory of the searches; OUTPUT where left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--recipes", nargs="+", default=["auto"], choices=RECIPES)
    parser.add_argument("--dataset_dir", help="a folder of images; the embedded digits where left out")
    parser.add_argument("--image_size", type=int, help="pixels of the folder's images")
    parser.add_argument("--epochs", type=float, help="of a search; its default where left out")
    parser.add_argument("--workers", type=int, default=1, help="searches side by side, one thread each")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("dataset_dir", "image_size", "epochs")}
    data = {name: value for name, value in given.items() if value is not None}
    file, runs = options.output / "landing.json", options.runs or options.output
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read by the processes when they start
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(searched, runs, recipe, seed, options.device, data): f"{recipe}/{seed}"
            for recipe in options.recipes
            for seed in options.seeds
            if f"{recipe}/{seed}" not in found
        }
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            part = file.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            part.replace(file)
            print(f"{futures[future]}: {100 * found[futures[future]]['off_target']:+.2f} %", flush=True)
    table(found, options.recipes)


if __name__ == "__main__":
    main()
