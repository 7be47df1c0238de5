"""The command line: `tunas <command>` and `python -m tunas <command>`. Only parses and calls."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command: where its configuration and its function are, imported only when it is used."""

    summary: str
    config: str
    run: str


COMMANDS = {
    "search": Command("search an architecture that lands on the wanted cost", "tunas.search.config:SearchConfig", "tunas.cli.search:run"),
    "analyze": Command("the architecture, its cost and the step of one or many searches", "tunas.cli.analyze:AnalyzeConfig", "tunas.cli.analyze:run"),
    "train": Command("train one architecture from scratch, and evaluate it", "tunas.train.config:TrainConfig", "tunas.cli.train:run"),
    "sample": Command("random architectures within a range of costs", "tunas.cli.sample:SampleConfig", "tunas.cli.sample:run"),
    "cost": Command("what an architecture costs", "tunas.cli.cost:CostConfig", "tunas.cli.cost:run"),
    "spaces": Command("list search spaces, or print one or one of its architectures", "tunas.cli.spaces:SpacesConfig", "tunas.cli.spaces:run"),
    "measure": Command("time architectures on a device", "tunas.cost.measure:MeasureConfig", "tunas.cli.measure:run"),
    "fit": Command("fit a cost model to measured times", "tunas.cost.fit:FitConfig", "tunas.cli.fit:run"),
    "quickstart": Command("the whole way on the embedded digits: search, train, compare with random", "tunas.study.quickstart:QuickstartConfig", "tunas.cli.quickstart:run"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code: 0, 1 where a loss diverged, 2 for bad input, 128 + signal where stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version", "version"):
        import tunas

        print(f"tunas {tunas.__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COMMANDS)}"
        return _fail(f"unknown command {name!r}; {hint}", 2)
    return _run(name, rest)


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: tunas COMMAND [FLAGS]", "", "TuNAS for PyTorch: neural architecture search that lands on the latency you asked for.", "",
         "commands:", *lines, "", "`tunas COMMAND --help` lists the command's flags; - and _ in them are the same."]
    )  # fmt: skip


def _run(name: str, words: list[str]) -> int:
    import tyro

    from tunas.errors import DivergedError, InputError

    command = COMMANDS[name]
    config_type = _imported(command.config)
    try:
        config = tyro.cli(config_type, args=_with_plain_booleans(config_type, words), prog=f"tunas {name}", description=config_type.__doc__)
    except SystemExit as exit:  # tyro has said what is wrong, or printed the help
        return exit.code if isinstance(exit.code, int) else 2
    try:
        return _imported(command.run)(config) or 0
    except InputError as error:
        return _fail(str(error), 2)
    except DivergedError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        from tunas.run.session import Stopped  # imports torch, which whoever raised it has done already

        if isinstance(error, Stopped):
            return _fail(str(error), error.code)
        raise


def _fail(sentence: str, code: int) -> int:
    print(f"tunas: {sentence}", file=sys.stderr)
    return code


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _with_plain_booleans(config_type: Any, words: list[str]) -> list[str]:
    """`--flag=false` and `--noflag`, as the original takes them, become `--no-flag`; `--flag=true` becomes `--flag`."""
    booleans = {field.name for field in dataclasses.fields(config_type) if field.type in (bool, "bool")}
    changed = []
    for word in words:
        flag, _, value = word.removeprefix("--").partition("=")
        flag = flag.replace("-", "_")
        if word.startswith("--") and flag in booleans and value.lower() in ("true", "1", "false", "0"):
            word = f"--{flag}" if value.lower() in ("true", "1") else f"--no-{flag}"
        elif word.startswith("--no") and flag.removeprefix("no") in booleans and not value:
            word = f"--no-{flag.removeprefix('no')}"
        changed.append(word)
    return changed
