"""What a design works with: its space, task, device and sizes, and the configuration of every part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.cost.catalog import load_cost_model
from tunas.cost.fit import FitConfig
from tunas.cost.measure import setup_changes, setup_of
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.model import with_unit
from tunas.cost.range import cost_range
from tunas.design.config import DesignConfig
from tunas.design.sizes import ASKS_NETWORKS, Sizes, name_of
from tunas.errors import InputError
from tunas.export.config import CALIBRATION_IMAGES, ExportConfig
from tunas.needs import has_package
from tunas.recipe.choose import batch_size
from tunas.runtime import Runtime, get_runtime
from tunas.search.config import SearchConfig
from tunas.search.plan import auto_replicas
from tunas.space import Architecture, Space
from tunas.study.flags import with_flags
from tunas.task import Task
from tunas.train.config import TrainConfig
from tunas.train.plan import splits

SAMPLES, COST_MODEL, CACHE = "samples.csv", "cost_model.json", "cache"
SEARCH, TRAININGS, EXPORTS = "search", "train", "export"
"""Directories of a design."""
GROUP = 40
"""Networks that take turns while the device is measured: an interruption loses the times of one group."""
OF_MANY = ("group", ASKS_NETWORKS)
"""Flags of `tunas measure` that mean nothing where one network is timed."""
OF_THE_SEARCH = "search"
"""--init_from that stands for the weights that the search has shared."""


@dataclass(frozen=True)
class Target:
    """What one network shall cost.

    Args:
        name: of its directories.
        cost: in the cost model's unit; None where the search takes what it takes by default.
    """

    name: str
    cost: float | None


@dataclass(frozen=True)
class Way:
    """Everything that the parts of a design share.

    Args:
        config: what the user said.
        out: the directory.
        space: that is searched.
        task: what is learned.
        given: the task where it was handed over in Python; None where the configuration says it.
        runtime: that will run the file.
        exports: whether a file is made.
        sizes: how large the parts are.
        drawn: random architectures that were drawn already, by what was asked for.
    """

    config: DesignConfig
    out: Path
    space: Space
    task: Task
    given: Task | None
    runtime: Runtime
    exports: bool
    sizes: Sizes
    drawn: dict[tuple[str, float, int, int], list[Architecture]] = dataclasses.field(default_factory=dict)

    @property
    def measures(self) -> bool:
        """Whether the device is measured, rather than priced by a model that is there."""
        return self.config.cost_model is None

    @property
    def targets(self) -> list[Target]:
        """What networks are designed for, one each."""
        if not self.config.latency:
            return [Target("default", None)]
        unit = "ms" if self.measures else self._known_unit()
        return [Target(f"{cost:g}{unit}".replace("+", ""), cost) for cost in self.config.latency]

    def _known_unit(self) -> str:
        """The cost model's unit, where names of directories say it."""
        unit = self.cost_model().unit
        return unit if unit == "ms" else ""

    @property
    def cost_model_name(self) -> str:
        """What `--cost_model` of every part is."""
        return str(self.out / COST_MODEL) if self.measures else str(self.config.cost_model)

    def cost_model(self) -> Any:
        """The model that everything is priced by; of a device that is measured, once it is fitted."""
        return load_cost_model(self.cost_model_name, self.space, **self.task.cost_arguments)

    @property
    def data(self) -> DesignConfig:
        """What every part is told about the task: one cache for all of them, and the image size that was chosen."""
        if self.task.data is None:
            return self.config
        cache = self.config.cache_dir or (None if self.is_digits or self.config.plan else str(self.out / CACHE))
        return dataclasses.replace(self.config, image_size=self.sizes.image_size, cache_dir=cache)

    @property
    def is_digits(self) -> bool:
        """Whether the examples are the embedded digits."""
        return self.task.name == "digits"

    def measure_config(self) -> MeasureConfig:
        """How the networks are measured that the cost model is fitted to."""
        group = {} if "group" in self._said("measure") else {"group": GROUP}
        flags = [flag for flag in self.config.measure if name_of(flag) != ASKS_NETWORKS]
        return self._measuring(
            flags, out=str(self.out / SAMPLES), num_architectures=max(1, self.sizes.networks), **group
        )

    def timing_config(self) -> MeasureConfig:
        """How one network is timed as those were."""
        flags = [flag for flag in self.config.measure if name_of(flag) not in OF_MANY]
        return self._measuring(flags, indices="")

    def _measuring(self, flags: Sequence[str], **settings: Any) -> MeasureConfig:
        settings |= {"ssd": self.config.ssd, "device": self.runtime.name, "seed": self.config.seed}
        known = self.task.cost_arguments
        settings |= {name: known[name] for name in ("image_size", "num_classes") if name in known}
        return with_flags(MeasureConfig, "measure", flags, **settings)

    def fit_config(self) -> FitConfig:
        """How the cost model is fitted to them."""
        return FitConfig(str(self.out / SAMPLES), self.config.ssd, str(self.out / COST_MODEL), seed=self.config.seed)

    def search_config(self, **more: Any) -> SearchConfig:
        """The search for all targets; `more` goes before what follows from the design."""
        settings: dict[str, Any] = {
            "ssd": self.config.ssd,
            "cost_model": self.cost_model_name,
            "rl_cost_model_target": self.config.latency or None,
            "rl_cost_model_tolerance": self.config.tolerance,
            "device": self.config.compute,
            "seed": self.config.seed,
        }
        config = self._sized(SearchConfig, "search", self.sizes.search_epochs, settings)
        return dataclasses.replace(config, **{**self._shares(config), **more})

    def _shares(self, config: SearchConfig) -> dict[str, int]:
        """Replicas that the targets can deal among them, each with the share of a batch that it has by default."""
        if len(self.targets) == 1 or config.replicas is not None or config.train_batch_size is not None:
            return {}
        batch = batch_size(config, self.task.size("train"))
        replicas = auto_replicas(batch)
        dealt = math.ceil(replicas / len(self.targets)) * len(self.targets)
        return {"replicas": dealt, "train_batch_size": batch // replicas * dealt}

    def train_config(self, architecture: Architecture, seed: int = 0, *, briefly: bool = False) -> TrainConfig:
        """A training that counts; or `briefly` that of a candidate, on the training split and for few epochs."""
        settings: dict[str, Any] = {
            "ssd": self.config.ssd,
            "indices": architecture.text,
            "use_held_out_test_set": self.sizes.tests and not briefly,
            "cost_model": self.cost_model_name,
            "init_from": str(self.search_directory) if self.sizes.init_from == OF_THE_SEARCH else self.sizes.init_from,
            "device": self.config.compute,
            "seed": self.config.seed + seed,
            **({} if self.sizes.hflip is None else {"hflip": self.sizes.hflip}),
        }
        epochs = self.sizes.candidate_epochs if briefly else self.sizes.train_epochs
        return self._sized(TrainConfig, "train", epochs, settings)

    def _sized(self, kind: Any, command: str, epochs: float, settings: dict[str, Any]) -> Any:
        """The configuration of another command with the epochs that were chosen; a flag's epochs went into these."""
        if (every := self.sizes.checkpoints.get(command)) and "checkpoint_every" not in self._said(command):
            settings["checkpoint_every"] = every
        flags = [flag for flag in getattr(self.config, command) if not flag.removeprefix("--").startswith("epochs=")]
        return with_flags(kind, command, flags, self.data, **settings, epochs=epochs)

    def _said(self, command: str) -> set[str]:
        """Names of the flags that the user gave for another command."""
        flags = getattr(self.config, command)
        return {name_of(flag) for flag in flags}

    @property
    def search_directory(self) -> Path:
        """Where the search for all targets runs."""
        return self.out / SEARCH

    def export_config(self, target: Target) -> ExportConfig:
        """How the file of a target is made."""
        train_split = splits(TrainConfig(use_held_out_test_set=self.sizes.tests))[0]
        images = min(CALIBRATION_IMAGES, self.task.size(train_split))
        return ExportConfig(
            out=str(self.out / EXPORTS / target.name),
            checkpoint_dir=str(self.out / TRAININGS / target.name),
            runtime=(self.runtime.name,),
            calibration_images=images,
            cost_model=self.cost_model_name,
            input="normalized",  # as the networks take it that the cost model was fitted to
            max_accuracy_drop=1.0,
            seed=self.config.seed,
        )

    def prices_this_device(self) -> str | None:
        """Why predicted and measured times are of different things; None where they are of the same."""
        model = self.cost_model()
        if model.unit != "ms":
            return f"the cost is {model.unit}, not time"
        said = model.provenance
        if said.get("source") != "tunas fit":
            return f"the cost model is of {model.device or 'another device'}"
        return "; ".join(setup_changes(said, setup_of(self.space, self.runtime, self.timing_config()))) or None

    def check_reachable(self) -> None:
        """Refuses a latency that no architecture has.

        Raises:
            InputError: with the range that the space covers on the device.
        """
        model = self.cost_model()
        found = cost_range(model)
        if found is None:
            return
        for target in self.targets:
            if target.cost is None:
                continue
            slack = self.config.tolerance
            if target.cost * (1 + slack) < found.low or target.cost * (1 - slack) > found.high:
                where = f" on {model.device}" if model.unit == "ms" and model.device else ""
                raise InputError(
                    f"--latency={target.cost:g}: no architecture of {self.space.name} costs "
                    f"{with_unit(target.cost, model.unit)}{where}; they cost {with_unit(found.low, model.unit)} to "
                    f"{with_unit(found.high, model.unit)}"
                )


def runtime_of(config: DesignConfig) -> Runtime:
    """What will run the file.

    Raises:
        InputError: where it is not there.
    """
    return get_runtime(config.device or ("onnxruntime" if has_package("onnxruntime") else "torch-cpu"))
