"""What a page says about a run: sections of curves, tables and drawings, and the numbers behind them."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunas.cost.model import FORMAT, CostModel, with_unit
from tunas.errors import InputError
from tunas.report.analyze import cost_model_of, space_of
from tunas.report.command import command_of
from tunas.report.frontier import SearchTarget, frontier, search_targets
from tunas.report.ranking import rank_sections
from tunas.report.section import Figure, Layer, Section
from tunas.report.states import PATH_LOGITS
from tunas.run.directory import PARAMS, RESULT, read_json_object, read_params
from tunas.run.events import read_events
from tunas.search.places import SCALARS
from tunas.space import Architecture, Space, Tower, get_space
from tunas.space.describe import HEADER, tower_rows

EVERY = "every network"
"""What the part of a cost is called that no choice changes."""
HEAT_MAP_STEPS = 120
"""Columns of the heat map at most: more are thinned out."""


def is_run(path: Path) -> bool:
    """Whether the directory is that of a search or a training."""
    return (path / PARAMS).is_file()


def run_sections(directory: Path) -> list[Section]:
    """The sections about a search or a training.

    Raises:
        InputError: where what is in the directory cannot be read.
    """
    params = read_params(directory)
    scalars, warnings = read_events(directory)
    found = _search_sections if "rl_reward_function" in params else _training_sections
    notes = [Section("Damaged files", note="; ".join(warnings), numbers=warnings)] if warnings else []
    return [*notes, *found(directory, params, scalars), _parameters(params), _command(params)]


def _search_sections(
    directory: Path, params: dict[str, Any], scalars: Mapping[int, Mapping[str, float]]
) -> list[Section]:
    """The sections about a search, but for its parameters."""
    space = space_of(directory, params)
    targets = search_targets(directory, params)
    rows = _result_rows(directory)
    sections: list[Section] = []
    if len(targets) == 1:
        rows = [*targets[0].rows(), *rows]
    else:
        sections = [frontier(targets)]
    curves = [
        _curve(scalars, "Quality of the sampled architectures", _of_each(targets, "validation_accuracy"), "held-out"),
        _curve(scalars, "Reward", _of_each(targets, "reward"), "reward"),
        _cost_curve(scalars, targets),
        _curve(scalars, "Entropy of the controller", _of_each(targets, "entropy"), "nats"),
        _curve(scalars, "Training loss", {"": "model/empirical_loss"}, "cross-entropy"),
    ]
    sections = [
        Section("Result", header=("", ""), rows=rows, numbers=dict(rows)),
        *sections,
        Section(
            "The search",
            figures=[figure for figure in curves if figure is not None],
            numbers={str(step): _curves_only(values) for step, values in sorted(scalars.items())},
        ),
        *rank_sections(directory),
    ]
    for target in targets:
        found = target.finding
        own = [_heat_map(space, params, scalars, found.place)]
        own += _architecture_sections(found.architecture, target.params)
        after = f" ({target.name})" if target.name else ""
        sections += [dataclasses.replace(section, title=section.title + after) for section in own]
    return sections


def _of_each(targets: Sequence[SearchTarget], name: str) -> dict[str, str]:
    """Name of the curve -> its tag, for each target."""
    return {target.name: f"{SCALARS}{target.finding.place}{name}" for target in targets}


def _training_sections(
    directory: Path, params: dict[str, Any], scalars: Mapping[int, Mapping[str, float]]
) -> list[Section]:
    """The sections about a training, but for its parameters."""
    tags = sorted({tag for values in scalars.values() for tag in values})
    evaluated = [tag for tag in tags if tag.startswith("eval")]
    curves = [
        _curve(scalars, "Training loss", {"": "model/loss"}, "cross-entropy and L2"),
        _curve(scalars, "Learning rate", {"": "model/learning_rate"}, ""),
        *(_curve(scalars, tag, {"": tag}, "", mode="lines+markers") for tag in evaluated),
    ]
    rows = _result_rows(directory)
    sections = [
        Section("Result", header=("", ""), rows=rows, numbers=dict(rows)),
        Section(
            "The training",
            figures=[figure for figure in curves if figure is not None],
            numbers={str(step): dict(values) for step, values in sorted(scalars.items())},
        ),
    ]
    indices = params.get("indices", "")
    if isinstance(indices, str):
        space = space_of(directory, params)
        sections += _architecture_sections(
            Architecture(space, ()) if not space.num_choices else space.architecture(indices), params
        )
    return sections


def _result_rows(directory: Path) -> list[tuple[str, str]]:
    """Names and values of what the run came to."""
    if not (directory / RESULT).is_file():
        return [("state", "not finished")]
    return [
        (name.replace("_", " "), f"{value:.5g}" if isinstance(value, float) else str(value))
        for name, value in read_json_object(directory / RESULT).items()
        if isinstance(value, int | float | str) and name not in ("ssd", "cost", "target", "unit", "checksum")
    ]


def _curve(
    scalars: Mapping[int, Mapping[str, float]], title: str, tags: Mapping[str, str], y: str, mode: str = "lines"
) -> Figure | None:
    """The course of each of the tags, by the name of its curve; None where there is nothing to show."""
    traces = []
    for name, tag in tags.items():
        points = [(step, values[tag]) for step, values in sorted(scalars.items()) if tag in values]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        if points:
            steps, values = zip(*points, strict=True)
            named = {"name": name} if name else {}
            traces.append({"x": steps, "y": values, "mode": mode, "type": "scatter", **named})
    return Figure(title, traces, y=y, comparable=True) if traces else None


def _cost_curve(scalars: Mapping[int, Mapping[str, float]], targets: Sequence[SearchTarget]) -> Figure | None:
    """The cost of the sampled architectures, with a line at each target."""
    units = {target.finding.unit for target in targets}
    unit = units.pop() if len(units) == 1 else "cost"
    figure = _curve(scalars, "Cost of the sampled architectures", _of_each(targets, "estimated_cost"), unit)
    aimed = [target.aim for target in targets if target.aim is not None]
    if figure is None or not aimed:
        return figure
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"dash": "dash", "width": 1, "color": "gray"}}
    beside = {"x": 1, "xref": "paper", "showarrow": False, "yanchor": "bottom"}
    lines = [{**across, "y0": target, "y1": target} for target in aimed]
    words = [{**beside, "y": target, "text": f"target {target:g}"} for target in aimed]
    return dataclasses.replace(figure, layout={"shapes": lines, "annotations": words})


def _curves_only(values: Mapping[str, float]) -> dict[str, float]:
    """The scalars of a step without the logits."""
    return {tag: value for tag, value in values.items() if not tag.startswith(("rlpathlogits/", "rltaglogits/"))}


def _heat_map(space: Space, params: dict[str, Any], scalars: Mapping[int, Mapping[str, float]], place: str) -> Section:
    """The probability of every choice of every OneOf over the search, from the stem down."""
    points = [point for point in space.points if point.size > 1]
    start = f"{PATH_LOGITS}{place}"
    first = f"{start}{points[0].path}/0"
    steps = [step for step in sorted(scalars) if first in scalars[step]]
    steps = steps[:: max(1, -(-len(steps) // HEAT_MAP_STEPS))] if len(steps) > HEAT_MAP_STEPS else steps
    temperature = float(params.get("rl_temperature") or 1.0)
    names, values, last = [], [], {}
    for point in points:
        tags = [f"{start}{point.path}/{choice}" for choice in range(point.size)]
        logits = np.array([[scalars[step].get(tag, math.nan) for step in steps] for tag in tags]) / temperature
        odds = np.exp(logits - logits.max(axis=0, keepdims=True))
        probabilities = odds / odds.sum(axis=0, keepdims=True)
        names += [f"{point.path}: {_short(choice)}" for choice in point.oneof.choices]
        values += [[round(float(value), 4) for value in row] for row in probabilities]
        last[point.path] = [round(float(value), 4) for value in probabilities[:, -1]]
    trace = {
        "type": "heatmap", "x": steps, "y": names, "z": values, "zmin": 0, "zmax": 1, "colorscale": "Viridis",
        "hovertemplate": "%{y}<br>step %{x}: %{z:.3f}<extra></extra>", "colorbar": {"title": {"text": "probability"}},
    }  # fmt: skip
    layout = {"yaxis": {"autorange": "reversed", "showticklabels": False, "title": {"text": "from stem to head"}}}
    figure = Figure("", [trace], height=min(1600, 120 + 5 * len(names)), layout=layout)
    return Section(
        "What the controller learned",
        note="The probability of every choice, in the order of the network; a bright line is a decision made.",
        figures=[figure],
        numbers=last,
    )


def _short(choice: Any) -> str:
    text = str(choice)
    return text if len(text) <= 60 else text[:57] + "…"


def _architecture_sections(architecture: Architecture, params: dict[str, Any]) -> list[Section]:
    """The drawing of an architecture, and its cost by layer."""
    if not isinstance(architecture.space.structure, Tower):
        lines = [(line,) for line in str(architecture).splitlines()[1:]]
        return [Section("The architecture", header=("structure",), rows=lines, numbers=architecture.text)]
    rows = tower_rows(architecture.tower)
    shares, unit, total = _cost_by_layer(architecture, params)
    layers = _drawing(rows, shares, total) if rows else []
    drawing = Section(
        "The architecture",
        note="Bars show how wide a layer is; their colour the kernel; the number on the right its share of the cost.",
        layers=layers,
        numbers=[dict(zip(HEADER, row, strict=True)) for row in rows],
    )
    if not shares:
        return [drawing] if rows else []
    names = list(shares)
    bars = {"type": "bar", "orientation": "h", "x": [shares[name] for name in names], "y": names}
    where = Figure(
        "",
        [bars],
        x=unit,
        y="",
        height=120 + 18 * len(names),
        layout={"yaxis": {"autorange": "reversed", "automargin": True}},
    )
    sections = [drawing] if rows else []
    return [*sections, Section(f"Where the {with_unit(total, unit)} go", figures=[where], numbers=shares)]


def _cost_by_layer(architecture: Architecture, params: dict[str, Any]) -> tuple[dict[str, float], str, float]:
    """(cost of every layer by its path, unit, total); none where the cost is no sum of layers.

    Published and fitted tables are relative to each other: a layer counts by how far it is above its cheapest choice,
    and the sum of the cheapest is what every network costs.
    """
    try:
        model = cost_model_of(architecture.space, params)
    except InputError:
        return {}, "", 0.0
    if not isinstance(model, CostModel):
        return {}, "", 0.0
    costs = {EVERY: model.bias}
    for term in model.terms:
        cheapest = float(term.values.min())
        picked = float(term.values[tuple(architecture.indices[position] for position in term.positions)])
        name = "/".join(term.path.split("/")[:4]) or "layers"
        costs[EVERY] += cheapest
        costs[name] = costs.get(name, 0.0) + picked - cheapest
    return costs, model.unit, sum(costs.values())


def _drawing(rows: Sequence[Sequence[str]], shares: dict[str, float], total: float) -> list[Layer]:
    """The layers of `tower_rows`, each with its part of the total cost."""
    widest = max(int(row[-1]) for row in rows)
    layers = []
    for block, layer, operation, kernel, stride, expansion, se, width in rows:
        if operation == "DetectionEndpoint":
            continue
        share = shares.get(f"blocks/{block}/layers/{layer}")
        parts = [
            operation,
            kernel,
            f"stride {stride}" if stride not in ("", "1") else "",
            expansion,
            "se" if se else "",
            width,
        ]
        layers.append(
            Layer(
                " ".join(part for part in parts if part),
                int(kernel.partition("×")[0] or 0),
                int(width) / widest,
                None if share is None or not total else share / total,
                bool(se),
                operation == "skip",
            )
        )
    return layers


def _parameters(params: dict[str, Any]) -> Section:
    rows = [(name, json.dumps(value)) for name, value in sorted(params.items()) if not isinstance(value, dict | list)]
    return Section("Parameters", header=("flag", "value"), rows=rows, numbers=params, is_folded=True)


def _command(params: dict[str, Any]) -> Section:
    return Section("The same again", command=shlex.join(command_of(params)), numbers=command_of(params))


def is_fit(path: Path) -> bool:
    """Whether the file is a cost model."""
    try:
        return path.suffix == ".json" and read_json_object(path).get("format") == FORMAT
    except InputError:
        return False


def fit_sections(path: Path) -> list[Section]:
    """The sections about a fitted cost model.

    Raises:
        InputError: where it cannot be read.
    """
    document = read_json_object(path)
    model = CostModel.load(path, get_space(str(document.get("ssd"))))
    facts = [("space", model.space.name), ("device", model.device), ("unit", model.unit)]
    facts += [
        (name.replace("_", " "), f"{value:.5g}" if isinstance(value, float) else str(value))
        for name, value in model.provenance.items()
        if isinstance(value, int | float | str)
    ]
    sections = [Section("Cost model", header=("", ""), rows=facts, numbers=dict(facts))]
    held_out = model.provenance.get("held_out")
    if isinstance(held_out, dict) and held_out.get("measured") and held_out.get("predicted"):
        sections.append(_predicted_against_measured(held_out["measured"], held_out["predicted"], model.unit))
    return sections


def _predicted_against_measured(measured: list[float], predicted: list[float], unit: str) -> Section:
    """The held-out predictions of a fitted cost model in a picture."""
    low, high = min(*measured, *predicted), max(*measured, *predicted)
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "name": "equal", "line": {"width": 1}},
        {"type": "scatter", "mode": "markers", "x": measured, "y": predicted, "name": "held-out architectures"},
    ]
    figure = Figure("", traces, x=f"measured, {unit}", y=f"predicted, {unit}", height=420)
    return Section(
        "Predicted against measured", figures=[figure], numbers={"measured": measured, "predicted": predicted}
    )
