"""What a page is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A Plotly figure.

    Args:
        title: above it; equal titles of several runs are shown side by side where `comparable`.
        data: traces, as Plotly's JSON has them.
        x, y: names of the axes.
        height: pixels.
        comparable: whether the curves of several runs may share a picture.
        layout: what else Plotly's layout holds.
    """

    title: str
    data: list[dict[str, Any]]
    x: str = "step"
    y: str = ""
    height: int = 300
    comparable: bool = False
    layout: dict[str, Any] = field(default_factory=dict)

    def with_data(self, data: list[dict[str, Any]]) -> Figure:
        """The same figure of other traces."""
        return dataclasses.replace(self, data=data)

    @property
    def json(self) -> dict[str, Any]:
        """What Plotly draws, as JSON values."""
        axes = {"xaxis": {"title": {"text": self.x}}, "yaxis": {"title": {"text": self.y}}}
        return {"data": self.data, "layout": {**axes, "height": self.height, **self.layout}}


@dataclass(frozen=True)
class Layer:
    """A layer in the drawing of an architecture.

    Args:
        text: what it is.
        kernel: pixels a side; 0 where it has none.
        width: channels that it hands on, relative to the widest layer of the network.
        share: part of the network's cost; None where the cost model does not tell.
        squeezes: whether it squeezes and excites.
        is_skipped: whether it is left out.
    """

    text: str
    kernel: int
    width: float
    share: float | None
    squeezes: bool
    is_skipped: bool


@dataclass(frozen=True)
class Section:
    """A part of the page about one run.

    Args:
        title: above it.
        note: a sentence below the title.
        figures: Plotly figures.
        header, rows: of a table.
        layers: drawing of an architecture.
        command: to copy.
        is_folded: whether only the title is shown until it is clicked at.
        numbers: what the section shows, for the file beside the page.
    """

    title: str
    note: str = ""
    figures: Sequence[Figure] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    layers: Sequence[Layer] = ()
    command: str = ""
    is_folded: bool = False
    numbers: Any = None
