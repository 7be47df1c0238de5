"""Classes of images, by a trained network or by an exported file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tunas.cost.timing import progress_bar
from tunas.data.examples import BadImageError
from tunas.data.images import EVALUATION_CROP, decode, evaluation_view, normalize
from tunas.errors import InputError
from tunas.export.camera import as_taken
from tunas.export.directory import ABOUT, read_about, read_files
from tunas.export.inputs import PREPARED
from tunas.export.predict_config import PredictConfig
from tunas.export.source import network_of
from tunas.export.timm_model import TIMM
from tunas.run.directory import DATA, PARAMS, read_json_object, read_params
from tunas.runtime import get_runtime
from tunas.train.trained import trained_weights

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of files that are taken from a folder; a file that is named itself may have any."""
STANDARD_INPUT = "-"
OF_A_TASK = (
    "{} learned a task of its own, whose inputs are no image files; run it in Python: tunas.load_network(run), or the "
    "exported file in its runtime"
)
"""The refusal of a model that takes no images, around its directory."""

Predictor = Callable[[torch.Tensor], np.ndarray]
"""Logits `[classes]` of the uint8 pixels `[height, width, 3]` of an image."""


@dataclass(frozen=True)
class Prediction:
    """An image's likeliest classes.

    Args:
        image: its name.
        classes: (name, probability), the likeliest first.
    """

    image: str
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Predictions:
    """What became of the images.

    Args:
        found: in the order in which they were named; a folder's by name.
        skipped: (name, reason) of those that are no images.
    """

    found: tuple[Prediction, ...]
    skipped: tuple[tuple[str, str], ...]


def predict(config: PredictConfig) -> Predictions:
    """Classifies the images that `config` names.

    Raises:
        InputError: where the model is missing or damaged, a named file is not there, or no image could be read.
    """
    predictor, labels = opened_model(config)
    named = list(_named_images(config.images))
    found, skipped = [], []
    with progress_bar() as progress:
        for name, content in progress.track(named, description="predicting"):
            try:
                pixels = decode(content if content is not None else Path(name).read_bytes())
            except (BadImageError, OSError) as error:
                skipped.append((name, str(error)))
                continue
            chances = torch.from_numpy(predictor(pixels)).double().softmax(0).numpy()
            likeliest = np.argsort(-chances, kind="stable")[: config.top]  # of equal ones the first, as argmax does
            found.append(Prediction(name, tuple((labels[index], float(chances[index])) for index in likeliest)))
    if not found:
        name, reason = skipped[0]
        raise InputError(f"none of the {len(skipped)} files is an image; the first is {name}: {reason}")
    return Predictions(tuple(found), tuple(skipped))


def opened_model(config: PredictConfig) -> tuple[Predictor, list[str]]:
    """(what predicts, class names) of the training or the exported model that `config` names.

    Raises:
        InputError: where it is neither, or damaged.
    """
    path = Path(config.model).expanduser()
    if not path.exists():
        raise InputError(f"there is no model {path}; name the directory of a training or of an exported model")
    directory = path if path.is_dir() else path.parent
    if path.is_dir() and (path / PARAMS).is_file():
        return _trained(path, config)
    if (directory / ABOUT).is_file():
        return _exported(path, config.threads)
    raise InputError(f"{path} is neither a training (no {PARAMS}) nor an exported model (no {ABOUT})")


def _trained(directory: Path, config: PredictConfig) -> tuple[Predictor, list[str]]:
    """What predicts by a training, and the class names."""
    params = read_params(directory)
    if "replicas" in params:
        raise InputError(f"{directory} is a search; train what it found, and predict with that")
    if not (directory / DATA).is_file():
        raise InputError(OF_A_TASK.format(directory))
    data = read_json_object(directory / DATA)
    labels = list(map(str, data["class_names"]))
    weights = trained_weights(directory, None if config.which == "auto" else config.which)
    network, _ = network_of(params, weights.tensors, len(labels))
    size, whole = params["image_size"], data["name"] == "digits"
    torch.set_num_threads(config.threads)

    def predictor(pixels: torch.Tensor) -> np.ndarray:
        view = _view(pixels, size, 1.0 if whole else EVALUATION_CROP)
        with torch.no_grad():
            return network(normalize(view)).numpy()[0]

    return predictor, labels


def _exported(path: Path, threads: int) -> tuple[Predictor, list[str]]:
    """What predicts by an exported model, and the class names."""
    directory, about = read_about(path)
    if about["input"] == PREPARED:
        raise InputError(OF_A_TASK.format(directory))
    runtime = _runtime(about)
    files = read_files(directory, about)
    try:
        assert runtime.read is not None
        session = runtime.open(runtime.read(files), threads)
    except InputError:
        raise
    except Exception as error:  # every runtime has its own kinds for files that it cannot use
        raise InputError(f"{directory / about['file']} cannot be opened: {str(error).splitlines()[0]}") from None

    def predictor(pixels: torch.Tensor) -> np.ndarray:
        return session(as_taken(_view(pixels, about["image_size"], about["crop"]), about["input"]))[0]

    return predictor, list(map(str, about["class_names"]))


def _runtime(about: dict[str, Any]) -> Any:
    return TIMM if about["runtime"] == "timm" else get_runtime(about["runtime"])


def _view(pixels: torch.Tensor, size: int, crop: float) -> torch.Tensor:
    """uint8 `[1, 3, S, S]`: as in evaluation, or the whole image where the training saw it whole."""
    if crop == EVALUATION_CROP:
        return evaluation_view(pixels, size).permute(2, 0, 1)[None]
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side].contiguous().numpy())
    resized = square.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]


def _named_images(names: tuple[str, ...]) -> Iterator[tuple[str, bytes | None]]:
    """(name, content where it did not come from a file of that name)."""
    for name in names:
        path = Path(name).expanduser()
        if name == STANDARD_INPUT:
            yield from _standard_input(sys.stdin.buffer.read())
        elif path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise InputError(f"there are no images in {path}; taken are {', '.join(SUFFIXES)}")
            yield from ((str(file), None) for file in inside)
        elif path.exists():
            yield str(path), None
        else:
            raise InputError(f"there is no file {path}")


def _standard_input(content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """`_named_images` of what standard input holds: an image, or names of images."""
    try:
        decode(content)
    except BadImageError:
        try:
            names = [line for line in content.decode().splitlines() if line.strip()]
        except UnicodeDecodeError:
            names = []
        if not names or "\0" in content.decode(errors="replace"):
            raise InputError("standard input is neither an image nor a list of names of images") from None
        yield from _named_images(tuple(name for name in names if name != STANDARD_INPUT))
        return
    yield STANDARD_INPUT, content
