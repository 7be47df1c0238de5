import pytest
import torch

from tunas import InputError
from tunas.run import device
from tunas.run.device import Votes, World, chosen_device, joined_world


def test_the_processor_is_always_there():
    assert chosen_device("cpu") == torch.device("cpu")


def test_auto_takes_cuda_then_mps_then_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert chosen_device("auto", local_rank=2) == torch.device("cuda", 2)
    assert chosen_device("cuda:1", local_rank=2) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu:1:2", "tpu"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(InputError, match="unknown device"):
        chosen_device(name)


def test_a_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="shows 2 CUDA devices"):
        chosen_device("cuda", local_rank=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="shows 0 CUDA devices"):
        chosen_device("cuda:0")
    with pytest.raises(InputError, match="'mps' is not there"):
        chosen_device("mps")


def test_several_processes_do_not_share_one_device(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(InputError, match="'cuda:0' is one device, but 2 processes run"), joined_world("cuda:0"):
        pass


def test_alone_everything_is_its_own_sum_mean_and_gathering():
    world = World(0, 1, torch.device("cpu"))
    vector = torch.arange(3.0)
    world.sum_(vector)
    world.average_([vector])
    assert vector.tolist() == [0, 1, 2] and world.gather(vector) is vector
    assert world.any(True) and not world.any(False)
    assert Votes(world).cast(True) and not Votes(world).cast(False) and world.from_main(lambda: 5) == 5


def test_votes_of_several_processes_answer_a_step_later_without_waiting(monkeypatch):
    """The exchange adds the other process's flags: set from the second step on."""
    waited = []

    class Handle:
        def __init__(self, step):
            self.step = step

        def wait(self):
            waited.append(self.step)

    steps = iter(range(9))

    def all_reduce(count, async_op):
        step = next(steps)
        count += step >= 1
        return Handle(step) if async_op else None

    monkeypatch.setattr(device.dist, "all_reduce", all_reduce)
    votes = Votes(World(0, 2, torch.device("cpu")))
    assert votes.cast(False) is False and waited == []
    assert votes.cast(False) is False and waited == [0]
    assert votes.cast(False) is True and waited == [0, 1]
