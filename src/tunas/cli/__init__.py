"""The command line: `tunas <command>` and `python -m tunas <command>`. Only parses and calls."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command: what it does, where its configuration is (imported only when it is used), and with `--from` what it
    takes from the run: a function of a `tunas.run.told.Told` and of the flags that are given."""

    summary: str
    config: str
    of_run: str | None = None


COMMANDS = {
    "search": Command("search an architecture that lands on the wanted cost", "tunas.search.config:SearchConfig"),
    "analyze": Command(
        "the architecture, its cost and the step of one or many searches", "tunas.cli.analyze:AnalyzeConfig"
    ),
    "train": Command(
        "train one architecture from scratch, and evaluate it",
        "tunas.train.config:TrainConfig",
        "tunas.train.config:of_run",
    ),
    "teach": Command("write a teacher's logits of a dataset, once", "tunas.recipe.config:TeachConfig"),
    "sample": Command("random architectures within a range of costs", "tunas.cli.sample:SampleConfig"),
    "cost": Command("what an architecture costs", "tunas.cli.cost:CostConfig"),
    "spaces": Command("list search spaces, or print one or one of its architectures", "tunas.cli.spaces:SpacesConfig"),
    "measure": Command(
        "time architectures on a device", "tunas.cost.measure_config:MeasureConfig", "tunas.cost.measure_config:of_run"
    ),
    "fit": Command("fit a cost model to measured times", "tunas.cost.fit:FitConfig"),
    "export": Command(
        "turn a trained network into the files that a device runs",
        "tunas.export.config:ExportConfig",
        "tunas.export.config:of_run",
    ),
    "predict": Command("the class of images, by a training or an export", "tunas.export.predict_config:PredictConfig"),
    "design": Command("from a dataset and a device to a checked file", "tunas.design.config:DesignConfig"),
    "quickstart": Command("a design on the embedded digits, in minutes", "tunas.cli.quickstart:QuickstartConfig"),
    "study": Command("searched against random architectures, all trained alike", "tunas.study.config:StudyConfig"),
    "rank": Command(
        "is the ranking by shared weights real: against stand-alone trainings", "tunas.cli.rank:RankConfig"
    ),
    "report": Command("one HTML page about searches, trainings and cost models", "tunas.cli.report:ReportConfig"),
    "released": Command(
        "read the released files of random and searched architectures", "tunas.cli.released:ReleasedConfig"
    ),
    "completion": Command("what a shell needs to complete all this", "tunas.cli.completion:CompletionConfig"),
}
"""Each is run by the function `run` of `tunas.cli.<name>`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: its words, of which the first is its name; those of this process where left out.

    Returns:
        The exit code: 0; 1 where a loss diverged; 2 for bad input; 3 where the result is not as asked for (a firm
        tolerance missed, a run that could only be read in part); 75 where starting again may help (a storage that does
        not answer, a process that the system ended); 128 + signal where stopped.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "--help-all", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version", "version"):
        import tunas

        print(f"tunas {tunas.__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        from tunas.errors import nearest

        return _fail(f"unknown command {name!r}; {nearest(name, COMMANDS, 1)}", 2)
    return _run(name, rest)


def usage() -> str:
    """What `tunas --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tunas COMMAND [FLAGS]",
            "",
            "TuNAS for PyTorch: neural architecture search that lands on the latency you asked for.",
            "",
            "commands:",
            *lines,
            "",
            "`tunas COMMAND --help` explains the flags that people set first, `--help-all` all of them;",
            "in their names - and _ are the same. `tunas --version` says which version this is.",
        ]
    )


def _run(name: str, words: list[str]) -> int:
    """Reads the words of a command and carries it out; the exit code."""
    from tunas.cli.flags import parsed
    from tunas.errors import DivergedError, InputError, TemporaryError

    command = COMMANDS[name]
    config_type = imported(command.config)
    try:
        words = plain_words(config_type, words)
        config = parsed(config_type, words, f"tunas {name}", imported(command.of_run) if command.of_run else None)
    except SystemExit as exit:  # tyro has said what is wrong, or printed the help
        return exit.code if isinstance(exit.code, int) else 2
    except InputError as error:  # values that a configuration refuses
        return _fail(str(error), 2)
    except BrokenPipeError:
        return _closed_pipe()
    try:
        return imported(f"tunas.cli.{name}:run")(config) or 0
    except (InputError, DivergedError) as error:
        return _fail("" if error.told else str(error), 2 if isinstance(error, InputError) else 1)
    except TemporaryError as error:
        return _fail("" if error.told else str(error), os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return _closed_pipe()
    except Exception as error:
        from tunas.run.session import Stopped  # imports torch, which whoever raised it has done already

        if isinstance(error, Stopped):
            return _fail(str(error), error.code)
        raise


def _closed_pipe() -> int:
    """Whoever read our output has gone (`tunas … | head`): nothing more to say."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it on leaving)
    return 128 + getattr(signal, "SIGPIPE", 13)  # which Windows has not


def _fail(sentence: str, code: int) -> int:
    """Says what went wrong, if anything is to be said; the exit code."""
    if sentence:
        print(f"tunas: {sentence}", file=sys.stderr)
    return code


def imported(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def plain_words(config_type: Any, words: list[str]) -> list[str]:
    """The words as tyro takes them: `--flag=false` and `--noflag`, as the original has them, become `--no-flag`, and
    `--flag=true` becomes `--flag`; `--list a b` becomes `--list a --list b`."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(config_type)}
    booleans = {name for name, kind in fields.items() if kind in (bool.__name__, str(bool))}
    lists = {name for name, kind in fields.items() if kind.startswith("tuple[") and kind.endswith(", ...]")}
    changed: list[str] = []
    of_list = ""  # the list flag whose values may follow
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        flag = flag.replace("-", "_")
        if not word.startswith("-"):
            if of_list and changed[-1] != of_list:
                changed.append(of_list)
        elif word.startswith("--") and flag in booleans and value.lower() in ("true", "1", "false", "0"):
            word = f"--{flag}" if value.lower() in ("true", "1") else f"--no-{flag}"
        elif word.startswith("--no") and flag.removeprefix("no") in booleans and not value:
            word = f"--no-{flag.removeprefix('no')}"
        if word.startswith("-"):
            of_list = f"--{flag}" if flag in lists else ""
            if of_list and not equals:
                word = of_list
        changed.append(word)
    return changed
