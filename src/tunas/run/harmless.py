"""What may change when a run goes on. Imports no torch."""

from __future__ import annotations

HARMLESS = frozenset(
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
"""May differ between the sessions of one run."""
