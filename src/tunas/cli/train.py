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
        print(
            f"{split} accuracy {found.accuracy:.4f}, top-5 {found.top5_accuracy:.4f}, loss {found.loss:.4f}, "
            f"{found.images} images"
        )
    print(f"result in {result.checkpoint_dir}")
