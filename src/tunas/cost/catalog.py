"""Cost models by name: the published tables, what follows from the architecture alone, and files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.cost.model import CostModel, CostTerm
from tunas.errors import InputError
from tunas.named import load_named
from tunas.space import Space, Tower, get_space

if TYPE_CHECKING:
    from tunas.cost.additive import PeakCost
    from tunas.cost.own import FunctionCost

PIXEL1 = "pixel1"
PIXEL1_DEVICE = "Pixel 1 (simulated)"
DEVICE_FREE = ("params", "macs", "peak_memory", "peak_memory-int8", "flash", "flash-int8")
"""Costs that follow from the architecture alone."""
PIXEL1_SIZE, PIXEL1_CLASSES = 224, 1000
"""Image size and classes that the published tables were made at."""
PIXEL1_DIRECTORY = Path(__file__).parent / "pixel1"


def load_cost_model(
    name_or_path: str | os.PathLike[str] | Callable[[np.ndarray], Any],
    space: Space | str,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    example: Any = None,
) -> CostModel | PeakCost | FunctionCost:
    """The cost model for `space`.

    Args:
        name_or_path: `pixel1` for the tables published with the paper; one of `DEVICE_FREE`, which need no device; a
            file that `CostModel.save` (or `tunas fit`) wrote; or a function, itself or as `module:name` or
            `file.py:name`, that takes an int array `[N, num_choices]` and gives N numbers.
        space: whose architectures are priced.
        image_size: pixels a side of the images that are priced. Where left out, 224, or of a file what it was measured
            at.
        num_classes: outputs of the classifier. Where left out, 1,000, or of a file what it was measured with.
        example: of a space of one's own, the inputs of one example (first dimension 1), or a function that returns
            them. Those of the space where left out.

    Raises:
        InputError: where `pixel1` has no tables for the space, or the file does not hold a model for it, or holds one
            that was measured at another image size or with other classes.
    """
    space = get_space(space) if isinstance(space, str) else space
    if callable(name_or_path):
        return _function_cost(space, name_or_path)
    name = os.fspath(name_or_path)
    if name == PIXEL1:
        return _load_pixel1(space)
    if name in DEVICE_FREE:
        if not isinstance(space.structure, Tower):
            from tunas.cost.own import counted_cost, example_of

            return counted_cost(name, space, example_of(space, example, image_size))
        from tunas.cost.additive import named_cost  # imports torch

        return named_cost(name, space, image_size or PIXEL1_SIZE, num_classes or PIXEL1_CLASSES)
    if ":" in name and not Path(name).is_file():
        return _function_cost(space, load_named(name, "cost model"), name)
    if not Path(name).is_file():
        raise InputError(
            f"there is no cost model {name!r}: give {', '.join((PIXEL1, *DEVICE_FREE))}, "
            "or the path of a JSON file, such as `tunas fit` writes"
        )
    model = CostModel.load(name, space)
    check_conditions(model, name, image_size, num_classes)
    return model


def check_conditions(model: CostModel | PeakCost, path: str, image_size: int | None, num_classes: int | None) -> None:
    """Refuses a model of one image size or number of classes for networks of another one.

    Args:
        image_size, num_classes: of the networks; None is not compared. Nor is what the model does not say.

    Raises:
        InputError: naming both.
    """
    for name, what, here in (
        ("image_size", "pixels a side (--image_size)", image_size),
        ("num_classes", "classes", num_classes),
    ):
        measured = model.provenance.get(name)
        if here is not None and measured is not None and measured != here:
            raise InputError(
                f"{path} was measured with {measured} {what}, and these networks have {here}; measure and fit a "
                f"cost model for {here} (tunas measure {quote(f'--ssd={model.space.name}')} --{name}={here} --out=…), "
                f"or use {measured}"
            )


def conditions_note(model: Any, image_size: int | None) -> str | None:
    """One line that says at which size the published milliseconds hold, where the networks have another one."""
    if getattr(model, "device", "") != PIXEL1_DEVICE or image_size in (None, PIXEL1_SIZE):
        return None
    return (
        f"the milliseconds of the Pixel-1 tables are those of {PIXEL1_SIZE} px, not of {image_size} px: a scale to "
        f"compare architectures on"
    )


def _function_cost(space: Space, function: Any, name: str = "") -> FunctionCost:
    from tunas.cost.own import FunctionCost  # imports torch

    if not callable(function):
        raise InputError(f"cannot use the cost model {name!r}: it is no function but {type(function).__name__}")
    return FunctionCost(space, function, name)


def has_pixel1(space: Space) -> bool:
    """Whether the Pixel-1 tables are packaged for the space."""
    return (PIXEL1_DIRECTORY / f"{space.name}.npz").is_file() and space.default_target is not None


def _load_pixel1(space: Space) -> CostModel:
    """The packaged tables of a space."""
    path = PIXEL1_DIRECTORY / f"{space.name}.npz"
    packaged = sorted(file.stem for file in PIXEL1_DIRECTORY.glob("*.npz"))
    if space.name not in packaged:
        raise InputError(
            f"there are no Pixel-1 tables for {space.name}; they exist for {', '.join(packaged)}. "
            "For another space, measure architectures with `tunas measure` and fit a cost model to them with "
            "`tunas fit`"
        )
    with np.load(path, allow_pickle=False) as file:
        packed = {name: file[name] for name in file.files}
    if packed["sizes"].tolist() != list(space.sizes):
        raise InputError(
            f"the Pixel-1 tables for {space.name} are for the packaged space of that name, which this one is not"
        )
    terms = []
    axis = entry = 0
    for rank, where in zip(packed["ranks"].tolist(), packed["paths"].tolist(), strict=True):
        positions = tuple(packed["positions"][axis : axis + rank].tolist())
        shape = tuple(space.sizes[position] for position in positions)
        values = packed["values"][entry : entry + math.prod(shape)].reshape(shape)
        terms.append(CostTerm(positions, values, where))
        axis, entry = axis + rank, entry + values.size
    source = {"source": "Bender, Liu et al. 2020, published with TuNAS; see tunas/cost/pixel1/README.md"}
    return CostModel(space, float(packed["bias"]), terms, unit="ms", device=PIXEL1_DEVICE, provenance=source)
