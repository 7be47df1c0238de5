"""A task's batches are a function of seed and step: of nothing else."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tunas import InputError, Task
from tunas.task.batches import length, mapped, parts, piece, tensors


class Noisy(Dataset):
    """Examples (number and noise of three kinds, target); a list of their numbers."""

    def __init__(self, size):
        self.numbers = list(range(size))

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, place):
        noise = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        return {"number": self.numbers[place], "noise": noise}, float(place)


def mean(outputs, targets):
    return outputs.mean()


def task(train=None, valid=None, **settings):
    train = Noisy(23) if train is None else train
    return Task(train, Noisy(7) if valid is None else valid, Noisy(5), loss=mean, quality=mean, **settings)


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(tensors(x), tensors(y), strict=True)
    )


def augmented(example):
    inputs, target = example
    return {**inputs, "noise": inputs["noise"] + torch.rand(3)}, target


def taken(stream, steps):
    found = list(islice(stream, steps))
    stream.close()
    return found


@pytest.mark.parametrize("augment", [False, True])
def test_a_stream_goes_on_where_it_is_started(augment):
    settings = {"seed": 3, "augment": augment}
    whole = taken(task(augment=augmented).stream("train", 6, **settings), 9)
    assert same(whole[5:], taken(task(augment=augmented).stream("train", 6, **settings, start_step=5), 4))


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_see_together_what_one_would(ranks):
    whole = taken(task(augment=augmented).share_stream("train", 12, 6, seed=1, augment=True), 5)
    each = [
        taken(task(augment=augmented).share_stream("train", 12, 6 // ranks, seed=1, augment=True, shard=(k, ranks)), 5)
        for k in range(ranks)
    ]
    for step, shares in enumerate(whole):
        assert same(shares, [share for rank in each for share in rank[step]])


def test_workers_change_nothing():
    alone, by_two = task(augment=augmented), task(augment=augmented).with_workers(2)
    settings = {"seed": 5, "augment": True}
    assert same(taken(alone.stream("train", 6, **settings), 5), taken(by_two.stream("train", 6, **settings), 5))
    assert same(list(alone.once("valid", 3)), list(by_two.once("valid", 3)))


def test_what_is_random_differs_between_epochs_examples_and_seeds():
    noise = torch.cat([inputs["noise"] for inputs, _ in taken(task().stream("train", 23, seed=0), 3)])
    other = torch.cat([inputs["noise"] for inputs, _ in taken(task().stream("train", 23, seed=1), 3)])
    assert len(torch.cat([noise, other]).unique()) == 6 * 23 * 3


def test_every_epoch_is_another_order_of_every_example():
    numbers = [inputs["number"].tolist() for inputs, _ in taken(task().stream("train", 23, seed=0), 3)]
    assert all(sorted(order) == list(range(23)) for order in numbers) and numbers[0] != numbers[1] != numbers[2]


def test_only_what_is_asked_for_is_augmented():
    changed = task(augment=lambda example: ({"number": -1}, example[1]))
    assert next(changed.stream("train", 4, seed=0, augment=True))[0]["number"].tolist() == [-1] * 4
    assert next(changed.stream("valid", 4, seed=0))[0]["number"].min() >= 0
    assert next(changed.once("train", 4))[0]["number"].tolist() == [0, 1, 2, 3]


def test_the_random_generators_of_the_run_stand_where_they_stood():
    stream = task().stream("train", 6, seed=0)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(11)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(11)
    next(stream)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_everything_is_gone_through_once(processes):
    for split, size in (("train", 23), ("valid", 7), ("full_train", 30), ("test", 5)):
        batches = [b for k in range(processes) for b in task().once(split, 4, shard=(k, processes))]
        assert torch.cat([targets for _, targets in batches]).tolist() == [
            *range(23 if split == "full_train" else size),
            *(range(7) if split == "full_train" else ()),
        ]


def test_tensors_in_memory_are_gathered_as_they_are_fetched_one_by_one():
    held = TensorDataset(torch.arange(46.0).view(23, 2), torch.arange(23))
    gathered = taken(task(held).stream("train", 5, seed=2), 6)

    class OneByOne(TensorDataset):
        pass

    assert same(gathered, taken(task(OneByOne(*held.tensors)).stream("train", 5, seed=2), 6))
    tables = [TensorDataset(torch.arange(2.0 * rows).view(rows, 2) + rows, torch.arange(rows)) for rows in (23, 7)]
    both, one_by_one = task(*tables), task(tables[0], OneByOne(*tables[1].tensors))
    assert same(taken(both.stream("full_train", 9, seed=1), 8), taken(one_by_one.stream("full_train", 9, seed=1), 8))


def test_a_collate_function_of_ones_own_sees_the_examples_of_one_share():
    def padded(examples):
        sequences = [torch.arange(int(target) % 5 + 1) for _, target in examples]
        return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True), torch.tensor([t for _, t in examples])

    whole = taken(task(collate=padded).share_stream("train", 12, 4, seed=0), 4)
    halves = [taken(task(collate=padded).share_stream("train", 12, 2, seed=0, shard=(k, 2)), 4) for k in range(2)]
    for step in range(4):
        assert same(whole[step], halves[0][step] + halves[1][step])
    assert len({inputs.shape[1] for shares in whole for inputs, _ in shares}) > 1


def test_tuples_stay_tuples_and_batches_can_be_taken_apart():
    pairs = [((torch.ones(2), torch.zeros(3)), number) for number in range(5)]
    inputs, targets = next(task(pairs).once("train", 5))
    assert isinstance(inputs, tuple) and [tuple(part.shape) for part in inputs] == [(5, 2), (5, 3)]
    assert [length(part) for part in parts((inputs, targets), 2)] == [3, 2]
    assert piece({"a": [targets]}, 1, 3)["a"][0].tolist() == [1, 2]
    assert mapped(lambda tensor: tensor.dtype, targets) == torch.int64


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(9))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"train": Endless()}, "train must be a map-style dataset, with __len__ and __getitem__, unlike Endless"),
        ({"train": []}, "the dataset given as train is empty"),
        ({"valid": TensorDataset(torch.zeros(0, 2))}, "the dataset given as valid is empty"),
        ({"augment": 3}, "augment of a task must be a function, not 3"),
        ({"metrics": {"loss": 1}}, "the metric 'loss' has the name of one that is always counted"),
        ({"metrics": {"f1": 1}}, "the metric 'f1' must be a tunas.Metric or a torchmetrics object, not 1"),
    ],
)
def test_a_task_that_cannot_be_one_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        task(**settings)


def test_loss_and_quality_are_needed():
    with pytest.raises(InputError, match="quality of a task must be a function, not None"):
        Task(Noisy(2), Noisy(2), loss=mean, quality=None)


class Failing(Noisy):
    def __getitem__(self, place):
        return super().__getitem__(place if place != 2 else 99)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"train": Failing(5)},
            r"example 2 of train cannot be read: IndexError: list index out of range \(test_task_str",
        ),
        ({"train": [(torch.ones(n), 0) for n in (2, 3)]}, r"examples of train cannot be put into a batch: RuntimeErr"),
        ({"train": [1.0, 2.0, 3.0]}, r"a batch of train must be a pair \(inputs, targets\), not Tensor"),
        ({"train": [(1, 2, 3)] * 4}, r"a batch of train must be a pair \(inputs, targets\), not 3 parts"),
        ({"train": [(1, "a")] * 4}, "in a batch of train: a batch holds tensors, .*, not str"),
        ({"collate": lambda examples: (torch.zeros(3), torch.zeros(4))}, r"a batch of 4 examples .*, not 3, 4"),
    ],
)
def test_examples_that_make_no_batch_end_the_run_with_a_sentence(settings, sentence, workers):
    stream = task(**settings).with_workers(workers).once("train", 4)
    with pytest.raises(InputError, match=sentence):
        list(stream)


def test_a_dataset_that_shrinks_is_noticed():
    shrinking = Noisy(23)
    stream = task(shrinking).stream("train", 4, seed=0)
    next(stream)
    shrinking.numbers.pop()
    with pytest.raises(InputError, match="the dataset given as train had 23 examples when the run began, and has 22"):
        next(stream)


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(InputError, match="task has no split 'test'; it has train, valid, full_train"):
        Task(Noisy(2), Noisy(2), loss=mean, quality=mean).size("test")
