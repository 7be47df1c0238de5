"""What may change when a run goes on. Imports no torch."""

from __future__ import annotations

from tunas.data.identity import HARMLESS as DATASET_HARMLESS

HARMLESS = (
    frozenset(
        {
            "checkpoint_dir",
            "num_workers",
            "cache_dir",
            "device",
            "checkpoint_every",
            "log_every",
            "log_to",
            "world_size",
        }
    )
    | DATASET_HARMLESS
)
"""May differ between the sessions of one run."""
