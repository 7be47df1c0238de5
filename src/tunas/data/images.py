"""Pixels: from a file's bytes to uint8 crops, and from uint8 to the network's input."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.io  # noqa: F401 (registers the operator below)
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from tunas.data.augmentation import ELASTIC_PLACES, PUBLISHED, Augmentation
from tunas.data.examples import BadImageError
from tunas.data.formats import PILLOW_FORMATS
from tunas.data.order import AUGMENTATION, random_words, uniform

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of 0..1 pixels (docs/algorithm.md#data)."""
CROP_TRIES = 10
_OPERATIONS_WORD = 3 + 2 * CROP_TRIES
"""Place of the draw that seeds RandAugment and erasing; those before it are the crop's, the two behind it those of
turning and slanting, the others those of stretching."""
_STRETCHING_WORD = _OPERATIONS_WORD + 3
_BLANK = (124, 116, 104)
"""What erasing and RandAugment fill with: `MEAN` as bytes."""
EVALUATION_CROP = 224 / 256
"""Side of the evaluation crop as a part of the image's shorter side (docs/algorithm.md#data)."""
PREPROCESSING_VERSION = 2
"""Part of the key of cached pixels; changes whenever they would."""
MAX_PIXELS = 89_478_485
"""Larger images are refused rather than decoded: a quarter of a GiB at 24 bits, Pillow's own limit."""
_decode_jpeg = getattr(torch.ops.image, "decode_jpeg", None)
"""torchvision's decoder: the pixels of Pillow's, sooner. Its public function warns since 0.29 that it will go; then
Pillow takes over."""
_RGB = 3
"""torchvision's number for the decoder's output."""
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that begin a JPEG frame (ITU T.81 table B.1)."""


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
    rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)  # loops over 3 channels are slow
    normal = rows.float().mul_(scale).sub_(shift)
    return normal.view(count, height, width, channels).permute(0, 3, 1, 2).to(dtype)


@functools.lru_cache(maxsize=8)
def _scale_and_shift(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """float32 `[width * 3]` each: a pixel times the one, minus the other, is the network's input."""
    std = torch.tensor(STD)
    return (1 / (255 * std)).repeat(width).to(device), (torch.tensor(MEAN) / std).repeat(width).to(device)


def decode(encoded: bytes) -> Tensor:
    """RGB pixels, uint8 `[height, width, 3]`, of an image file's bytes.

    Grey, CMYK, palette and 16-bit images are converted (see `_gray_bytes` for more than 8 bits) and transparency is
    dropped; orientation tags are not applied.

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
            content = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            try:
                return _decode_jpeg(content, _RGB, False).permute(1, 2, 0)
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
    """`decode` by Pillow, which reads every format and says what is wrong with a damaged file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as image:
                if image.mode == "F" or image.mode.startswith("I"):
                    gray = _gray_bytes(image)
                    return torch.from_numpy(np.repeat(gray[..., None], 3, axis=2))
                return torch.from_numpy(np.array(image.convert("RGB")))
    except BadImageError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they meet
        why = str(error).partition(" <")[0]  # without the file object that Pillow names
        raise BadImageError(why or type(error).__name__) from None


_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
"""TIFF's tags; a format of 2 has signs (TIFF 6.0 §19)."""


def _gray_bytes(image: Image.Image) -> np.ndarray:
    """uint8 `[height, width]` of a gray image with more than 8 bits: integers by their range (0 to 65535; of 32 bits
    the format's own, or 0 to 65535 where that holds all), floats from 0 to 1.

    Raises:
        BadImageError: where values lie outside of these ranges.
    """
    values = np.asarray(image)
    if image.mode == "F":
        if not (values >= 0).all() or not (values <= 1).all():
            low, high = float(np.min(values)), float(np.max(values))
            raise BadImageError(f"its float pixels reach from {low:g} to {high:g}; they must lie from 0 to 1")
        return (values * 255 + 0.5).astype(np.uint8)
    if image.mode != "I":
        return (values >> 8).astype(np.uint8)
    tags = getattr(image, "tag_v2", {})
    has_sign = tags.get(_SAMPLE_FORMAT) in (2, (2,))
    if not has_sign and tags.get(_BITS_PER_SAMPLE) in (32, (32,)):
        values = values.astype(np.int32).view(np.uint32)  # Pillow has no unsigned ones
    if int(values.min()) < 0:
        raise BadImageError(f"its pixels reach down to {int(values.min())}; they must not be negative")
    if int(values.max()) < 2**16:
        return (values >> 8).astype(np.uint8)
    return (values >> (23 if has_sign or values.dtype != np.uint32 else 24)).astype(np.uint8)


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


def evaluation_recipe(size: int, *, cropped: bool) -> dict[str, Any]:
    """The evaluation view in words, exact enough for someone else to make the same pixels.

    Args:
        size: S.
        cropped: False for images that are only resized, as the embedded digits are.
    """
    crop = {
        "crop_side": "max(1, int(min(height, width) * 224 / 256))",
        "crop_top": "(height - crop_side + 1) // 2",
        "crop_left": "(width - crop_side + 1) // 2",
        "resize": f"the crop to {size} x {size} by Pillow's Image.Resampling.BICUBIC",
    }
    resized = {"resize": f"8 x 8 to {size} x {size} by torch's interpolate, bicubic, antialias=True, rounded"}
    return {
        **(crop if cropped else resized),
        "normalize": "(pixel / 255 - mean) / std, RGB",
        "mean": list(MEAN),
        "std": list(STD),
    }


def central_crop(height: int, width: int) -> Crop:
    """The crop of the evaluation view."""
    side = max(1, int(min(height, width) * EVALUATION_CROP))
    return Crop((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def training_view(pixels: Tensor, crop: Crop, size: int) -> Tensor:
    """A crop, resized by the antialiased bicubic filter and perhaps mirrored.

    Args:
        pixels: uint8 `[height, width, 3]`.
        crop: where; beyond the image its edge is repeated.
        size: S.

    Returns:
        uint8 `[S, S, 3]`.
    """
    height, width, _ = pixels.shape
    bottom, right = crop.top + crop.height, crop.left + crop.width
    if crop.top >= 0 and crop.left >= 0 and bottom <= height and right <= width:
        part = pixels[crop.top : bottom, crop.left : right]
    else:
        rows = torch.arange(crop.top, bottom).clamp_(0, height - 1)
        columns = torch.arange(crop.left, right).clamp_(0, width - 1)
        part = pixels[rows][:, columns]
    channels_first = part.permute(2, 0, 1).unsqueeze(0)
    resized = interpolate(channels_first, size=(size, size), mode="bicubic", antialias=True)[0]
    return (resized.flip(2) if crop.flip else resized).permute(1, 2, 0)


def turned(view: Tensor, degrees: float, slant: float) -> Tensor:
    """A view turned about its centre after its upright lines were slanted; beyond it its edge is repeated.

    Args:
        view: uint8 `[S, S, 3]`.
        degrees: of the turn.
        slant: degrees between upright lines before and after.

    Returns:
        uint8 `[S, S, 3]`.
    """
    angle, shear, size = math.radians(degrees), math.tan(math.radians(slant)), len(view)
    cos, sin = math.cos(angle), math.sin(angle)
    across, down = (cos, cos * shear - sin), (sin, sin * shear + cos)  # from a place to its source, about the centre
    reach = max(abs(across[0]) + abs(across[1]), abs(down[0]) + abs(down[1]))
    beyond = math.ceil((reach - 1) * size / 2) + 2  # two pixels for the filter
    around = np.arange(-beyond, size + beyond).clip(0, size - 1)
    image = Image.fromarray(view.numpy()[around[:, None], around])
    left, top = (size / 2 * (1 - sum(row)) + beyond for row in (across, down))
    moved = image.transform((size, size), Image.Transform.AFFINE, (*across, left, *down, top), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(moved))


def stretched(view: Tensor, moves: Tensor) -> Tensor:
    """A view whose places are moved, smoothly between those that are given; beyond it its edge is repeated.

    Args:
        view: uint8 `[S, S, 3]`.
        moves: float32 `[2, n, n]`: how far to the right and how far below, as part of S, the source of each of n × n
            places lies, of which the first and last are in the corners.

    Returns:
        uint8 `[S, S, 3]`.
    """
    size = len(view)
    smooth = interpolate(moves.unsqueeze(0), size=(size, size), mode="bicubic", align_corners=True)
    sources = _middles(size).add(smooth.permute(0, 2, 3, 1), alpha=2)
    image = view.permute(2, 0, 1).unsqueeze(0).float()
    moved = grid_sample(image, sources, mode="bicubic", padding_mode="border", align_corners=False)
    return moved[0].permute(1, 2, 0).round_().clamp_(0, 255).byte()


@functools.lru_cache(maxsize=4)
def _middles(size: int) -> Tensor:
    """Places of the pixels of a view from its left and from its top, from -1 to 1, float32 `[1, S, S, 2]`."""
    middles = (2 * torch.arange(size) + 1) / size - 1
    down, across = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([across, down], 2).unsqueeze(0)


def augmented_view(
    pixels: Tensor, size: int, augmentation: Augmentation, seed: int, epoch: int, example: int, *, whole: bool = False
) -> Tensor:
    """The training view of an example in an epoch, a function of the arguments.

    Args:
        pixels: uint8 `[height, width, 3]`.
        size: S.
        augmentation: what may happen.
        seed, epoch, example, whole: as for `random_crop`.

    Returns:
        uint8 `[S, S, 3]`.
    """
    height, width, _ = pixels.shape
    augmentation = augmentation.in_epoch(epoch)
    seed, epoch = augmentation.drawn_from(seed, epoch)
    view = training_view(pixels, random_crop(height, width, seed, epoch, example, augmentation, whole=whole), size)
    turns = augmentation.rotate or augmentation.shear
    if not (turns or augmentation.elastic or augmentation.randaugment or augmentation.random_erasing):
        return view
    places = (2, ELASTIC_PLACES, ELASTIC_PLACES)
    words = random_words(_STRETCHING_WORD + math.prod(places), seed, AUGMENTATION, epoch, example)[_OPERATIONS_WORD:]
    turn, slant, *moves = (2 * uniform(words[1:]) - 1).tolist()
    if turns:
        view = turned(view, turn * augmentation.rotate, slant * augmentation.shear)
    if augmentation.elastic:
        view = stretched(view, augmentation.elastic * torch.tensor(moves).view(places))
    if not augmentation.randaugment and not augmentation.random_erasing:
        return view
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator, which is the run's
        torch.manual_seed(int(words[0]) >> 1)
        image = view.permute(2, 0, 1)
        if augmentation.randaugment:
            image = _randaugment(augmentation.randaugment)(image)
        if augmentation.random_erasing:
            image = _erasing(augmentation.random_erasing)(image)
    return image.permute(1, 2, 0)


@functools.lru_cache(maxsize=4)
def _randaugment(magnitude: int) -> Any:
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=2, magnitude=magnitude, fill=list(_BLANK))


@functools.lru_cache(maxsize=4)
def _erasing(chance: float) -> Any:
    from torchvision.transforms import v2

    return v2.RandomErasing(p=chance, value=list(_BLANK))


def shrunk(pixels: Tensor, short_side: int) -> Tensor:
    """The whole image with its shorter side reduced to `short_side`, if it is longer; uint8 `[height, width, 3]`."""
    height, width, _ = pixels.shape
    factor = short_side / min(height, width)
    if factor >= 1:
        return pixels
    shape = (max(short_side, round(width * factor)), max(short_side, round(height * factor)))
    whole = Image.fromarray(pixels.contiguous().numpy())
    return torch.from_numpy(np.array(whole.resize(shape, Image.Resampling.BICUBIC)))


def random_crop(
    height: int,
    width: int,
    seed: int,
    epoch: int,
    example: int,
    augmentation: Augmentation = PUBLISHED,
    *,
    whole: bool = False,
) -> Crop:
    """The training crop of an example in an epoch, a function of the arguments: area and aspect ratio uniform, the
    latter by its logarithm.

    Args:
        height, width: of the image, in pixels.
        seed, epoch: of the run.
        example: index in the whole training set, so that it does not matter in which split the image is.
        augmentation: how large crops are, where they lie, and how often they are mirrored.
        whole: whether the evaluation view shows the whole image, which then counts as the central crop of a larger one.
    """
    if whole:
        beyond = round(min(height, width) * (1 / EVALUATION_CROP - 1) / 2)
        larger = (height + 2 * beyond, width + 2 * beyond)
        if augmentation.crop_scale is None:
            part = min(height, width) ** 2 / math.prod(larger)
            augmentation = dataclasses.replace(augmentation, crop_scale=(part, part))
        crop = random_crop(*larger, seed, epoch, example, augmentation)
        return crop._replace(top=crop.top - beyond, left=crop.left - beyond)
    draws = uniform(random_words(3 + 2 * CROP_TRIES, seed, AUGMENTATION, epoch, example)).tolist()
    flip = draws[0] < augmentation.hflip
    sides = _drawn_sides(height, width, augmentation, draws[3:])
    crop_height, crop_width = sides or _greatest_sides(height, width, augmentation.crop_ratio)
    if augmentation.shift is not None:
        down, right = (augmentation.shift * (2 * draw - 1) for draw in draws[1:3])
        top = round((height - crop_height) / 2 + down * crop_height)
        left = round((width - crop_width) / 2 + right * crop_width)
    elif sides is not None:
        top, left = int(draws[1] * (height - crop_height + 1)), int(draws[2] * (width - crop_width + 1))
    else:
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return Crop(top, left, crop_height, crop_width, flip)


def _drawn_sides(height: int, width: int, augmentation: Augmentation, draws: list[float]) -> tuple[int, int] | None:
    """Height and width of the first drawn crop that fits into the image; None where none of them does."""
    low, high = (math.log(ratio) for ratio in augmentation.crop_ratio)
    if augmentation.crop_scale is None:
        side = central_crop(height, width).height
        least = greatest = side * side / (height * width)
    else:
        least, greatest = augmentation.crop_scale
    for area_draw, ratio_draw in zip(draws[::2], draws[1::2], strict=True):
        area = height * width * (least + (greatest - least) * area_draw)
        ratio = math.exp(low + (high - low) * ratio_draw)
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            return crop_height, crop_width
    return None


def _greatest_sides(height: int, width: int, ratios: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the greatest crop whose ratio is allowed."""
    crop_width = min(width, max(1, round(height * ratios[1])))
    return min(height, max(1, round(width / ratios[0]))), crop_width
