"""What a design is told. Imports no torch."""

from __future__ import annotations

import collections
from dataclasses import dataclass

from tunas.errors import InputError, check_positive
from tunas.study.config import Engine
from tunas.task.config import TaskConfig

NOISY = 0.10
"""Held-out error of a fitted cost model from which on a search would land anywhere."""


@dataclass(frozen=True)
class DesignConfig(TaskConfig):
    """From a dataset and a device to a checked file: measure the device, fit a cost model, search, train, export, time
    the file, report. What is finished in the directory is not done again."""

    ssd: str = "proxylessnas_search"
    """Search space: a name that `tunas spaces` lists, or module:function or file.py:function of your own."""

    latency: tuple[float, ...] = ()
    """What the network shall cost: milliseconds on the device, or in the unit of --cost_model. May be given several
    times, for a network each. What `tunas search` would aim for where left out."""

    device: str | None = None
    """What will run the file, as `tunas measure --device` names it: onnxruntime-int8, openvino, … The file is exported
    for it and timed on this machine. Where left out, onnxruntime if it is installed, otherwise torch-cpu."""

    out: str = "runs/design"
    """Directory of the design: every part is a run in it."""

    cost_model: str | None = None
    """Price with this instead of measuring the device: pixel1, params, macs, peak_memory, flash, or a file that `tunas
    fit` wrote."""

    minutes: float | None = None
    """How long everything together may take. Parts are made as small as that asks for, and what was cut is said."""

    plan: bool = False
    """Print the plan, with the time and the disk that each part will take, and stop."""

    candidates: int = 1
    """Train so many of the search's likeliest architectures within the tolerance briefly, and go on with the one that
    is best on held-out examples."""

    random: int = 0
    """Random architectures of the same cost, trained as the winner is, to see what the search was worth."""

    seeds: int = 1
    """Trainings of the winner and of every random architecture, from different first weights: gives error bars."""

    tolerance: float = 0.01
    """What may be left between an architecture's predicted cost and what was asked for, relative to it."""

    init_from: str | None = None
    """Weights that trainings start from, as `tunas train --init_from` takes them; search for those of the search
    itself, which its winner inherits; none for fresh ones. Where left out, those of the timm model that the space is
    around, where the images are few and the file is on this machine."""

    measure: tuple[str, ...] = ()
    """A flag of `tunas measure`, as name=value, such as num_architectures=300; may be given several times."""

    search: tuple[str, ...] = ()
    """A flag of `tunas search`, as name=value; may be given several times."""

    train: tuple[str, ...] = ()
    """A flag of `tunas train` for every training, as name=value, such as epochs=30; may be given several times."""

    compute: str = "auto"
    """What searches and trains: auto, cpu, cuda, cuda:N or mps."""

    workers: int = 1
    """Trainings at a time, in processes that share this machine's processors."""

    engine: Engine = "local"
    """ray: trainings and searches on a Ray cluster instead (RAY_ADDRESS), whose machines see the directory under the
    same name."""

    force: bool = False
    """Go on with a device whose times are too noisy to fit."""

    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        for name in ("minutes", "tolerance", "candidates", "seeds"):
            check_positive(name, getattr(self, name))
        for latency in self.latency:
            check_positive("latency", latency)
        if self.random < 0:
            raise InputError(f"random must be 0 or more, not {self.random}")
        twice = [value for value, count in collections.Counter(self.latency).items() if count > 1]
        if twice:
            raise InputError(f"--latency={twice[0]:g} is given twice; each asks for a network of its own")
        if self.cost_model is not None and self.measure:
            raise InputError("--measure is about measuring the device, and --cost_model prices without; leave it out")
