import pytest

import tunas
from support.jobs import INDICES, TINY
from tunas.data.digits import digit_images


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a finished training of a few seconds, on the digits at 32 px."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    tunas.train(
        tunas.TrainConfig(
            ssd=TINY,
            indices=INDICES,
            checkpoint_dir=str(directory),
            epochs=14,
            base_learning_rate=1.0,
            train_batch_size=64,
            ema_decay=0.9,
            device="cpu",
            num_workers=0,
        )
    )
    return directory


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 40 digits of the test part as PNG files of 64 px, named by their label, and one that is no image."""
    from PIL import Image

    directory = tmp_path_factory.mktemp("pictures")
    pixels, labels = digit_images(64)
    for number, (image, label) in enumerate(zip(pixels[-40:], labels[-40:], strict=True)):
        Image.fromarray(image.numpy()).save(directory / f"{number:02d}-{int(label)}.png")
    (directory / "broken.png").write_bytes(b"\x89PNG not really")
    return directory
