"""The architectures of a finished search that are worth a brief training each, because shared weights cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.directory import read_params
from tunas.search.candidates import likeliest
from tunas.search.distribution import Distribution
from tunas.search.places import STATE
from tunas.space import Architecture, Space


def finalists(
    directory: Path,
    space: Space,
    model: Any,
    found: dict[str, Any],
    *,
    tolerance: float,
    count: int,
    seed: int,
    place: str = "",
) -> list[Architecture]:
    """Up to `count` architectures of a search within the tolerance, its own result first.

    Where it measured several again at its end (`choose_from`), the best of them; elsewhere the likeliest.

    Args:
        directory: of the search.
        model: the cost model that it aimed with.
        found: what its `result.json` says of the target.
        tolerance: relative to the target.
        seed: of the draws from the controller.
        place: of the target among several, as in a checkpoint (`tunas.search.places`).

    Raises:
        InputError: where the controller is needed and no checkpoint holds it any more.
    """
    measured = [space.architecture(str(each["indices"])) for each in found.get("candidates", ())]
    if measured:
        return measured[:count]
    newest = newest_checkpoint(directory)
    if newest is None:
        raise InputError(f"the search in {directory} has no checkpoint any more, so its candidates are not known")
    learned = Distribution(space, float(read_params(directory).get("rl_temperature", 1.0)))
    learned.logits = newest[0][f"{STATE}{place}logits"].double().numpy()
    winner = space.architecture(str(found["indices"]))
    return likeliest(learned, winner, model, float(found["target"]), tolerance, count, seed)


def best_of(rows: list[tuple[str, float]]) -> int:
    """Number of the best of (indices, quality); of equals the first."""
    return max(range(len(rows)), key=lambda number: (rows[number][1], -number))
