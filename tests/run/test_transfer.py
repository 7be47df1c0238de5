"""The next batch is on its way while one is worked on."""

import torch

from tunas.run.transfer import arriving, staggered


def test_the_next_item_has_begun_before_one_is_finished():
    log = []

    def begin(item):
        log.append(f"begin {item}")
        return item

    def finish(item):
        log.append(f"finish {item}")
        return 10 * item

    found = []
    for result in staggered(range(3), begin, finish):
        log.append(f"use {result}")
        found.append(result)
    assert found == [0, 10, 20]
    assert log == [
        *("begin 0", "begin 1", "finish 0", "use 0"),
        *("begin 2", "finish 1", "use 10"),
        *("finish 2", "use 20"),
    ]
    assert list(staggered([7], begin, finish)) == [70] and list(staggered([], begin, finish)) == []


def test_on_a_processor_a_batch_is_the_one_that_was_given_and_none_is_read_ahead():
    read = []

    def batches():
        for number in range(3):
            read.append(number)
            yield (torch.full((2,), number), {"target": torch.full((2,), number)})

    for number, (inputs, targets) in enumerate(arriving(batches(), torch.device("cpu"))):
        assert read == list(range(number + 1))
        assert inputs.tolist() == targets["target"].tolist() == [number, number]
