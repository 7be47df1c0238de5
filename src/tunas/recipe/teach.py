"""`tunas teach`: a teacher's logits of every training image under k fixed views, once, for many trainings."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tunas.data import Data, normalize, open_data
from tunas.data.augmentation import Augmentation
from tunas.data.progress import progress
from tunas.errors import InputError
from tunas.recipe.choose import chosen_recipe
from tunas.recipe.config import RecipeConfig, TeachConfig, ViewsConfig
from tunas.recipe.logits import (
    SPLIT,
    begun,
    index_of,
    is_whole,
    orders,
    shard_count,
    shard_path,
    shard_span,
    write_shard,
)
from tunas.recipe.mirror import probed
from tunas.recipe.teacher import NetworkTeacher, is_directory_of_logits, network_teacher
from tunas.run.device import joined_world


@dataclass(frozen=True)
class Lecture:
    """Logits that were written.

    Args:
        directory: where they lie.
        examples, views, classes: how many there are.
        shards: files in all.
        written: how many of them this session wrote; the others were there.
    """

    directory: Path
    examples: int
    views: int
    classes: int
    shards: int
    written: int


def teach(config: TeachConfig) -> Lecture:
    """Writes the teacher's logits, or what is missing of them.

    Raises:
        InputError: where the teacher cannot be used, an image cannot be decoded, or the directory holds something else.
    """
    if config.views < 1 or config.batch_size < 1:
        raise InputError(f"views and batch_size are at least 1, not {config.views} and {config.batch_size}")
    if not config.teacher:
        raise InputError("no teacher is named; give --teacher=RUN, or a timm model with --teacher_checkpoint=FILE")
    if is_directory_of_logits(config.teacher):
        raise InputError(f"{config.teacher} holds logits already; name a training or a timm model as the teacher")
    if config.on_bad_image == "skip":
        raise InputError("logits are those of every image, so that on_bad_image=skip cannot be: remove bad images")
    with joined_world(config.device) as world:
        if world.size > 1:
            raise InputError("tunas teach runs in one process; start it without torchrun")
        directory = Path(config.logits_dir).expanduser()
        data = open_data(config)
        teacher = network_teacher(config.teacher, config.teacher_checkpoint, data, world.device)
        augmentation = _augmentation(config, data)
        if teacher.said:
            print(teacher.said, file=sys.stderr)
        index = begun(directory, index_of(f"{teacher.name} {weights_checksum(teacher.network)}", data, augmentation))
        shards = config.views * shard_count(data)
        missing = [k for k in range(shards) if not is_whole(shard_path(directory, k), index, k)]
        with progress("teaching", sum(len(shard_span(data, number)[1]) for number in missing)) as advance:
            for number in missing:
                logits = _of_shard(teacher, data, augmentation, number, config.batch_size, world.device)
                write_shard(directory, index, number, logits)
                advance(len(logits))
        return Lecture(directory, data.size(SPLIT), config.views, data.num_classes, shards, len(missing))


def _augmentation(config: TeachConfig, data: Data) -> Augmentation:
    flags = {field.name: getattr(config, field.name) for field in dataclasses.fields(ViewsConfig)}

    def mirrors() -> tuple[bool, str]:
        probe = probed(data)
        return probe.mirrors, probe.sentence

    recipe = chosen_recipe(RecipeConfig(**flags), data.size(SPLIT), data.image_size, mirrors=mirrors)
    print(f"views of recipe {recipe.name}: {recipe.reason}", file=sys.stderr)
    assert recipe.augmentation is not None
    return dataclasses.replace(recipe.augmentation, views=config.views, views_seed=config.seed)


def _of_shard(
    teacher: NetworkTeacher, data: Data, augmentation: Augmentation, number: int, batch: int, device: torch.device
) -> torch.Tensor:
    """float32 `[examples of the shard, K]`."""
    span = shard_span(data, number)[1]
    batches = data.given(SPLIT, orders(data, number, min(batch, len(span))), augment=augmentation)
    logits = torch.cat([teacher.logits(normalize(images.to(device))).cpu() for images, _ in batches])
    return logits[: len(span)]


def weights_checksum(network: nn.Module) -> str:
    """SHA-256 of all its tensors, so that logits of a teacher that has been trained further are not mixed with
    these."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()
