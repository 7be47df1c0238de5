"""What a stand-alone training is told. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunas.recipe.choose import VIEW_FLAGS
from tunas.recipe.config import RecipeConfig
from tunas.task.config import LABEL_SMOOTHING, TaskConfig

if TYPE_CHECKING:
    from tunas.run.told import Told


@dataclass(frozen=True)
class TrainConfig(TaskConfig, RecipeConfig):
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
    """Train on all training examples and evaluate on the test set, instead of holding out a validation part. Use
    sparingly."""

    epochs: float | None = None
    """Passes over the training examples. 90 where left out, 360 with --use_held_out_test_set."""

    minutes: float | None = None
    """How long the run may take, in place of epochs. A few steps are timed on this machine first, and the schedule is
    laid out for as many as fit; a run that goes on keeps it."""

    train_batch_size: int | None = None
    """Examples per step, over all devices. Where left out: with the published recipe, and from 100,000 examples on,
    4096, or as many as leave 16 steps per epoch; otherwise 256, or as many as leave 128 steps per epoch; 64 at least.
    """

    gradient_accumulation: int = 1
    """Parts that a device's share of the batch is computed in, so that it fits into memory. Batch norm sees one part at
    a time."""

    eval_batch_size: int = 256
    """Examples per evaluation step and device."""

    eval_every: float | None = None
    """Epochs between two evaluations during the training; the best weights are kept beside the last. 1 where left out;
    with --use_held_out_test_set only the end is evaluated, so that nothing is chosen by the test set."""

    base_learning_rate: float | None = None
    """Peak learning rate per 256 examples. The recipe's where left out (published: 0.165)."""

    warmup_steps_fraction: float | None = None
    """Part of the steps over which the learning rate rises. The recipe's where left out (published: 0.025)."""

    momentum: float | None = None
    """Momentum of the optimiser. The recipe's where left out (published: 0.9)."""

    weight_decay: float | None = None
    """L2 on the convolution kernels, not the last layer. The recipe's where left out (published: 4e-5, 3e-5 under
    bf16)."""

    bn_momentum: float | None = None
    """What a batch's statistics count in the running ones of batch norm. Where left out: the published 0.01, and more
    in runs of fewer than 1,000 steps, so that the running ones have forgotten their start by the end."""

    label_smoothing: float = LABEL_SMOOTHING
    """Share of the probability spread over all classes in the training labels."""

    filters_multiplier: float = 1.0
    """Scales every absolute width of the network."""

    dropout_rate: float | None = None
    """Before the classifier. Where left out: 0 below 150 epochs, otherwise 0.25 for the V3 family and 0.15 for the
    rest."""

    path_dropout_rate: float | None = None
    """Chance of dropping each skippable layer for a whole training batch. The recipe's where left out (published:
    0)."""

    padding: Literal["symmetric", "same"] = "symmetric"
    """How convolutions pad: symmetric, as PyTorch networks do; same, as TensorFlow and the published runs do (at stride
    2 on even sizes nothing at the top and left)."""

    path_dropout_by_depth: bool | None = None
    """Let the chance of dropping a layer grow from layer to layer, so that only the last one has it in full. The
    recipe's where left out (published: no)."""

    plain_fraction: float | None = None
    """Part of the epochs at whose end training images are plain: neither mixed, nor turned, slanted, stretched, blanked
    or changed by RandAugment, such as 0.2. The recipe's where left out (published: 0)."""

    ema_decay: float | None = None
    """Also keep an exponential moving average of the weights with this decay (such as 0.9999) and evaluate that; 0 for
    none. The recipe's where left out (published: none)."""

    ema_warmup: bool = True
    """Let the average follow faster at the beginning: its decay rises with the steps, as 1 - (1 + step)^(-2/3), up to
    ema_decay."""

    layer_decay: float = 1.0
    """How much slower each block learns than the one behind it, such as 0.8 for weights of --init_from; 1 for one rate.
    """

    head_epochs: float = 0.0
    """Epochs at the beginning in which the classifier learns alone, for weights of --init_from."""

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


def of_run(told: Told, given: Mapping[str, str]) -> dict[str, Any]:
    """What a training takes from another run: architecture, examples and what they look like, padding, cost model."""
    if "dataset_dir" not in given and "task" not in given:
        told.check_examples()
    names = [field.name for field in dataclasses.fields(TaskConfig)]
    views = VIEW_FLAGS if given.get("mode") != "eval" else ()
    found = told.values([*names, *views, "padding", "filters_multiplier", "cost_model"])
    return found | told.network(given)
