"""What a stand-alone training is told, and what follows from it. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tunas.errors import InputError, check_not_negative, check_positive
from tunas.recipe.defaults import (
    EPOCHS,
    EVAL_EVERY,
    LABEL_SMOOTHING,
    MOMENTUM,
    WEIGHT_DECAY,
    WEIGHT_DECAY_BF16,
    auto_batch_size,
)
from tunas.recipe.schedule import LEARNING_RATE_WARMUP_FRACTION, PEAK_LEARNING_RATE, scaled_learning_rate, steps_of
from tunas.space.catalog import V3_FAMILY
from tunas.task.config import TaskConfig

TEST_EPOCHS = 360
"""Of a training on all training images that is evaluated on the test set (SPEC §4)."""
DROPOUT_FROM_EPOCHS = 150
DROPOUT_RATE = 0.15
V3_DROPOUT_RATE = 0.25
"""Before the classifier, in trainings of at least 150 epochs (SPEC §4)."""


@dataclass(frozen=True)
class TrainConfig(TaskConfig):
    """Train one architecture from scratch and evaluate it; or evaluate a checkpoint."""

    ssd: str = "proxylessnas_mobile"
    """A reference architecture, or with --indices the search space that these belong to (`tunas spaces` lists all)."""

    indices: str = ""
    """Colon-separated indices of an architecture of the search space, as `tunas analyze` prints them."""

    checkpoint_dir: str | None = None
    """Directory of the run. A run that is there already goes on. A new one under runs/ where left out."""

    mode: Literal["train", "eval", "train_and_eval"] = "train_and_eval"
    """What to do."""

    checkpoint: str | None = None
    """Weights to evaluate with --mode=eval: a checkpoint of ours, or a timm checkpoint of the same architecture
    (.safetensors or .pth). The newest in checkpoint_dir where left out."""

    init_from: str | None = None
    """Weights to start from: a training of ours (its directory, or one of its files), a timm checkpoint of the same
    architecture (.safetensors, .pth or .pth.tar), or the directory of a search, whose shared weights the architecture
    inherits. A classifier for other classes is replaced. More epochs of a finished run are a new run with it."""

    follow: bool = False
    """With --mode=eval: wait for each new checkpoint of a running training and score it, until the last."""

    which: Literal["best", "last", "ema"] | None = None
    """Which weights of checkpoint_dir --mode=eval scores: those with the best held-out accuracy (averaged ones where an
    average was kept), the newest, or the newest average. Where left out, the newest average if there is one, otherwise
    the newest."""

    timm_model: str | None = None
    """Name of the timm model that --checkpoint or --init_from comes from, such as tf_mobilenetv3_large_100: decides
    gate, padding and batch norm. Where left out, timm's plain model of the same architecture."""

    use_held_out_test_set: bool = False
    """Train on all training images and evaluate on the test set, instead of holding out a validation part. Use
    sparingly."""

    epochs: float | None = None
    """Passes over the training images. 90 where left out, 360 with --use_held_out_test_set."""

    minutes: float | None = None
    """How long the run may take, in place of epochs. A few steps are timed on this machine first, and the schedule is
    laid out for as many as fit; a run that goes on keeps it."""

    train_batch_size: int | None = None
    """Images per step, over all devices. 4096 where left out, or fewer where the dataset is small."""

    gradient_accumulation: int = 1
    """Parts that a device's share of the batch is computed in, so that it fits into memory. Batch norm sees one part at
    a time."""

    eval_batch_size: int = 256
    """Images per evaluation step and device."""

    eval_every: float | None = None
    """Epochs between two evaluations during the training; the best weights are kept beside the last. 1 where left out;
    with --use_held_out_test_set only the end is evaluated, so that nothing is chosen by the test set."""

    base_learning_rate: float = PEAK_LEARNING_RATE
    """Peak learning rate per 256 images."""

    warmup_steps_fraction: float = LEARNING_RATE_WARMUP_FRACTION
    """Part of the steps over which the learning rate rises."""

    momentum: float = MOMENTUM
    """Momentum of RMSProp."""

    weight_decay: float | None = None
    """L2 on the convolution kernels, not the last layer. 4e-5 where left out, 3e-5 under bf16."""

    label_smoothing: float = LABEL_SMOOTHING
    """Share of the probability spread over all classes in the training labels."""

    filters_multiplier: float = 1.0
    """Scales every absolute width of the network."""

    dropout_rate: float | None = None
    """Before the classifier. Where left out: 0 below 150 epochs, otherwise 0.25 for the V3 family and 0.15 for the
    rest."""

    path_dropout_rate: float = 0.0
    """Chance of dropping each skippable layer for a whole training batch."""

    padding: Literal["symmetric", "same"] = "symmetric"
    """How convolutions pad: symmetric, as PyTorch networks do; same, as TensorFlow and the published runs do (at stride
    2 on even sizes nothing at the top and left)."""

    ema_decay: float | None = None
    """Also keep an exponential moving average of the weights with this decay (such as 0.9999) and evaluate that."""

    ema_warmup: bool = True
    """Let the average follow faster at the beginning: its decay rises with the steps, as 1 - (1 + step)^(-2/3), up to
    ema_decay."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast."""

    compile: bool = False
    """Compile the network with torch.compile."""

    cost_model: str | None = None
    """Cost to report with the result. pixel1 where the space has its tables, otherwise none."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. Under torchrun each process takes its own."""

    seed: int = 0
    """Of everything random in the run."""

    log_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Trackers that are given the same scalars as the event files; may be given several times. Each follows its own
    environment variables."""

    log_every: int | None = None
    """Steps between two entries in the event files. 100 where left out, less in short runs."""

    checkpoint_every: int | None = None
    """Steps between two checkpoints. A tenth of the run or 1000 where left out, whichever is less."""


@dataclass(frozen=True)
class TrainPlan:
    """Everything that decides what a training computes, with no default left open; rates are for this batch."""

    train_split: str
    eval_split: str
    epochs: float
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    dropout_rate: float
    log_every: int
    checkpoint_every: int
    eval_steps: float | None

    def params(self, config: TrainConfig, **facts: Any) -> dict[str, Any]:
        """What `params.json` says."""
        return {**dataclasses.asdict(config), **dataclasses.asdict(self), **facts}


def splits(config: TrainConfig) -> tuple[str, str]:
    """(what to train on, what to evaluate on)."""
    return ("full_train", "test") if config.use_held_out_test_set else ("train", "valid")


def plan_training(config: TrainConfig, train_size: int) -> TrainPlan:
    """What follows from the configuration for `train_size` training images.

    Raises:
        InputError: where a value is out of range or values do not fit each other.
    """
    for name in (
        "epochs",
        "train_batch_size",
        "gradient_accumulation",
        "eval_batch_size",
        "eval_every",
        "base_learning_rate",
        "filters_multiplier",
        "log_every",
        "checkpoint_every",
    ):
        check_positive(name, getattr(config, name))
    check_not_negative("weight_decay", config.weight_decay)
    for name in ("momentum", "label_smoothing", "dropout_rate", "path_dropout_rate", "ema_decay"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {value}")
    train_split, eval_split = splits(config)
    epochs = config.epochs or (TEST_EPOCHS if config.use_held_out_test_set else EPOCHS)
    batch = config.train_batch_size or auto_batch_size(train_size)
    steps = int(train_size * epochs // batch)
    if steps < 1:
        raise InputError(
            f"{epochs} epochs of {train_size} images are less than one batch of {batch}; use more epochs or "
            f"smaller batches"
        )
    dropout = config.dropout_rate
    if dropout is None:
        dropout = 0.0 if epochs < DROPOUT_FROM_EPOCHS else V3_DROPOUT_RATE if config.ssd in V3_FAMILY else DROPOUT_RATE
    decay = config.weight_decay
    eval_every = config.eval_every or (None if config.use_held_out_test_set else EVAL_EVERY)
    return TrainPlan(
        train_split=train_split,
        eval_split=eval_split,
        epochs=epochs,
        steps=steps,
        batch=batch,
        learning_rate=scaled_learning_rate(config.base_learning_rate, batch),
        warmup_steps=steps_of(config.warmup_steps_fraction, steps),
        weight_decay=decay if decay is not None else WEIGHT_DECAY_BF16 if config.precision == "bf16" else WEIGHT_DECAY,
        dropout_rate=dropout,
        log_every=config.log_every or max(1, min(100, steps // 200)),
        checkpoint_every=config.checkpoint_every or max(1, min(1000, steps // 10)),
        eval_steps=None if eval_every is None else eval_every * train_size / batch,
    )
