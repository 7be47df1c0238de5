"""The whole way: search, train, evaluate, and compare with random architectures of the same cost."""

from __future__ import annotations

import os

from tunas.errors import InputError
from tunas.files import make_directory
from tunas.search.config import SearchConfig
from tunas.search.loop import search
from tunas.search.objective import search_objectives
from tunas.search.reachable import check_reachable
from tunas.search.reward import EXPONENT
from tunas.space import get_space
from tunas.study.alike import Row, trained_alike
from tunas.study.sample import ALIKE, random_alike
from tunas.task import Task, TaskConfig
from tunas.task.opening import open_task
from tunas.train.config import TrainConfig
from tunas.train.plan import plan_training


def quickstart(
    directory: str | os.PathLike[str],
    ssd: str,
    target: float | None = None,
    *,
    train_epochs: float,
    search_epochs: float | None = None,
    random: int = 8,
    seed: int = 0,
    cost_model: str | None = None,
    tolerance: float | None = None,
    task: Task | None = None,
) -> tuple[list[Row], float, str]:
    """Searches, trains the winner and `random` random architectures of the same cost alike: (rows, the winner first;
    target; unit).

    Every part is a run of its own under `directory`, and goes on where it was interrupted.

    Args:
        target: cost to land on; where None, what `tunas search` would take.
        train_epochs: of each stand-alone training, on all that is not for the test.
        search_epochs: of the search; where None, what `tunas search` would take.
        cost_model, tolerance: as `--cost_model` and `--rl_cost_model_tolerance` of `tunas search`.
        task: what is learned; the embedded digits where left out.

    Raises:
        InputError: as `search` and `train`.
    """
    if random < 0:
        raise InputError(f"random must be 0 or more, not {random}")
    space, directory = get_space(ssd), make_directory(directory)
    learned = open_task(TaskConfig(), task=task)
    searching = SearchConfig(
        ssd=ssd,
        rl_cost_model_target=target,
        rl_cost_model_tolerance=tolerance,
        cost_model=cost_model,
        epochs=search_epochs,
        checkpoint_dir=str(directory / "search"),
        seed=seed,
    )
    config = TrainConfig(
        ssd=ssd,
        checkpoint_dir=str(directory),
        use_held_out_test_set=True,
        epochs=train_epochs,
        dropout_rate=0.0,
        seed=seed,
    )
    (objective,) = search_objectives(searching, EXPONENT, space, learned.cost_arguments)
    assert objective.target is not None and objective.model is not None
    check_reachable([objective], tolerance)
    learned.size("test")
    plan_training(config, learned.size("full_train"))
    model = objective.model
    random_alike(space, model, objective.target, ALIKE, random, seed)  # or the search would be for nothing
    result = search(searching, task)
    assert result.target is not None
    rows = trained_alike(result.architecture, model, config, task, random=random, window=ALIKE, around=result.target)
    return rows, result.target, model.unit
