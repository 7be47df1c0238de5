"""A task as a user writes one in a file: noisy pictures of a bright dot, whose quarter is to be found."""

import torch
import torch.nn.functional as F

import tunas

WIDTH = 8


class Dots(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        self.places = torch.randint(WIDTH, (size, 2), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.places)

    def __getitem__(self, number):
        row, column = self.places[number].tolist()
        image = 0.1 * torch.randn(3, WIDTH, WIDTH)
        image[:, row, column] += 1
        return image, 2 * (row // 4) + column // 4


def agreement(logits, labels):
    return (logits.argmax(1) == labels).float().mean()


def mirrored(example):
    image, label = example
    return (image.flip(2), label ^ 1) if torch.rand(()) < 0.5 else (image, label)


def dots():
    distance = tunas.Metric(lambda logits, labels: (logits.argmax(1) - labels).abs().sum())
    return tunas.Task(
        Dots(160, 0),
        Dots(40, 1),
        Dots(37, 2),
        loss=F.cross_entropy,
        quality=agreement,
        augment=mirrored,
        prepare=lambda images: 2 * images,
        metrics={"distance": distance},
        num_classes=4,
        name="dots",
        unit="dots",
        quality_name="agreement",
    )
