"""Choices inside plain structures, and the walk that numbers them.

A search space is an ordinary structure of frozen dataclasses and tuples in which any value may be a `OneOf`.
An architecture is one index per `OneOf`, in post-order: the OneOfs inside a choice come before the OneOf that
holds them, and all choices are walked, chosen or not (docs/algorithm.md#indices).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

OP = "op_indices"
"""Tag of a choice between operations (layers, kernel sizes, squeeze-and-excite or not)."""
FILTERS = "filters_indices"
"""Tag of a choice between widths (block filters, expansions)."""
TAGS = (OP, FILTERS)

ALL = -1
"""In place of an index of an `OP` choice: every choice at once (op warmup)."""


@dataclass(frozen=True)
class OneOf:
    """One value out of `choices`.

    Args:
        choices: the alternatives; each may itself hold further OneOfs.
        tag: `OP` or `FILTERS`; says which warmup applies and under which name the logits are logged.
        position: place in the walk of a space, filled in by `numbered`; never given by hand.
    """

    choices: tuple[Any, ...]
    tag: str
    position: int | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise ValueError("a OneOf needs at least one choice")
        if self.tag not in TAGS:
            raise ValueError(f"a OneOf's tag is {OP!r} or {FILTERS!r}, not {self.tag!r}")


def fields_of(node: Any) -> Iterator[tuple[str, Any]]:
    """(path component, value) of every part of `node` that may hold a choice, in index order."""
    if isinstance(node, OneOf):
        for index, choice in enumerate(node.choices):
            yield f"choices/{index}", choice
    elif isinstance(node, (tuple, list)):
        for index, item in enumerate(node):
            yield str(index), item
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield field.metadata.get("path", field.name), getattr(node, field.name)


def rebuild(node: Any, transform: Callable[[Any], Any]) -> Any:
    """`node` with `transform` applied to each of its direct parts; `node` itself where nothing changed."""
    if isinstance(node, OneOf):
        return OneOf(tuple(transform(choice) for choice in node.choices), node.tag, node.position)
    if isinstance(node, (tuple, list)):
        return tuple(transform(item) for item in node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        changed = {name: new for name, old in values.items() if (new := transform(old)) is not old}
        return dataclasses.replace(node, **changed) if changed else node
    return node


def numbered(structure: Any) -> Any:
    """`structure` in which every OneOf knows its position in the walk."""
    count = 0

    def visit(node: Any) -> Any:
        nonlocal count
        node = rebuild(node, visit)
        if isinstance(node, OneOf):
            node = dataclasses.replace(node, position=count)
            count += 1
        return node

    return visit(structure)


@dataclass(frozen=True)
class ChoicePoint:
    """A OneOf at its place in a space.

    Args:
        path: where it stands, e.g. `blocks/2/layers/0/choices/0/kernel_size`.
        oneof: the choices.
        parent: position of the nearest OneOf around it, or None.
        parent_choice: the index that `parent` must take for this one to matter (0 where there is no parent).
    """

    path: str
    oneof: OneOf
    parent: int | None
    parent_choice: int

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self.oneof.choices)


def choice_points(structure: Any) -> tuple[ChoicePoint, ...]:
    """Every OneOf of a numbered structure, in index order."""
    found: list[ChoicePoint] = []

    def visit(node: Any, path: str, parent: int | None, parent_choice: int) -> None:
        inside = isinstance(node, OneOf)
        for index, (name, part) in enumerate(fields_of(node)):
            here = f"{path}/{name}" if path else name
            visit(part, here, node.position if inside else parent, index if inside else parent_choice)
        if inside:
            found.append(ChoicePoint(path, node, parent, parent_choice))

    visit(structure, "", None, 0)
    return tuple(found)


def chosen(value: Any, indices: Any) -> Any:
    """`value`, or where it is a numbered OneOf, the choice that `indices` takes of it (one level deep)."""
    return value.choices[indices[value.position]] if isinstance(value, OneOf) else value


def resolved(structure: Any, indices: Any) -> Any:
    """A numbered `structure` with every OneOf replaced by the choice that `indices` takes."""
    while isinstance(structure, OneOf):
        structure = structure.choices[indices[structure.position]]
    return rebuild(structure, lambda part: resolved(part, indices))
