"""Pixels: from a file's bytes to uint8 crops, and from uint8 to the network's input."""

from __future__ import annotations

import functools
import io
import math
import struct
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torchvision.io  # noqa: F401 (registers the operator below)
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tunas.data.examples import BadImageError
from tunas.data.order import AUGMENTATION, random_words, uniform

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of 0..1 pixels (SPEC §5)."""
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
"""Training crops: part of the image's area, and width to height (SPEC §5; Szegedy et al. 2015)."""
CROP_TRIES = 10
EVALUATION_CROP = 224 / 256
"""Side of the evaluation crop as a part of the image's shorter side (SPEC §5)."""
PREPROCESSING_VERSION = 1
"""Part of the key of cached pixels; changes whenever they would."""
MAX_PIXELS = 89_478_485
"""Larger images are refused rather than decoded: a quarter of a GiB at 24 bits, Pillow's own limit."""
_PILLOW_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_decode_jpeg = getattr(torch.ops.image, "decode_jpeg", None)
"""torchvision's decoder: the pixels of Pillow's, sooner. Its public function warns since 0.29 that it will go; then
Pillow takes over."""
_RGB = 3
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Crop(NamedTuple):
    """Pixels; `flip` mirrors left and right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The network's input: (pixel / 255 - mean) / std per channel, computed in float32 on the device that the images
    are on.

    Args:
        images: uint8 `[n, 3, S, S]`, on any device.
        dtype: of the result.

    Returns:
        `dtype` `[n, 3, S, S]` in channels_last memory format.
    """
    count, channels, height, width = images.shape
    scale, shift = _scale_and_shift(width, images.device)
    rows = images.permute(0, 2, 3, 1).reshape(
        count, height, width * channels
    )  # long rows, because loops over 3 channels are slow
    normal = rows.float().mul_(scale).sub_(shift)
    return normal.view(count, height, width, channels).permute(0, 3, 1, 2).to(dtype)


@functools.lru_cache(maxsize=8)
def _scale_and_shift(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """float32 `[width * 3]` each: a pixel times the one minus the other is normal."""
    std = torch.tensor(STD)
    return (1 / (255 * std)).repeat(width).to(device), (torch.tensor(MEAN) / std).repeat(width).to(device)


def decode(encoded: bytes) -> Tensor:
    """RGB pixels, uint8 `[height, width, 3]`, of an image file's bytes.

    Grey, CMYK, palette and 16-bit images are converted and transparency is dropped; orientation tags are not applied.

    Raises:
        BadImageError: where the bytes are no whole image, or an image beyond `MAX_PIXELS`.
    """
    if not encoded:
        raise BadImageError("the file is empty")
    frame = _jpeg_frame(encoded)
    if frame is not None:
        height, width, channels = frame
        if height * width > MAX_PIXELS:
            raise BadImageError(f"{width}×{height} is more than {MAX_PIXELS} pixels")
        if channels in (1, 3) and _decode_jpeg is not None:
            try:
                return _decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), _RGB, False).permute(
                    1, 2, 0
                )
            except RuntimeError:
                pass  # Pillow reads some that torchvision does not, and says better what is wrong with the rest
    return _decode_by_pillow(encoded)


def _jpeg_frame(encoded: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels of a JPEG file (ITU T.81 §B.2.2), None where it is none."""
    if encoded[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker in _FRAME_MARKERS:
            return struct.unpack_from(">HHB", encoded, place + 5)
        place += 1 if marker == 0xFF else 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return None


def _decode_by_pillow(encoded: bytes) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=_PILLOW_FORMATS) as image:
                if image.mode.startswith("I;16"):
                    gray = (np.asarray(image) >> 8).astype(np.uint8)
                    return torch.from_numpy(np.repeat(gray[..., None], 3, axis=2))
                return torch.from_numpy(np.array(image.convert("RGB")))
    except Exception as error:  # decoders of damaged files raise whatever they meet
        raise BadImageError(
            str(error).replace(" <_io.BytesIO", " <").partition(" <")[0] or type(error).__name__
        ) from None


def evaluation_view(pixels: Tensor, size: int) -> Tensor:
    """The central square of 224/256 of the shorter side, resized by Pillow's bicubic filter.

    Args:
        pixels: uint8 `[height, width, 3]`.
        size: S.

    Returns:
        uint8 `[S, S, 3]`.
    """
    crop = central_crop(pixels.shape[0], pixels.shape[1])
    square = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    resized = Image.fromarray(square.contiguous().numpy()).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))


def central_crop(height: int, width: int) -> Crop:
    side = max(1, int(min(height, width) * EVALUATION_CROP))
    return Crop((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def training_view(pixels: Tensor, crop: Crop, size: int) -> Tensor:
    """A crop, resized by the antialiased bicubic filter and perhaps mirrored.

    Args:
        pixels: uint8 `[height, width, 3]`.
        crop: where.
        size: S.

    Returns:
        uint8 `[S, S, 3]`.
    """
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].permute(2, 0, 1).unsqueeze(0)
    resized = interpolate(part, size=(size, size), mode="bicubic", antialias=True)[0]
    return (resized.flip(2) if crop.flip else resized).permute(1, 2, 0)


def shrunk(pixels: Tensor, short_side: int) -> Tensor:
    """The whole image with its shorter side reduced to `short_side`, if it is longer; uint8 `[height, width, 3]`."""
    height, width, _ = pixels.shape
    factor = short_side / min(height, width)
    if factor >= 1:
        return pixels
    shape = (max(short_side, round(width * factor)), max(short_side, round(height * factor)))
    return torch.from_numpy(
        np.array(Image.fromarray(pixels.contiguous().numpy()).resize(shape, Image.Resampling.BICUBIC))
    )


def random_crop(height: int, width: int, seed: int, epoch: int, example: int) -> Crop:
    """The training crop of an example in an epoch, a function of the arguments: area and aspect ratio uniform, the
    latter by its logarithm.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        seed: of the run.
        epoch: of the run.
        example: index in the whole training set, so that it does not matter in which split the image is.
    """
    draws = uniform(random_words(2 * CROP_TRIES + 3, seed, AUGMENTATION, epoch, example)).tolist()
    flip = draws[0] < 0.5
    low, high = (math.log(aspect) for aspect in CROP_ASPECT)
    for first in range(3, 3 + 2 * CROP_TRIES, 2):
        area = height * width * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * draws[first])
        aspect = math.exp(low + (high - low) * draws[first + 1])
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(draws[1] * (height - crop_height + 1)), int(draws[2] * (width - crop_width + 1))
            return Crop(top, left, crop_height, crop_width, flip)
    crop_width = min(width, max(1, round(height * CROP_ASPECT[1])))
    crop_height = min(height, max(1, round(width / CROP_ASPECT[0])))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width, flip)
