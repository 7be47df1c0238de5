"""Flags as other commands have to be told them."""

import dataclasses
import shlex

from tunas import SearchConfig, TrainConfig
from tunas.flags import as_told, given
from tunas.task import TaskConfig


def test_what_a_run_was_told_of_its_data_is_handed_on_as_a_shell_takes_it() -> None:
    config = SearchConfig(dataset_dir="my images/d", image_size=64, epochs=3, device="cpu", allow_empty_classes=True)
    names = [field.name for field in dataclasses.fields(TaskConfig)]
    words = as_told(config, [*names, "device", "cost_model"])
    assert set(shlex.split(" ".join(words))) == {
        "--dataset_dir=my images/d",
        "--image_size=64",
        "--device=cpu",
        "--allow_empty_classes",
    }
    assert given(config).keys() == {"dataset_dir", "image_size", "epochs", "device", "allow_empty_classes"}


def test_a_training_takes_every_flag_that_a_search_hands_on() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    handed_on = {field.name for field in dataclasses.fields(TaskConfig)} | {"cost_model", "padding", "device"}
    assert handed_on <= fields
