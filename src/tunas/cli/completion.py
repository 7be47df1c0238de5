"""`tunas completion`: what a shell needs to complete commands and flags."""

from __future__ import annotations

import contextlib
import functools
import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script that completes commands and flags: `source <(tunas completion bash)`."""

    shell: Annotated[Literal["bash", "zsh", "tcsh"], tyro.conf.Positional] = "bash"
    """Which shell's."""


def run(config: CompletionConfig) -> None:
    from tunas.cli import COMMANDS, imported
    from tunas.cli.flags import MARKERS, grouped
    from tunas.needs import need_packages

    if config.shell == "tcsh":  # tyro itself knows the two others
        need_packages("completion for tcsh", "shtab", install="shtab")
    commands: list[Any] = [
        Annotated[
            grouped(imported(command.config), takes_run=command.of_run is not None),
            tyro.conf.subcommand(name, description=command.summary, prefix_name=False),
        ]
        for name, command in COMMANDS.items()
    ]
    either = functools.reduce(operator.or_, commands)
    with contextlib.suppress(SystemExit):  # tyro prints, and leaves
        tyro.cli(either, prog="tunas", args=["--tyro-print-completion", config.shell], config=MARKERS)
