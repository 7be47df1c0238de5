"""Decoding, the two views, and normalising, against independent computations."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from support.rendered import opened, picture
from tunas.data import normalize
from tunas.data.augmentation import Augmentation
from tunas.data.examples import BadImageError
from tunas.data.images import (
    Crop,
    augmented_view,
    central_crop,
    decode,
    evaluation_view,
    random_crop,
    shrunk,
    stretched,
    training_view,
    turned,
)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def bicubic(pixels: np.ndarray, size: int) -> np.ndarray:
    """The antialiased bicubic filter (a = -0.5, widened where it reduces) in float64, by its definition."""

    def weights(length: int) -> np.ndarray:
        scale = length / size
        stretch = max(scale, 1.0)
        centers = (np.arange(size) + 0.5) * scale
        x = np.abs((np.arange(length)[None] + 0.5 - centers[:, None]) / stretch)
        kernel = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return kernel / kernel.sum(axis=1, keepdims=True)

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    return np.clip(np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(float), columns), 0, 255)


@pytest.mark.parametrize(
    ("kind", "mode", "settings"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
    ],
)
def test_every_kind_of_file_is_decoded_as_pillow_does(kind, mode, settings):
    content = encoded(picture(3, 1).convert(mode), kind, **settings)
    pixels = decode(content)
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_sixteen_bits_keep_their_upper_half():
    gray = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    pixels = decode(encoded(Image.fromarray(gray), "PNG"))
    assert np.array_equal(pixels[..., 1].numpy(), (gray >> 8).astype(np.uint8))


def test_orientation_tags_are_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(4, 0)
    assert decode(encoded(image, "JPEG", exif=exif)).shape[:2] == (image.height, image.width)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_no_damaged_file_gets_through_or_raises_anything_else(kind):
    content = encoded(picture(5, 1), kind)
    for length in range(0, len(content) - 12, max(1, len(content) // 40)):
        with pytest.raises(BadImageError):
            decode(content[:length])
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 700), 4):
            damaged[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged)).ndim == 3
        except BadImageError as error:
            assert str(error)


def test_a_header_that_promises_too_much_is_refused():
    content = bytearray(encoded(picture(5, 1), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(BadImageError, match="65535×65535 is more than"):
        decode(bytes(content))


@pytest.mark.parametrize("size", [24, 32, 48])
def test_the_evaluation_view_is_pillow_s(datasets, pictures, size):
    """Within one level of 255, from file to batch, with the crop worked out anew."""
    images = torch.cat([images for images, _ in opened(datasets["folder", "PNG"], image_size=size).once("test", 5)])
    for each, ours in zip(pictures.test, images, strict=True):
        original = Image.open(io.BytesIO(each.encoded))
        side = min(original.size) * 224 // 256
        left, top = -(-(original.width - side) // 2), -(-(original.height - side) // 2)
        box = (left, top, left + side, top + side)
        wanted = original.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        difference = ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted).astype(int)
        assert np.abs(difference).max() <= 1
        exact = bicubic(np.asarray(original.crop(box)), size)
        assert np.abs(ours.permute(1, 2, 0).numpy() - exact).max() <= 2.5  # Pillow rounds between its two passes


def test_the_training_view_is_a_bicubic_crop():
    image = picture(6, 2)
    pixels = torch.from_numpy(np.array(image))
    for example in range(30):
        crop = random_crop(image.height, image.width, 0, 0, example)
        ours = training_view(pixels, crop, 32).numpy()
        part = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        wanted = part.resize((32, 32), Image.Resampling.BICUBIC)
        if crop.flip:
            wanted = wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        difference = ours.astype(int) - np.asarray(wanted).astype(int)
        assert np.abs(difference).max() <= 2 and abs(difference.mean()) < 0.05


def test_the_central_crop_leaves_an_eighth_out():
    assert central_crop(256, 256) == Crop(16, 16, 224, 224)
    assert central_crop(375, 500) == Crop(24, 86, 328, 328)
    assert central_crop(1, 1) == Crop(0, 0, 1, 1)


def test_random_crops_have_the_published_distribution():
    height, width, count = 375, 500, 4000
    crops = [random_crop(height, width, 0, epoch, example) for epoch in range(4) for example in range(count // 4)]
    for crop in crops:
        assert 0 <= crop.top <= height - crop.height and 0 <= crop.left <= width - crop.width
        assert 0.07 <= crop.height * crop.width / (height * width) <= 1
        assert 0.74 <= crop.width / crop.height <= 1.35
    assert abs(np.mean([crop.flip for crop in crops]) - 0.5) < 0.03
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])
    ours = np.array([(crop.top, crop.left, crop.height, crop.width) for crop in crops])
    for column in range(4):
        a, b = np.sort(ours[:, column]), np.sort(theirs[:, column])
        places = np.concatenate([a, b])
        distance = np.abs(np.searchsorted(a, places, "right") - np.searchsorted(b, places, "right")).max() / count
        assert distance < 1.95 * np.sqrt(2 / count)  # Kolmogorov–Smirnov at 0.1 %


def test_long_images_get_the_central_crop_that_fits():
    assert random_crop(10, 1000, 0, 0, 0)[:4] == (0, 493, 10, 13)
    assert random_crop(1000, 10, 0, 0, 0)[:4] == (493, 0, 13, 10)
    assert random_crop(1, 1, 0, 0, 0)[:4] == (0, 0, 1, 1)


def test_tiny_images_have_both_views():
    for height, width in itertools.product((1, 2, 7), repeat=2):
        pixels = torch.full((height, width, 3), 9, dtype=torch.uint8)
        assert evaluation_view(pixels, 16).eq(9).all()
        assert training_view(pixels, random_crop(height, width, 0, 0, 1), 16).eq(9).all()


def test_shrinking_keeps_the_shape_and_never_enlarges():
    pixels = torch.zeros((90, 61, 3), dtype=torch.uint8)
    assert shrunk(pixels, 30).shape == (44, 30, 3)
    assert shrunk(pixels, 61) is pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pixels_are_normalised_by_mean_and_deviation(dtype):
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (images.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    result = normalize(images, dtype)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-6
    assert np.allclose(result.double().permute(0, 2, 3, 1).numpy(), wanted, rtol=tolerance, atol=tolerance)


# --- augmentation


def view(pixels, augmentation, seed=0, epoch=0, example=0, size=32, **more):
    return augmented_view(pixels, size, augmentation, seed, epoch, example, **more)


def test_without_shift_or_choice_of_size_the_training_view_is_the_evaluation_view():
    pixels = torch.from_numpy(np.array(picture(3, 1).resize((32, 32))))
    still = Augmentation(crop_scale=None, crop_ratio=(1, 1), shift=0.0, hflip=0.0)
    assert torch.equal(view(pixels, still, whole=True), pixels)
    crop = random_crop(64, 48, 0, 0, 0, still)
    assert crop == central_crop(64, 48)


def test_a_shift_moves_the_crop_in_every_direction_and_no_farther():
    shifts = Augmentation(crop_scale=None, crop_ratio=(1, 1), shift=0.1, hflip=0.0)
    crops = [random_crop(100, 100, 0, 0, example, shifts, whole=True) for example in range(400)]
    for places in ([crop.top for crop in crops], [crop.left for crop in crops]):
        assert set(places) == set(range(-10, 11))
    assert {(crop.height, crop.width, crop.flip) for crop in crops} == {(100, 100, False)}


def test_beyond_the_image_its_edge_is_repeated():
    pixels = torch.arange(12, dtype=torch.uint8).view(4, 3, 1).expand(-1, -1, 3)
    moved = training_view(pixels, Crop(-2, 1, 4, 3), 4)[..., 0]
    padded = np.pad(pixels[..., 0].numpy(), 4, mode="edge")[2:6, 5:8]
    wanted = training_view(torch.from_numpy(padded)[..., None].expand(-1, -1, 3), Crop(0, 0, 4, 3), 4)[..., 0]
    assert torch.equal(moved, wanted)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_mirroring_has_its_chance(chance):
    crops = [random_crop(50, 50, 0, 0, example, Augmentation(hflip=chance)) for example in range(20)]
    assert {crop.flip for crop in crops} == {bool(chance)}


def test_crops_keep_to_their_scale_and_ratio():
    gentle = Augmentation(crop_scale=(0.5, 0.7), crop_ratio=(0.9, 1.1))
    crops = [random_crop(1000, 1000, 1, 2, example, gentle) for example in range(200)]
    areas = [crop.height * crop.width / 1e6 for crop in crops]
    assert 0.499 < min(areas) < 0.52 and 0.68 < max(areas) < 0.701
    assert all(0.89 < crop.width / crop.height < 1.11 for crop in crops)
    assert all(0 <= crop.top <= 1000 - crop.height and 0 <= crop.left <= 1000 - crop.width for crop in crops)


def test_views_are_turned_and_slanted_about_their_centre_and_repeat_their_edge_beyond():
    pixels = torch.from_numpy(np.array(picture(3, 1).resize((16, 16))))
    assert torch.equal(turned(pixels, 0, 0), pixels)
    assert (turned(pixels, 90, 0).int() - pixels.rot90(1).int()).abs().max() <= 1
    upright = torch.zeros(33, 33, 3, dtype=torch.uint8)
    upright[:, 16] = 255
    columns = turned(upright, 0, 45)[..., 0].argmax(1)
    assert columns.tolist() == list(range(32, -1, -1))
    halves = torch.zeros(32, 32, 3, dtype=torch.uint8)
    halves[:, 16:] = 255
    corners = turned(halves, 30, 20)[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert corners.tolist() == [0, 255, 0, 255]


def test_views_are_stretched_between_places_that_are_moved_each_by_itself():
    pixels = torch.from_numpy(np.array(picture(3, 1).resize((16, 16))))
    moves = torch.zeros(2, 5, 5)
    assert torch.equal(stretched(pixels, moves), pixels)
    moves[0] = 2 / 16
    columns = torch.arange(2, 18).clamp(max=15)
    assert (stretched(pixels, moves).int() - pixels[:, columns].int()).abs().max() <= 1
    upright = torch.zeros(33, 33, 3, dtype=torch.uint8)
    upright[:, 16] = 255
    moves = torch.zeros(2, 5, 5)
    moves[0, 0] = 4 / 33
    found = stretched(upright, moves)[..., 0].argmax(1)
    assert found[0] == 12 and found[32] == 16 and (found.diff() >= 0).all() and (found[17:] >= 16).all()


@pytest.mark.parametrize(
    "operations", [{"rotate": 20.0, "shear": 10.0}, {"elastic": 0.1}, {"randaugment": 9}, {"random_erasing": 1.0}]
)
def test_operations_are_functions_of_seed_epoch_and_example_and_leave_torch_alone(operations):
    pixels = torch.from_numpy(np.array(picture(3, 1).resize((40, 40))))
    augmentation = Augmentation(crop_scale=None, crop_ratio=(1, 1), shift=0.0, hflip=0.0, **operations)
    state = torch.get_rng_state()
    views = [view(pixels, augmentation, example=example) for example in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert all(torch.equal(each, view(pixels, augmentation, example=k)) for k, each in enumerate(views))
    plain = view(pixels, Augmentation(crop_scale=None, crop_ratio=(1, 1), shift=0.0, hflip=0.0))
    assert sum(not torch.equal(each, plain) for each in views) > 4
    assert not torch.equal(views[0], view(pixels, augmentation, epoch=1)) or not torch.equal(
        views[1], view(pixels, augmentation, example=1, epoch=1)
    )
    until = dataclasses.replace(augmentation, plain_from=1)
    assert all(torch.equal(each, view(pixels, until, example=k)) for k, each in enumerate(views))
    assert all(torch.equal(plain, view(pixels, until, example=k, epoch=1)) for k in range(8))


def gray(kind: str, values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), kind)


RAMP = np.linspace(0, 1, 1024).reshape(32, 32)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("16-bit PGM", b"P5\n32 32\n65535\n" + (RAMP * 65535).astype(">u2").tobytes()),
        ("16-bit PNG", gray("PNG", (RAMP * 65535).astype(np.uint16))),
        ("16-bit TIFF", gray("TIFF", (RAMP * 65535).astype(np.uint16))),
        ("32-bit TIFF", gray("TIFF", (RAMP * (2**31 - 1)).astype(np.int32))),
        ("16 bits in a 32-bit TIFF", gray("TIFF", (RAMP * 65535).astype(np.int32))),
        ("float TIFF", gray("TIFF", RAMP.astype(np.float32))),
    ],
)
def test_gray_images_of_many_bits_keep_their_ramp(name, content):
    pixels = decode(content)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels[..., 1].numpy() - RAMP * 255).max() <= 1, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(0, 255, 1024, dtype=np.float32), "float pixels reach from 0 to 255; they must lie from 0 to 1"),
        (np.linspace(-1, 1, 1024, dtype=np.float32), "float pixels reach from -1 to 1"),
        (np.full(1024, np.nan, np.float32), "float pixels reach from nan"),
        (np.arange(-5, 1019, dtype=np.int32), "reach down to -5"),
    ],
)
def test_gray_images_of_no_known_range_are_refused(values, message):
    with pytest.raises(BadImageError, match=message):
        decode(gray("TIFF", values.reshape(32, 32)))
