"""What a run was told, for another command to go on with: `--from RUN`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from tunas.data.identity import CLASS_NAMES
from tunas.errors import InputError
from tunas.run.directory import (
    MODEL_SPEC,
    PARAMS,
    RESULT,
    is_altered,
    read_model_spec,
    read_params,
    read_result,
)
from tunas.space import get_space, structure_to_json
from tunas.space.layers import scale_filters


@dataclass(frozen=True)
class Told:
    """A run, as its directory tells.

    Args:
        directory: of the run.
        params: its `params.json`.
    """

    directory: Path
    params: dict[str, Any]

    @property
    def is_search(self) -> bool:
        """Whether it is a search rather than a training."""
        return "indices" not in self.params

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the settings that the run has, as a configuration takes them.

        Of a search for several targets, what it was told for each target alone is left out.
        """
        is_for_several = isinstance(self.params.get("rl_cost_model_target"), list)
        one_each = {"cost_model", "rl_cost_model_target"} if is_for_several else set()
        found: dict[str, Any] = {}
        for name in names:
            value = self.params.get(name)
            if isinstance(value, list):
                if name not in one_each:
                    found[name] = tuple(value)
            elif value is not None:
                found[name] = value
        return found

    def space(self) -> str:
        """The name of the space that was searched, or that the trained architecture is of.

        Raises:
            InputError: where indices mean something else in the space of that name today.
        """
        name = str(self.params["ssd"])
        space = get_space(name)
        structure = space.structure if self.is_search else space.architecture(self.architecture()).structure
        written = scale_filters(structure, self.params.get("filters_multiplier", 1.0))
        if structure_to_json(written) != read_model_spec(self.directory):
            raise InputError(f"{name} is another search space now than when the run in {self.directory} began")
        return name

    def network(self, given: Collection[str]) -> dict[str, str]:
        """Space and indices, but for what is given: indices of a space that is given mean nothing here.

        Raises:
            InputError: as `space` and `architecture`.
        """
        if "ssd" in given:
            return {}
        return {"ssd": self.space()} | ({} if "indices" in given else {"indices": self.architecture()})

    def check_examples(self) -> None:
        """Refuses to go on with the examples of a run that does not say which: a simulated search, or a run that was
        given its task in Python.

        Raises:
            InputError: saying what to name.
        """
        if CLASS_NAMES not in self.params and self.params.get("task") is None:
            dataset = self.params.get("dataset")
            raise InputError(
                f"{self.directory} does not say where its examples are (dataset: {dataset}): name them with "
                f"--dataset_dir, or the task with --task=file.py:name"
            )

    def architecture(self) -> str:
        """Indices of what a search came to, or of what was trained.

        Raises:
            InputError: where the search has not ended.
        """
        if not self.is_search:
            return str(self.params["indices"])
        if not (self.directory / RESULT).is_file():
            raise InputError(
                f"the search in {self.directory} has not ended: start its command again, or name an architecture with "
                f"--indices (tunas analyze {quote(f'--dirname={self.directory}')} prints the most likely one)"
            )
        document = read_result(self.directory)
        if targets := document.get("targets"):
            told = ", ".join(f"{each['target']:g}" for each in targets)
            raise InputError(
                f"the search in {self.directory} found an architecture for each of {len(targets)} targets ({told}): "
                f"name one with --indices (tunas analyze {quote(f'--dirname={self.directory}')} "
                f"--target={targets[0]['target']:g} prints it)"
            )
        return str(document["indices"])


def read_told(directory: str | Path) -> Told:
    """What the run in a directory was told.

    Raises:
        InputError: where the directory holds no run, or one that is damaged.
    """
    directory = Path(directory).expanduser()
    if not (directory / PARAMS).is_file() or not (directory / MODEL_SPEC).is_file():
        raise InputError(f"--from: {directory} holds no run ({PARAMS} or {MODEL_SPEC} is missing)")
    if is_altered(directory):
        raise InputError(f"--from: {directory / PARAMS} or {directory / MODEL_SPEC} is damaged: their checksum is not")
    params = read_params(directory)
    if "ssd" not in params:
        raise InputError(f"--from: {directory / PARAMS} names no search space")
    return Told(directory, params)
