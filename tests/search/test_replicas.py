"""Replicas side by side give what they give one after the other."""

import threading
import time

import pytest
import torch

from support.prepared import Prepared
from tunas.nn.ops import Conv2d
from tunas.search.replicas import Gradients, InOrder, Lanes, gradients_of, lanes_for


@pytest.mark.parametrize("step", [0, 12])
def test_any_number_of_lanes_takes_the_same_step_bit_for_bit(step):
    alone, shared = Prepared(parallel_replicas=1), Prepared(parallel_replicas=3)
    assert (alone.search.lanes.count, shared.search.lanes.count) == (1, 3)
    for number in range(step, step + 3):
        assert alone.step(number) == shared.step(number)
    assert torch.equal(alone.search.weights, shared.search.weights)
    assert torch.equal(alone.search.weights.grad, shared.search.weights.grad)


def test_gradients_are_added_in_the_order_of_the_replicas():
    """Float sums depend on their order; the last one is ready first here."""
    torch.manual_seed(0)
    pieces = [torch.randn(1000) * 10**power for power in range(4)]
    weight = torch.nn.Parameter(torch.zeros(1000))
    weight.grad = torch.zeros(1000)
    total = InOrder()
    for number in (3, 1, 0, 2):
        total.add(number, Gradients([(weight, pieces[number])]))
    expected = torch.zeros(1000)
    for one in pieces:
        expected += one
    assert torch.equal(weight.grad, expected)


def test_a_replica_leaves_its_gradients_to_the_one_that_is_adding():
    total, added = InOrder(), []

    class Noted(Gradients):
        def add(self):
            added.append(1)

    class Interrupted(Gradients):
        def add(self):
            other = threading.Thread(target=total.add, args=(1, Noted([])))
            other.start()
            other.join(timeout=30)
            assert not other.is_alive() and added == []
            added.append(0)

    total.add(0, Interrupted([]))
    assert added == [0, 1]


def test_gradients_of_leaves_what_backward_would_add():
    used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    scale = torch.nn.Parameter(torch.tensor(2.0))
    found = dict(gradients_of((used * used * scale).sum() + 0 * used.sum()).tensors)
    assert used.grad is None and unused not in found
    assert torch.equal(found[used], torch.full((3,), 4.0)) and found[scale] == 3


def test_products_are_added_at_once_in_their_turn_and_later_otherwise():
    conv = Conv2d(6, 4, 1)
    conv.weight.grad = torch.zeros_like(conv.weight)
    conv.share_gradients()
    images = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    later = gradients_of(conv(images, 2).square().sum())
    assert not conv.weight.grad.any()
    later.add()
    added = conv.weight.grad.clone()
    assert added.any()
    assert gradients_of(conv(images, 2).square().sum(), in_turn=True) == Gradients([])
    torch.testing.assert_close(conv.weight.grad, 2 * added)


def test_lanes_work_at_the_same_time_and_answer_in_order():
    lanes, meeting = Lanes(2), threading.Barrier(2, timeout=30)

    def work(item):
        if item < 2:
            meeting.wait()
        time.sleep(0.02 * (3 - item))
        return item, torch.get_num_threads()

    threads = torch.get_num_threads()
    assert lanes.map(work, range(4)) == [(item, 1) for item in range(4)]
    assert torch.get_num_threads() == threads


def test_lanes_begin_with_the_largest_and_answer_in_order():
    begun, both = [], threading.Barrier(2, timeout=30)

    def work(item):
        begun.append(item)
        if item in (1, 3):
            both.wait()
        return item

    assert Lanes(2).map(work, range(4), [1.0, 7.0, 2.0, 5.0]) == [0, 1, 2, 3]
    assert set(begun[:2]) == {1, 3}
    assert Lanes(1).map(str, range(3), [1, 2, 3]) == ["0", "1", "2"]


def test_one_lane_works_with_its_own_threads():
    assert Lanes(2).in_one(torch.get_num_threads) == 1
    assert Lanes(1).in_one(torch.get_num_threads) == torch.get_num_threads()


def test_what_a_replica_raises_is_raised():
    def work(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        Lanes(2).map(work, range(3))


@pytest.mark.parametrize("sizes", [(), range(20, 0, -1)])
def test_after_a_replica_that_raises_no_further_ones_are_begun(sizes):
    begun = []

    def work(item):
        begun.append(item)
        if item == 0:
            raise ValueError(item)
        time.sleep(0.2)

    lanes = Lanes(2)
    with pytest.raises(ValueError, match="0"):
        lanes.map(work, range(20), sizes)
    lanes.in_one(int)  # comes after whatever is still waiting
    assert len(begun) < 10


@pytest.mark.parametrize(
    ("kind", "replicas", "wanted", "alike", "numbers", "count"),
    [
        ("cpu", 4, 2, True, 1, 2),
        ("cpu", 1, None, True, 1, 1),
        ("cpu", 2, 8, True, 1, 2),
        ("cpu", 4, 2, False, 1, 1),
        ("cuda", 4, 2, True, 1, 1),
        ("cpu", 4, None, True, 16 * 3 * 32**2, 3),
        ("cpu", 4, None, True, 16 * 3 * 224**2, 1),
        ("cpu", 4, 2, True, 16 * 3 * 224**2, 2),
    ],
)
def test_lanes_are_for_small_replicas_on_processors_that_are_alike_anywhere(
    kind, replicas, wanted, alike, numbers, count, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert lanes_for(replicas, torch.device(kind), wanted=wanted, alike=alike, numbers=numbers).count == count
