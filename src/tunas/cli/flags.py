"""A command's flags from its configuration: in groups, the ones that people set first apart from the rest; and
`--from RUN`, which lets a run say what the command line does not."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from tunas.errors import InputError
from tunas.flags import as_tuple
from tunas.words import is_required, read_quietly, wrong_words

GROUPS: dict[str, str] = {
    "main": """from_run ssd indices space architecture epochs minutes mode checkpoint_dir checkpoint init_from dirname
        min_cost max_cost num_samples count output_format out samples study random repeats searches
        ablation search train workers engine examples model num_architectures plan runtime""",
    "data": """dataset_dir data_format image_size valid_filenames valid_fraction test_fraction use_held_out_test_set
        cache_dir train_cache_size on_bad_image allow_empty_classes num_workers num_classes task""",
    "cost and target": """cost_model rl_cost_model_target rl_cost_model_tolerance rl_cost_model_exponent
        choose_from rl_reward_function constraint enable_cost_model at_most verify num_cost_samples
        latency tolerance""",
    "views of training images": """augment hflip crop_scale crop_ratio shift rotate shear elastic randaugment
        random_erasing mixup cutmix""",
    "recipe and teacher": """recipe optimizer scheduler clip_grad layer_decay head_epochs bn_momentum ema_decay
        teacher teacher_checkpoint teacher_temperature teacher_weight logits_dir views""",
    "run": "device precision seed log_every checkpoint_every keep_checkpoints rematerialize",
}
"""Title -> its flags. A flag of no group is shown under `schedule and more`."""
OTHERS = "schedule and more"
MARKERS = (tyro.conf.UseAppendAction, tyro.conf.OmitArgPrefixes)
"""How tyro reads flags: repeated for several values, and called as they are in their group."""
METAVARS = {
    "int | None": "INT",
    "float | None": "FLOAT",
    "str | None": "TEXT",
    "<class 'str'>": "TEXT",
    "tuple[str, ...]": "TEXT",
}
"""Type -> what the help shows in place of a value."""
FIRST = """from_run ssd indices checkpoint_dir dataset_dir image_size cost_model rl_cost_model_target
    rl_cost_model_tolerance epochs device min_cost max_cost dirname mode checkpoint samples out"""
"""Flags that `--help` shows; `--help-all` shows every one. So does the help of a command of few flags."""
FIRST_OF = {
    "teach": "teacher logits_dir",
    "measure": "num_architectures",
    "export": "runtime",
    "design": "latency minutes plan random",
    "quickstart": "latency minutes plan random",
    "study": "random searches train",
}
"""Further ones of a command."""
FEW = 12
"""Flags of a command whose help always shows all."""
FROM = "from_run"
"""The field for `--from`, which is no name that a field can have."""
FROM_HELP = """Directory of a run to go on from: what is left out here is as that run was told. The space and the
    architecture, the data, image size and classes, padding and cost model."""
OfRun = Callable[[Any, Mapping[str, str]], dict[str, Any]]
"""(a run, the flags that are given with their texts) -> what a command takes from the run."""


def parsed(config_type: type, words: Sequence[str], prog: str, of_run: OfRun | None = None) -> Any:
    """The configuration that the words of a command line say.

    Args:
        config_type: a frozen dataclass; fields are flags, their docstrings the help.
        words: flags and their values.
        prog: the command, such as `tunas search`.
        of_run: what is taken from the run that `--from` names; None for a command without that flag.

    Raises:
        SystemExit: after the help (0).
        InputError: where words are wrong, `--from` names no run, or values do not fit each other.
    """
    everything = "--help-all" in words
    names = [field.name for field in dataclasses.fields(config_type)]
    wants_help = everything or "--help" in words or "-h" in words
    shown = names
    description = " ".join((config_type.__doc__ or "").split())
    if wants_help and not everything and len(names) > FEW:
        first = [*FIRST.split(), *FIRST_OF.get(prog.split()[-1], "").split()]
        shown = [field.name for field in dataclasses.fields(config_type) if field.name in first or is_required(field)]
        description += f" ({len(shown)} of {len(names)} flags are shown; {prog} --help-all shows all.)"
    of_that_run = {} if wants_help or of_run is None else told(words, of_run)
    kind = grouped(config_type, shown, of_that_run, takes_run=of_run is not None, whole=everything or not wants_help)
    how: dict[str, Any] = {"prog": prog, "description": on_lines(description), "config": MARKERS}
    values: Any = tyro.cli(kind, args=["--help"], **how) if wants_help else read_quietly(kind, words, **how)
    if values is None:
        wrong = wrong_words(kind, words, field_texts(config_type), config=MARKERS)
        if wrong is None:
            tyro.cli(kind, args=words, **how)  # says it in its own words, and leaves
        raise InputError(f"{wrong}; `{prog} --help-all` explains every flag")
    parts = [getattr(values, field.name) for field in dataclasses.fields(values)]
    return config_type(**{name: value for part in parts for name, value in vars(part).items() if name != FROM})


def on_lines(text: str) -> str:
    """`text` on lines that the terminal shows whole. tyro keeps a line break where a space comes next."""
    return textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent=" ", break_on_hyphens=False)


def told(words: Sequence[str], of_run: OfRun) -> dict[str, Any]:
    """What the run says that the words name with `--from`; nothing where they name none.

    Raises:
        InputError: where it is no run, or one that the command cannot go on from.
    """
    given = {}
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            name, equals, text = word.removeprefix("--").partition("=")
            given[name.replace("-", "_")] = text if equals else following
    if not given.get("from"):
        return {}
    from tunas.run.told import read_told

    return of_run(read_told(given["from"]), given)


def grouped(
    config_type: type,
    names: Sequence[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    takes_run: bool,
    whole: bool = True,
) -> type:
    """A dataclass of dataclasses, one for each group, that hold the fields of `config_type`.

    Args:
        config_type: a frozen dataclass.
        names: of the fields to take; all where left out.
        defaults: of some fields, in place of their own.
        takes_run: whether there is `--from` as well.
        whole: whether the help of a flag is its whole text, or the first sentence.
    """
    defaults = defaults or {}
    hints = typing.get_type_hints(config_type, include_extras=True)
    texts = field_texts(config_type)
    groups: dict[str, list[Any]] = {title: [] for title in (*GROUPS, OTHERS)}
    if takes_run:
        text = " ".join(FROM_HELP.split())
        arg = tyro.conf.arg(name="from", help=_help(text, whole), help_behavior_hint="", metavar="RUN")
        groups["main"].append((FROM, Annotated[str | None, arg], dataclasses.field(default=None, kw_only=True)))
    for field in dataclasses.fields(config_type):
        if names is None or field.name in names:
            text = _help(texts.get(field.name, ""), whole)
            groups[_group_of(field.name)].append(_flag(field, hints[field.name], text, defaults))
    parts = [
        (title.replace(" ", "_"), dataclasses.make_dataclass(title, fields))
        for title, fields in groups.items()
        if fields
    ]
    return dataclasses.make_dataclass(config_type.__name__, parts)


def _flag(
    field: dataclasses.Field, hint: Any, text: str, defaults: Mapping[str, Any]
) -> tuple[str, Any, dataclasses.Field]:
    """A field as `make_dataclass` takes it and as tyro shows it: (name, type with the help, field with the default)."""
    repeatable = _repeatable(hint)
    kind = repeatable or hint
    says_itself = field.default in (None, "", ()) or "Positional" in str(kind)
    plain = METAVARS.get(str(kind)) or _positional_name(field, str(kind))  # instead of {None}|INT
    arg = tyro.conf.arg(help=text, help_behavior_hint="" if says_itself else None, metavar=plain)
    default: dict[str, Any] = {"default": field.default, "default_factory": field.default_factory}
    if field.name in defaults:
        default = {"default": defaults[field.name]}
    if repeatable is not None:
        default = {"default": as_tuple(default["default"])}
    return field.name, Annotated[kind, arg], dataclasses.field(kw_only=True, **default)


def _positional_name(field: dataclasses.Field, kind: str) -> str | None:
    """What stands for a positional argument, such as `[NAME]` or `IMAGES …`; None for a choice, and for a flag."""
    if "Positional" not in kind or "Literal" in kind:
        return None
    name = field.name.upper() + (" …" if "..." in kind else "")
    return name if is_required(field) else f"[{name}]"


def _help(text: str, whole: bool) -> str:
    """The text, or its first sentence."""
    return text if whole else text.partition(". ")[0].removesuffix(".") + "."


def _repeatable(hint: Any) -> Any:
    """`tuple[X, ...]` for a field of type `X | tuple[X, ...] | None`, whose flag may be repeated; None for others."""
    members = typing.get_args(hint)
    found = [each for each in members if typing.get_origin(each) is tuple and typing.get_args(each)[-1] is Ellipsis]
    return found[0] if found and types.NoneType in members else None


def field_texts(config_type: type) -> dict[str, str]:
    """The docstring below each field, its line breaks undone so that the terminal decides where lines end."""
    texts: dict[str, str] = {}
    for owner in reversed(config_type.__mro__):
        if dataclasses.is_dataclass(owner):
            texts |= _own_field_texts(owner)
    return texts


@functools.cache
def _own_field_texts(owner: type) -> dict[str, str]:
    """The same of the fields that a class itself declares."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts


def _group_of(name: str) -> str:
    return next((title for title, flags in GROUPS.items() if name in flags.split()), OTHERS)
