"""What Apple's GPUs do not have is not asked of them."""

import json

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.jobs import TINY
from tunas import SearchConfig, TrainConfig, search, train
from tunas.task.batches import as_held, on_device


class WithoutFloat64(TorchDispatchMode):
    """Refuses to make a float64 tensor of one in float32, as such a GPU does, unless `cpu()` gave that tensor."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        given = [one for one in arguments if isinstance(one, Tensor) and not hasattr(one, "is_on_host")]
        if (
            isinstance(result, Tensor)
            and result.dtype == torch.float64
            and any(t.dtype == torch.float32 for t in given)
        ):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


@pytest.fixture
def apple(monkeypatch):
    """Every tensor lies on such a GPU, until it is fetched."""

    def cpu(tensor, fetched=Tensor.cpu):
        host = fetched(tensor)
        host.is_on_host = True
        return host

    monkeypatch.setattr(Tensor, "cpu", cpu)
    with WithoutFloat64():
        yield


SMALL = {"ssd": TINY, "image_size": 8, "device": "cpu", "num_workers": 0, "train_batch_size": 48, "epochs": 0.5}


def test_float64_is_for_the_host(apple):
    with pytest.raises(TypeError, match="MPS"):
        torch.ones(2).double().cpu()
    assert torch.ones(2).cpu().double().dtype == torch.float64


def test_a_search_asks_for_no_float64(apple, tmp_path):
    config = SearchConfig(**SMALL, replicas=2, parallel_replicas=1, eval_every=0.1, checkpoint_dir=str(tmp_path))
    assert search(config).steps == 11
    assert (tmp_path / "summary.csv").read_text().count("\n") > 1


def test_a_training_asks_for_no_float64(apple, tmp_path):
    config = TrainConfig(
        **SMALL, indices="1:1:1:1:1:1:0:1", eval_every=0.2, ema_decay=0.9, clip_grad=1.0, checkpoint_dir=str(tmp_path)
    )
    found = train(config).evaluation
    assert found.examples == 360 and json.loads((tmp_path / "result.json").read_text())["loss"] > 0


def test_examples_in_float64_are_handed_over_in_float32():
    numbers = torch.tensor([0.5, 1.5], dtype=torch.float64)
    assert as_held(numbers, torch.device("mps")).dtype == torch.float32
    assert as_held(torch.tensor([2]), torch.device("mps")).dtype == torch.int64
    assert on_device({"y": numbers}, torch.device("cpu"))["y"].dtype == torch.float64
