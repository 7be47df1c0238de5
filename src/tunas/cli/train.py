"""`tunas train`."""

from __future__ import annotations

from tunas.train.config import TrainConfig


def run(config: TrainConfig) -> None:
    import os

    from tunas.train.loop import train

    result = train(config)
    if os.environ.get("RANK", "0") != "0":
        return
    if result.evaluation is not None:
        found = result.evaluation
        split = result.document["split"]
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics.items())
        print(f"{split} {metrics}, {found.examples} {result.unit}")
    print(f"result in {result.checkpoint_dir}")
