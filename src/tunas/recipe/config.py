"""The flags that say how weights are learned, the same for search and train. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunas.data.config import DataConfig

TEACHER_TEMPERATURE = 1.0
TEACHER_WEIGHT = 0.5


@dataclass(frozen=True)
class ViewsConfig:
    """What training images look like. What is left out is the recipe's; `params.json` says what that came to."""

    recipe: Literal["auto", "published", "small", "modern"] = "auto"
    """published: the paper's. small: gentle crops and a slower start, for datasets below 100,000 images. modern: what
    mobile networks are trained with now, for long trainings. auto: published or small, by the number of training
    images; the choice and its reason are printed."""

    augment: Literal["auto", "published", "gentle", "none"] = "auto"
    """Training views. published: crops of 8 % to 100 % of the area, half of them mirrored. gentle: the evaluation
    crop moved a little, never mirrored. none: the evaluation crop. auto: the recipe's; where it leaves mirroring open,
    a probe of some seconds on training images decides, which is printed and kept."""

    hflip: float | None = None
    """Chance that a training view is mirrored left and right."""

    crop_scale: tuple[float, float] | None = None
    """Least and greatest area of a training crop, as part of the image's: --crop_scale 0.08 1."""

    crop_ratio: tuple[float, float] | None = None
    """Least and greatest width to height of a training crop: --crop_ratio 0.75 1.33."""

    shift: float | None = None
    """How far a training crop is moved from the image's centre at most, in each direction, as part of its side; what
    sticks out repeats the edge. Crops lie anywhere in the image where there is no shift."""

    rotate: float | None = None
    """Degrees that a training crop is turned by at most, either way; what was outside of it repeats its edge."""

    shear: float | None = None
    """Degrees that upright lines of a training crop are slanted by at most, either way."""

    elastic: float | None = None
    """How far each of 5 x 5 places of a training crop is moved at most, as part of its side, such as 0.06; what lies
    between them is stretched smoothly."""

    randaugment: int | None = None
    """Magnitude of two operations of RandAugment on each training view, 1 to 30, such as 9; 0 for none."""

    random_erasing: float | None = None
    """Chance that a rectangle of a training view is blanked."""


@dataclass(frozen=True)
class RecipeConfig(ViewsConfig):
    """How weights are learned. What is left out is the recipe's; `params.json` says what that came to."""

    mixup: float | None = None
    """Mixes pairs of training images and labels, by a share from Beta(mixup, mixup); 0 for none."""

    cutmix: float | None = None
    """Pastes a rectangle of one training image into another, by an area from Beta(cutmix, cutmix), and mixes their
    labels; 0 for none. With mixup as well, each step draws one of the two."""

    optimizer: str | None = None
    """rmsprop (TensorFlow's form, as published), or the name of any optimiser of timm's create_optimizer_v2, such as
    sgd or adamw."""

    scheduler: Literal["cosine", "linear", "constant"] | None = None
    """What the learning rate does after its warmup: half a cosine to 0, a line to 0, or nothing."""

    clip_grad: float | None = None
    """Greatest norm of the gradient of all weights; 0 for no limit."""

    teacher: str | None = None
    """Also learn from what this predicts: the directory of a training of ours, of logits that `tunas teach` wrote, or
    the name of a timm model, whose weights --teacher_checkpoint names."""

    teacher_checkpoint: str | None = None
    """Weights of the timm model that teaches (.safetensors or .pth)."""

    teacher_temperature: float = TEACHER_TEMPERATURE
    """Divides the logits of teacher and network before they are compared."""

    teacher_weight: float = TEACHER_WEIGHT
    """Share of the teacher in the loss, 0 to 1; the rest is the labels'."""


@dataclass(frozen=True)
class TeachConfig(DataConfig, ViewsConfig):
    """Write a teacher's logits of every training image under some fixed views, for `--teacher` of search and train."""

    teacher: str = ""
    """Directory of a training of ours, or the name of a timm model, whose weights --teacher_checkpoint names."""

    teacher_checkpoint: str | None = None
    """Weights of the timm model (.safetensors or .pth)."""

    logits_dir: str = "logits"
    """Directory that the logits are written to; where it holds some of them already, the rest is added."""

    views: int = 4
    """Different views of each image; a training sees them in turn, epoch by epoch."""

    batch_size: int = 256
    """Images that the teacher looks at together."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    seed: int = 0
    """Of the views."""
