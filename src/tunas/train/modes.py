"""Which flags of `tunas train` mean something in which mode."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunas.errors import InputError
from tunas.flags import flags, given, refuse, refuse_in_mode
from tunas.recipe.config import RecipeConfig
from tunas.recipe.optimizer import check_optimizer
from tunas.run.directory import PARAMS, read_params
from tunas.train.config import TrainConfig

TRAINING = frozenset({"train", "train_and_eval"})
EVALUATION = frozenset({"eval"})
SCORING = frozenset({"eval", "train_and_eval"})
_OF_A_TRAINING = """
    epochs minutes train_batch_size gradient_accumulation base_learning_rate warmup_steps_fraction momentum weight_decay
    bn_momentum label_smoothing dropout_rate path_dropout_rate path_dropout_by_depth plain_fraction ema_decay ema_warmup
    layer_decay head_epochs compile seed log_every checkpoint_every train_cache_size init_from
"""
MEANT_FOR = {
    **dict.fromkeys(_OF_A_TRAINING.split(), TRAINING),
    **dict.fromkeys((field.name for field in dataclasses.fields(RecipeConfig)), TRAINING),
    **dict.fromkeys(("checkpoint", "which", "follow"), EVALUATION),
    "eval_every": frozenset({"train_and_eval"}),
    "eval_batch_size": SCORING,
}
"""Flag -> the modes in which it means something. Flags that are not named do in every mode."""


def check_flags(config: TrainConfig, directory: Path) -> None:
    """Refuses what means nothing in this mode.

    An evaluation of the run in `directory` may repeat what that run was told: the command that trained it, with
    --mode=eval.

    Raises:
        InputError: naming the flags.
    """
    if config.mode in TRAINING:
        hint = "; it names the weights that --mode=eval scores" if config.checkpoint is not None else ""
        refuse_in_mode(config, MEANT_FOR, config.mode, f"with --mode={config.mode}{hint}")
        if config.init_from is None:
            where = f"with --mode={config.mode} and without --init_from, which names the weights"
            refuse(config, ["timm_model", "head_epochs"], where)
        elif not (Path(config.init_from).expanduser().exists() or (directory / PARAMS).is_file()):
            raise InputError(f"--init_from: there is no {config.init_from}")
        check_optimizer(config.optimizer)
        return
    if config.checkpoint is not None:
        refuse(config, ["which", "follow"], "with --checkpoint, which names the weights")
    elif config.init_from is None:
        refuse(config, ["timm_model"], "without --checkpoint, which names the weights")
    if config.checkpoint is None and not (directory / PARAMS).is_file():
        return  # there are no weights, or with --follow none yet
    dead = {name: value for name, value in given(config).items() if "eval" not in MEANT_FOR.get(name, SCORING)}
    told = read_params(directory) if config.checkpoint is None else {}
    if wrong := [name for name, value in dead.items() if name not in told or told[name] != value]:
        run = f", and {directory} was not trained with that" if told else ""
        raise InputError(f"{flags(wrong)} only matters in a training, not with --mode=eval{run}; leave it out")
