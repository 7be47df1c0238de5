"""The evaluation view is what docs/data.md says, with Pillow alone."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunas.data import DataConfig, open_data
from tunas.data.images import decode, evaluation_view

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def snippet():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "def evaluation_view" in block]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10 and "tunas" not in block
    names = {}
    exec(block, names)
    return names["evaluation_view"]


def photo(width, height, mode="RGB"):
    """Smooth colours with noise, which filters and roundings would show."""
    rng = np.random.default_rng(width * height)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1) // 2 + rng.integers(
        0, 128, (height, width, 3)
    )
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (257, 301), (64, 64), (31, 33), (10, 3), (1, 1)])
@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("png", "RGB"), ("png", "L"), ("png", "P")])
def test_the_snippet_gives_the_same_pixels(tmp_path, shape, suffix, mode):
    path = tmp_path / f"image.{suffix}"
    photo(*shape, mode).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    for size in (224, 96):
        expected = np.array(snippet()(path, size))
        found = evaluation_view(decode(path.read_bytes()), size).numpy()
        assert np.array_equal(found, expected)


def test_a_dataset_hands_out_these_pixels(tmp_path):
    for number in range(40):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(40 + number, 60).save(path)
    data = open_data(DataConfig(dataset_dir=str(tmp_path), image_size=24, num_workers=0))
    images = {image.numpy().tobytes() for batch, _ in data.once("valid", 8) for image in batch.permute(0, 2, 3, 1)}
    views = {np.array(snippet()(path, 24)).tobytes() for path in tmp_path.glob("train/*/*")}
    assert images and images <= views
