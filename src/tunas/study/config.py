"""What a study is told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tunas.task.config import TaskConfig

Engine = Literal["local", "ray"]
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_warmup": {"increase_ops_warmup_steps_fraction": 0.0, "increase_filters_warmup_steps_fraction": 0.0},
    "no_sharing": {"aggressive_sharing": False},
    "mnas": {"rl_reward_function": "mnas", "rl_cost_model_exponent": -0.10, "rl_cost_model_tolerance": None},
}
"""Name -> what it changes in the searches (the paper's sections 3 and 4)."""


@dataclass(frozen=True)
class StudyConfig(TaskConfig):
    """Is the search worth it? Trains random architectures within a range of costs and the winners of several searches,
    all alike, and compares them."""

    ssd: str = "proxylessnas_search"
    """Search space."""

    out: str = "study"
    """Directory of the study. What is finished in it is not done again."""

    min_cost: float | None = None
    """Lower end of the range of costs. Where left out with the Pixel-1 cost: 83 ms (proxyless spaces) or 57 ms
    (V3-like)."""

    max_cost: float | None = None
    """Upper end of the range of costs. Where left out with the Pixel-1 cost: 85 ms or 59 ms."""

    cost_model: str | None = None
    """pixel1, params, macs, or a file that `tunas fit` wrote. pixel1 where the space has its tables, otherwise macs."""

    random: int = 24
    """Random architectures, uniform among those within the range."""

    repeats: int = 1
    """Trainings of each architecture, with different seeds: its accuracy is their mean."""

    searches: int = 3
    """Searches, with seeds 0, 1, 2, …, each for the middle of the range."""

    candidates: int = 1
    """So many architectures of each search within the range are trained like all others, but on the training split, and
    the one that is best on held-out examples is its winner. Their time counts as the search's."""

    ablation: tuple[Literal["no_warmup", "no_sharing", "mnas"], ...] = ()
    """As many searches more without the warmups, without aggressive sharing, or with the mnas reward; may be given
    several times."""

    search: tuple[str, ...] = ()
    """A flag of `tunas search` for every search, as name=value; may be given several times."""

    train: tuple[str, ...] = ()
    """A flag of `tunas train` for every training, as name=value, such as epochs=30; may be given several times."""

    use_held_out_test_set: bool = False
    """Train on all training images and compare on the test set. Otherwise on held-out training images."""

    workers: int = 1
    """Searches and trainings at a time, in processes that share this machine's processors."""

    engine: Engine = "local"
    """ray: on a Ray cluster instead (RAY_ADDRESS), whose machines see the directory under the same name."""

    seed: int = 0
    """Of the random architectures and of the first training of each."""
