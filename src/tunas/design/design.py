"""The whole way, part after part: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tunas.cost.fit import fewest_samples
from tunas.design import parts
from tunas.design.budget import seconds_of, within
from tunas.design.config import DesignConfig
from tunas.design.estimate import Estimate, checkpoints, estimates, search_steps
from tunas.design.outcome import Outcome, outcome_of, report
from tunas.design.parts import Part, parts_of
from tunas.design.pretrained import initial_weights
from tunas.design.record import RECORD, Record, check_out, read_record, settings_of, task_identity
from tunas.design.sizes import (
    BRIEFLY,
    Sizes,
    chosen_side,
    in_words,
    networks_to_measure,
    own_side,
    search_epochs,
    train_epochs,
)
from tunas.design.table import show
from tunas.design.timed import Timed, timed
from tunas.design.way import CACHE, Way, runtime_of
from tunas.errors import InputError
from tunas.export.config import ExportConfig
from tunas.export.export import exportable
from tunas.files import make_directory
from tunas.recipe.mirror import MirrorProbe, probed
from tunas.run.job import keep_between_steps
from tunas.run.lock import locked
from tunas.search.config import SearchConfig
from tunas.search.plan import plan_search
from tunas.space import Space, Tower, get_space
from tunas.study.flags import with_flags
from tunas.study.jobs import check_engine
from tunas.study.processes import start_importing
from tunas.task import Task
from tunas.task.opening import open_task
from tunas.train.config import TrainConfig
from tunas.train.plan import plan_training, splits, training_recipe

SPARE = 1.2
"""Times the estimate of what is written that has to be free on the disk."""


def design(config: DesignConfig, task: Task | None = None) -> Outcome | None:
    """Goes the whole way from a dataset and a device to a checked file, or on with it, and prints what came of it.

    Args:
        config: what the design is told.
        task: what is learned; where left out, what `config` says.

    Returns:
        What came of it; None where only the plan was asked for.

    Raises:
        InputError: where something cannot be carried out; before anything is done where that can be known then.
        DivergedError: where a training failed again and again.
        Stopped: where SIGTERM or SIGINT asked for it; the same command goes on.
    """
    keep_between_steps()  # before the first network runs here, or searches and trainings of this process do without
    check_engine(config.workers, config.engine)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a design starts its own processes: give --workers or --engine=ray, without torchrun")
    if task is not None and (config.workers > 1 or config.engine != "local"):
        raise InputError("other processes take a task by its name: give task='file.py:name' with workers or ray")
    out = Path(config.out).expanduser()
    check_out(out)
    began = time.monotonic()
    with locked(out):
        with _made_for_nothing(out / CACHE):
            way, record = _opened(config, out, task, began)
        todo = [*parts_of(way), Part("report", "one page", lambda: False, lambda: report(way, _seconds(record)))]
        _print_plan(way, record, todo)
        if config.plan:
            return None
        make_directory(out)
        record.save(out)
        for part in todo:
            _carry_out(part, record, out, todo)
        found = outcome_of(way, _seconds(record))
    show(found)
    return found


@contextlib.contextmanager
def _made_for_nothing(cache: Path) -> Iterator[None]:
    """Removes decoded images where a design is refused that made them."""
    was_there = cache.exists()
    try:
        yield
    except InputError:
        if not was_there:
            shutil.rmtree(cache, ignore_errors=True)
        raise


def _seconds(record: Record) -> float:
    return sum(record.took.values())


def _opened(config: DesignConfig, out: Path, given: Task | None, began: float) -> tuple[Way, Record]:
    """The way and its record: as they were begun, or newly planned."""
    space = get_space(config.ssd)
    if not space.num_choices:
        raise InputError(f"{config.ssd} is one fixed architecture, there is nothing to search")
    runtime = runtime_of(config)
    if config.workers > 1 and not (out / RECORD).is_file():
        start_importing()  # by the time that trainings are timed side by side it is done
    opened = open_task(dataclasses.replace(config, cache_dir=config.cache_dir or _cache(config, out)), None, task=given)
    _give_example(space, opened)
    record = read_record(out, config, opened)
    sizes = record.sizes if record else _sizes(config, space, opened)
    if opened.data is not None and opened.data.image_size != sizes.image_size:
        resized = dataclasses.replace(
            config, image_size=sizes.image_size, cache_dir=config.cache_dir or _cache(config, out)
        )
        opened = open_task(resized, None, task=given)
    exports = opened.data is not None
    way = Way(config, out, space, opened, given, runtime, exports, sizes)
    if exports:
        exportable(runtime.name, ExportConfig(out="", checkpoint_dir=""))
    _check_flags(way)
    if record is None:
        way, record = _planned(way, began)
    elif (sizes.random, sizes.seeds) != (config.random, config.seeds) and "random" not in sizes.reasons:
        sizes = dataclasses.replace(sizes, random=config.random, seeds=config.seeds)
        way = dataclasses.replace(way, sizes=sizes)
        record.sizes = sizes
    return way, record


def _give_example(space: Space, task: Task) -> None:
    """Lets a model of one's own that names no example of its inputs be measured with the task's."""
    if isinstance(space.structure, Tower) or space.example is not None:
        return
    example = task.cost_arguments.get("example")
    if example is not None:
        space.example = example if callable(example) else lambda: example


def _cache(config: DesignConfig, out: Path) -> str | None:
    """Where decoded images are kept for all parts; nowhere in the directory for a plan, which leaves nothing."""
    return None if config.dataset_dir is None or config.plan else str(out / CACHE)


def _sizes(config: DesignConfig, space: Space, task: Task) -> Sizes:
    """What fits the data, and what the user asked for."""
    size = task.size("train")
    digits = task.name == "digits"
    reasons: dict[str, str] = {}
    image_size = None
    if task.data is not None:
        image_size, reasons["image_size"] = (
            (task.data.image_size, "the embedded digits" if digits and config.image_size is None else "as asked for")
            if digits or config.image_size is not None
            else chosen_side(size, own_side(task.data))
        )
    data = dataclasses.replace(config, image_size=None) if task.data is None else config
    searching = with_flags(SearchConfig, "search", config.search, data)
    training = with_flags(TrainConfig, "train", config.train, data)
    init_from, why = initial_weights(config.init_from, space, task)
    if why:
        reasons["init_from"] = why
    searched_for, reasons["search_epochs"] = search_epochs(searching, size, digits=digits)
    trained_for, reasons["train_epochs"] = train_epochs(training, transfers=init_from is not None, digits=digits)
    networks = 0
    if config.cost_model is None:
        networks, reasons["networks"] = networks_to_measure(config.measure)
    hflip, why = _mirroring(training, task, image_size)
    if why:
        reasons["hflip"] = why
    tests = "test" in task.splits if task.data is None else "test" in task.data.splits
    reasons["tests"] = (
        "it is there; what ships learns from all other examples" if tests else "the dataset has no test set"
    )
    return Sizes(
        image_size=image_size,
        networks=networks,
        search_epochs=searched_for,
        candidate_epochs=max(1.0, BRIEFLY * trained_for),
        train_epochs=trained_for,
        candidates=config.candidates,
        random=config.random,
        seeds=config.seeds,
        init_from=init_from,
        hflip=hflip,
        checkpoints={},
        tests=tests,
        reasons=reasons,
    )


def _mirroring(config: TrainConfig, task: Task, image_size: int | None) -> tuple[float | None, str]:
    """(chance that training images are mirrored, why), asked once for all trainings; (None, "") where none is asked."""
    probes: list[MirrorProbe] = []

    def mirrors() -> tuple[bool, str]:
        probes.append(probed(task.data))
        return probes[0].mirrors, probes[0].sentence

    if task.data is None:
        return None, ""
    recipe = training_recipe(config, task.size("train"), image_size, mirrors)
    if not probes or recipe.augmentation is None:
        return None, ""
    return recipe.augmentation.hflip, probes[0].sentence


def _check_flags(way: Way) -> None:
    """Refuses, before anything is timed, what a part would refuse later."""
    size = way.task.size("train")
    if way.measures:
        needed = fewest_samples(way.space, **_conditions(way), folds=way.fit_config().folds)
        asked = way.measure_config().num_architectures
        if asked < needed:
            raise InputError(
                f"--measure num_architectures={asked} are too few to fit {way.space.name}: {needed} are the least"
            )
    else:
        way.check_reachable()
    plan_search(way.search_config(), size, digits=way.is_digits, on_cuda=False)
    training = way.train_config(way.space.architecture(":".join("0" * way.space.num_choices)))
    plan_training(training, way.task.size(splits(training)[0]))
    if way.sizes.random and not way.measures:
        for target in way.targets:
            if target.cost is not None:
                parts.drawn(way, target.cost)


def _conditions(way: Way) -> dict[str, int | None]:
    return {name: way.task.cost_arguments.get(name) for name in ("image_size", "num_classes")}


def _planned(way: Way, began: float) -> tuple[Way, Record]:
    """The plan of a new design: what the parts will take, and within the minutes that there are."""
    print("timing some networks and steps for the plan", file=sys.stderr, flush=True)
    found = timed(way)
    sizes = way.sizes
    if way.config.minutes is not None:
        least = fewest_samples(way.space, **_conditions(way), folds=way.fit_config().folds) if way.measures else 0
        left = 60 * way.config.minutes - (time.monotonic() - began)
        sizes = within(
            way.config.minutes,
            left,
            sizes,
            lambda tried: _estimated(way, tried, found),
            lambda tried: search_steps(tried, found),
            least,
        )
    way = dataclasses.replace(way, sizes=dataclasses.replace(sizes, checkpoints=checkpoints(way, sizes, found)))
    estimated = _estimated(way, sizes, found)
    _check_disk(way.out, sum(each.bytes for each in estimated.values()))
    identity = task_identity(way.task)
    return way, Record(settings_of(way.config), identity, way.sizes, estimated)


def _estimated(way: Way, sizes: Sizes, found: Timed) -> dict[str, Estimate]:
    return estimates(dataclasses.replace(way, sizes=sizes), sizes, found)


def _check_disk(out: Path, needed: float) -> None:
    """Refuses a design for which there is no room.

    Raises:
        InputError: with what is needed and what is free.
    """
    above = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(above).free
    if free < SPARE * needed:
        raise InputError(
            f"the disk of {out} has {_bytes(free)} free, and the design writes about {_bytes(needed)}; make room, or "
            f"name another --out"
        )


def _print_plan(way: Way, record: Record, todo: list[Part]) -> None:
    """Prints what was chosen and why, and what each part will take."""
    from rich.console import Console
    from rich.table import Table

    classes = f" of {way.task.data.num_classes} classes" if way.task.data is not None else ""
    print(
        f"{way.space.name} for {way.task.name} ({way.task.size('train'):,} training {way.task.unit}{classes})", end=""
    )
    print(f", {', '.join(target.name for target in way.targets)}, in {way.out}")
    for line in in_words(way.sizes):
        print(f"  {line}")
    table = Table("part", "what")
    for column in ("time", "disk"):
        table.add_column(column, justify="right")
    for part in todo:
        estimate = record.estimates.get(part.name)
        is_done = part.is_done()
        cells = ("done", "") if is_done else _cells(estimate)
        table.add_row(part.name, part.what, *cells)
    left = [record.estimates[part.name] for part in todo if part.name in record.estimates and not part.is_done()]
    table.add_section()
    seconds, size = sum(each.seconds for each in left), sum(each.bytes for each in left)
    at_once = f", {way.config.workers} trainings at a time" if way.config.workers > 1 else ""
    table.add_row("together", f"about{at_once}", _time(seconds), _bytes(size))
    Console(soft_wrap=True).print(table)


def _cells(estimate: Estimate | None) -> tuple[str, str]:
    return ("", "") if estimate is None else (_time(estimate.seconds), _bytes(estimate.bytes))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _carry_out(part: Part, record: Record, out: Path, todo: list[Part]) -> None:
    """Runs a part unless it is finished, and notes how long it took."""
    number = todo.index(part) + 1
    if part.is_done():
        print(f"{part.name} ({number} of {len(todo)}): done already", file=sys.stderr, flush=True)
    else:
        left = [record.estimates[each.name] for each in todo[number - 1 :] if each.name in record.estimates]
        about = seconds_of({str(place): each for place, each in enumerate(left)})
        print(
            f"{part.name} ({number} of {len(todo)}): {part.what}; about {_time(about)} left",
            file=sys.stderr,
            flush=True,
        )
        with _noted(part, record, out):
            part.run()
    part.check()


@contextlib.contextmanager
def _noted(part: Part, record: Record, out: Path) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        record.took[part.name] = record.took.get(part.name, 0.0) + time.monotonic() - began
        record.save(out)
