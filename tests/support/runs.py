"""What a run leaves, read back."""

import csv
import json

import torch

from tunas.run.device import World

ALONE = World(0, 1, torch.device("cpu"))
"""The only process of a run."""


def result(directory):
    return json.loads((directory / "result.json").read_text())


def scores(directory):
    """The rows of `summary.csv`."""
    with open(directory / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))
