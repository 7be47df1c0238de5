"""The parts of a design, in their order. Each leaves what it made under its own name in the directory."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.cost.fit import fit
from tunas.cost.measure import measure
from tunas.design.config import NOISY
from tunas.design.estimate import networks_measured
from tunas.design.file_time import FileTime, file_time
from tunas.design.way import EXPORTS, SAMPLES, SEARCH, TRAININGS, Target, Way
from tunas.errors import InputError
from tunas.export.directory import ABOUT, FAILED
from tunas.export.export import export
from tunas.files import write_text, writing_to
from tunas.run.directory import RESULT, quality_in, read_json_object, read_result
from tunas.search.places import places
from tunas.space import Architecture
from tunas.study.finalists import best_of, finalists
from tunas.study.jobs import Job, is_done, run_jobs
from tunas.study.sample import ALIKE, random_alike

TIME = "time.json"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Part:
    """A part of a design.

    Args:
        name: of the part.
        what: it does, for people.
        is_done: whether it is finished.
        run: begins it, or goes on with it.
        check: refuses what the next parts could not go on with; called whether it has run now or before.
    """

    name: str
    what: str
    is_done: Callable[[], bool]
    run: Callable[[], None]
    check: Callable[[], None] = _nothing


def parts_of(way: Way) -> list[Part]:
    """What is to be done, in this order."""
    sizes, targets = way.sizes, way.targets
    found = []
    if way.measures:
        networks = f"{way.measure_config().num_architectures} networks on {way.runtime.name}"
        wanted = way.measure_config().num_architectures
        found.append(Part("measure", networks, lambda: networks_measured(way) >= wanted, lambda: _measure(way)))
        found.append(
            Part("fit", "a cost model", Path(way.cost_model_name).is_file, lambda: _fit(way), lambda: _fitted(way))
        )
    text = f"for {len(targets)} targets at once, " if len(targets) > 1 else ""
    found.append(
        Part(
            "search",
            f"{text}{_epochs(sizes.search_epochs)}",
            lambda: is_done(way.search_directory),
            lambda: _search(way),
        )
    )
    if sizes.candidates > 1:
        many = f"{len(targets) * sizes.candidates} candidates, {_epochs(sizes.candidate_epochs)} each"
        found.append(Part("candidates", many, lambda: _are_done(way, _candidate_names(way)), lambda: _candidates(way)))
    found.append(
        Part(
            "train",
            _trainings_in_words(way),
            lambda: _are_done(way, _training_names(way)),
            lambda: _train(way),
        )
    )
    if way.exports:
        found.append(
            Part(
                "export",
                f"for {way.runtime.name}, and checked there",
                lambda: all(_exported(way, target) is not None for target in targets),
                lambda: _export(way),
            )
        )
        found.append(
            Part(
                "time",
                "the exported file, one image",
                lambda: all((way.out / EXPORTS / target.name / TIME).is_file() for target in targets),
                lambda: _time(way),
            )
        )
    return found


def _epochs(count: float) -> str:
    return f"{count:.3g} epoch{'s' if count != 1 else ''}"


def _measure(way: Way) -> None:
    rows = measure(way.measure_config())
    print(f"{len(rows)} networks in {way.out / SAMPLES}")


def _fit(way: Way) -> None:
    _, report = fit(way.fit_config())
    print(report)


def _fitted(way: Way) -> None:
    """Refuses a device whose times were not understood, and latencies that it does not reach."""
    error = float(way.cost_model().provenance.get("held_out_mean_relative_error", 0.0))
    if error > NOISY:
        sentence = (
            f"{way.runtime.name} is too noisy to search for: the cost model is {error:.1%} off on average on networks "
            f"that it was not fitted to, more than {NOISY:.0%}"
        )
        if not way.config.force:
            raise InputError(
                f"{sentence}; remove {way.out / SAMPLES} and {way.cost_model_name} and measure again with nothing else "
                f"running (or with --measure clock=processor), or go on all the same with --force"
            )
        print(f"warning: {sentence}; going on, as --force says", file=sys.stderr)
    way.check_reachable()


def _search(way: Way) -> None:
    _run_jobs(way, [Job(SEARCH, way.search_config())], way.out, "searches")


def _run_jobs(way: Way, jobs: list[Job], where: Path, label: str) -> None:
    run_jobs(jobs, where, workers=way.config.workers, engine=way.config.engine, label=label, task=way.given)


def _found(way: Way, target: Target) -> dict[str, Any]:
    """What the search's `result.json` says of a target."""
    document = read_result(way.search_directory)
    several: list[dict[str, Any]] = document.get("targets", [document])
    return several[way.targets.index(target)]


def aimed_at(way: Way, target: Target) -> float:
    """The cost that the search of a target aimed for."""
    return float(_found(way, target)["target"])


def searched(way: Way, target: Target) -> Architecture:
    """What the search of a target found."""
    return way.space.architecture(str(_found(way, target)["indices"]))


def candidates_of(way: Way, target: Target) -> list[Architecture]:
    """The architectures that are trained briefly."""
    return finalists(
        way.search_directory,
        way.space,
        way.cost_model(),
        _found(way, target),
        tolerance=way.config.tolerance,
        count=way.sizes.candidates,
        seed=way.config.seed,
        place=places(len(way.targets))[way.targets.index(target)],
    )


def _candidate_names(way: Way) -> list[str]:
    if not is_done(way.search_directory):
        return []
    return [
        f"{target.name}-candidate-{number}"
        for target in way.targets
        for number in range(len(candidates_of(way, target)))
    ]


def _are_done(way: Way, names: list[str]) -> bool:
    return bool(names) and all(is_done(way.out / TRAININGS / name) for name in names)


def _candidates(way: Way) -> None:
    """Trains the candidates of every target briefly."""
    jobs = []
    for target in way.targets:
        found = candidates_of(way, target)
        if len(found) < way.sizes.candidates:
            print(
                f"{target.name}: the search's distribution holds {len(found)} networks within the tolerance, not "
                f"{way.sizes.candidates}",
                file=sys.stderr,
            )
        jobs += [
            Job(f"{target.name}-candidate-{number}", way.train_config(architecture, briefly=True))
            for number, architecture in enumerate(found)
        ]
    _run_jobs(way, jobs, way.out / TRAININGS, "candidates")
    for target in way.targets:
        rows = _candidate_rows(way, target)
        print(f"{target.name}: " + ", ".join(f"{quality:.4f}" for _, quality in rows) + f"; {best_of(rows)} goes on")


def _candidate_rows(way: Way, target: Target) -> list[tuple[str, float]]:
    """(indices, held-out quality) of a target's candidates, the likeliest first."""
    rows = []
    for number in range(len(candidates_of(way, target))):
        document = read_json_object(way.out / TRAININGS / f"{target.name}-candidate-{number}" / RESULT)
        rows.append((str(document["indices"]), quality_in(document)))
    return rows


def winner(way: Way, target: Target) -> Architecture:
    """What is trained and shipped for a target."""
    if way.sizes.candidates == 1:
        return searched(way, target)
    rows = _candidate_rows(way, target)
    return way.space.architecture(rows[best_of(rows)][0])


def training_name(target: Target, seed: int, random: int | None = None) -> str:
    """What the directory of a training is called; that of the one that ships has the target's name."""
    parts = [target.name, *([] if random is None else [f"random-{random}"]), *([f"seed-{seed}"] if seed else [])]
    return "-".join(parts)


def _training_names(way: Way) -> list[str]:
    return [
        training_name(target, seed, random)
        for target in way.targets
        for random in (None, *range(way.sizes.random))
        for seed in range(way.sizes.seeds)
    ]


def _trainings_in_words(way: Way) -> str:
    count = len(way.targets)
    words = "the winner" if count == 1 else f"{count} winners"
    if way.sizes.random:
        words += f" and {count * way.sizes.random} random architectures"
    words += f", {way.sizes.seeds} seeds" if way.sizes.seeds > 1 else ""
    each = " each" if len(_training_names(way)) > 1 else ""
    return f"{words}, {_epochs(way.sizes.train_epochs)}{each}"


def _train(way: Way) -> None:
    """Trains the winners, and what they are compared with; what ships comes first."""
    first, others = [], []
    for target in way.targets:
        best = winner(way, target)
        first.append(Job(training_name(target, 0), way.train_config(best)))
        entries: list[tuple[int | None, Architecture]] = [(None, best)]
        if way.sizes.random:
            entries += list(enumerate(drawn(way, aimed_at(way, target))))
        others += [
            Job(training_name(target, seed, number), way.train_config(architecture, seed))
            for number, architecture in entries
            for seed in range(way.sizes.seeds)
            if not (number is None and seed == 0)
        ]
    _run_jobs(way, [*first, *others], way.out / TRAININGS, "trainings")
    for target in way.targets:
        _check_same_architecture(way, target)


def drawn(way: Way, cost: float) -> list[Architecture]:
    """The random architectures that are compared with a winner of that cost.

    Raises:
        InputError: where there are none.
    """
    asked = (way.cost_model_name, cost, way.sizes.random, way.config.seed)
    if asked not in way.drawn:
        way.drawn[asked] = random_alike(way.space, way.cost_model(), cost, ALIKE, way.sizes.random, way.config.seed)
    return way.drawn[asked]


def _check_same_architecture(way: Way, target: Target) -> None:
    trained = way.out / TRAININGS / target.name
    if read_result(trained)["indices"] != winner(way, target).text:
        raise InputError(f"{trained} holds a training of another architecture than the search found; remove it")


def _exported(way: Way, target: Target) -> Path | None:
    """Where the file of a target lies, if it is there."""
    base = way.out / EXPORTS / target.name / way.runtime.name
    for directory in (base, base.with_name(base.name + FAILED)):
        if (directory / ABOUT).is_file():
            return directory
    return None


def exported(way: Way, target: Target) -> tuple[Path, dict[str, Any]]:
    """(directory, model.json) of a target's file."""
    directory = _exported(way, target)
    assert directory is not None
    return directory, read_json_object(directory / ABOUT)


def _export(way: Way) -> None:
    for target in way.targets:
        if _exported(way, target) is None:
            (one,) = export(way.export_config(target))
            if one.complaint:
                print(f"tunas: {one.runtime}: {one.complaint}; it is kept as {one.directory}", file=sys.stderr)


def _time(way: Way) -> None:
    """Times the file of every target that has not been timed yet."""
    other = way.prices_this_device()
    for target in way.targets:
        path = way.out / EXPORTS / target.name / TIME
        if path.is_file():
            continue
        directory, _ = exported(way, target)
        found = file_time(directory, way.runtime, way.timing_config(), None if other else way.cost_model())
        with writing_to(path.parent):
            write_text(path, json.dumps(dataclasses.asdict(found)) + "\n")


def timed_file(way: Way, target: Target) -> FileTime:
    """How long a target's file takes, once it was timed."""
    return FileTime(**read_json_object(way.out / EXPORTS / target.name / TIME))


def trained_document(way: Way, name: str) -> dict[str, Any]:
    """`result.json` of a training, by the name of its directory."""
    return read_json_object(way.out / TRAININGS / name / RESULT)
