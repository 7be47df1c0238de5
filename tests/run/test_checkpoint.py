import random
import subprocess

import numpy as np
import pytest
import torch

from support.runs import ALONE
from tunas import InputError
from tunas.errors import DivergedError
from tunas.files import write_whole
from tunas.run.checkpoint import (
    DamagedCheckpoint,
    load_checkpoint,
    newest_checkpoint,
    resumed_checkpoint,
    save_checkpoint,
)
from tunas.run.checkpoint_names import checkpoints


def state(step: int) -> dict[str, torch.Tensor]:
    weights, empty = torch.full((3, 5), float(step)), torch.empty(0, dtype=torch.float64)
    return {"weights": weights, "counts": torch.arange(step, step + 4), "empty": empty}


def save(directory, step, **numbers):
    return save_checkpoint(directory, step, state(step), {"events": {}, **numbers})


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    tensors = {
        "float32": torch.randn(4, 3).t(),
        "float64": torch.randn(2, dtype=torch.float64),
        "bfloat16": torch.randn(5).bfloat16(),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
    }
    numbers = {"accuracy": 0.1 + 0.2, "events": {"a": 3}, "controller": {"num_updates": 4}}
    found, found_numbers = load_checkpoint(save_checkpoint(tmp_path, 12, tensors, numbers))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    assert {name: found_numbers[name] for name in (*numbers, "step")} == {**numbers, "step": 12}


def test_the_newest_three_stay(tmp_path):
    for step in (2, 9, 10, 11, 100):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"checkpoint-{step:010d}.safetensors" for step in (100, 11, 10)
    ]


@pytest.fixture
def few_states(monkeypatch):
    """A checkpoint of some 500 bytes: the states of the random generators are 25,000 more, each as good as another."""
    monkeypatch.setattr("tunas.run.checkpoint.random_states", lambda: {"python": [3, [1, 2], None], "torch": "09af"})


def test_a_checkpoint_with_a_flipped_byte_anywhere_is_damaged_or_the_same(tmp_path, few_states):
    path = save(tmp_path, 5)
    whole, (tensors, numbers) = path.read_bytes(), load_checkpoint(path)
    flipped = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            found, found_numbers = load_checkpoint(path)
        except DamagedCheckpoint:
            flipped += 1
            continue
        assert (
            found_numbers == numbers
            and found.keys() == tensors.keys()
            and all(torch.equal(found[n], tensors[n]) for n in tensors)
        )
    assert flipped > 0.9 * len(whole)


def test_a_checkpoint_cut_short_anywhere_is_damaged(tmp_path, few_states):
    path = save(tmp_path, 5)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"{}" * 99, np.random.default_rng(0).bytes(5000), b"\xff" * 64])
def test_something_else_under_the_name_is_damaged(tmp_path, content):
    path = save(tmp_path, 5)
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(path)


def test_a_checkpoint_of_other_numbers_is_damaged(tmp_path):
    """Swapping the numbers of two checkpoints, each well formed, is noticed."""
    one, other = save(tmp_path, 5, accuracy=0.25), save(tmp_path, 6, accuracy=0.75)
    other.write_bytes(other.read_bytes().replace(b"0.75", b"0.25"))
    load_checkpoint(one)
    with pytest.raises(DamagedCheckpoint, match="checksum"):
        load_checkpoint(other)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(tmp_path, capsys):
    for step in (1, 2, 3):
        path = save(tmp_path, step)
    path.write_bytes(path.read_bytes()[:100])
    found = resumed_checkpoint(tmp_path, ALONE)
    assert found is not None and found[1]["step"] == 2 and torch.equal(found[0]["weights"], state(2)["weights"])
    assert f"passing over a damaged checkpoint: {path}" in capsys.readouterr().err
    assert not path.exists(), "the damaged one must not count as newer than what follows"


def test_a_run_with_only_damaged_checkpoints_is_refused_in_one_sentence(tmp_path):
    for step in (1, 2):
        save(tmp_path, step).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged \(2 of them\)") as caught:
        newest_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(checkpoints(tmp_path)) == 2


def test_no_checkpoint_means_a_fresh_start(tmp_path):
    (tmp_path / "checkpoint-12.safetensors").write_bytes(b"not our name")
    assert resumed_checkpoint(tmp_path, ALONE) is None


def test_what_a_killed_write_left_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".checkpoint-0000000002.safetensors.abc.partial").write_bytes(b"half")
    resumed_checkpoint(tmp_path, ALONE)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0000000001.safetensors"]


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(DivergedError, match=r"weights is not finite after step 1;"):
        save_checkpoint(tmp_path, 2, {"weights": torch.tensor([1.0, float("nan")])}, {})
    assert newest_checkpoint(tmp_path)[1]["step"] == 1


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_whole(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(small_disk):
    save(small_disk, 1)
    with pytest.raises(InputError, match="No space left on device"):
        save_checkpoint(small_disk, 2, {"weights": torch.zeros(2**20)}, {"events": {}})
    assert newest_checkpoint(small_disk)[1]["step"] == 1
    assert len(list(small_disk.iterdir())) == 1, "what was half-written is gone"


def test_a_read_only_directory_is_one_sentence(small_disk):
    save(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        save(small_disk, 2)
    assert newest_checkpoint(small_disk)[1]["step"] == 1


def test_the_global_random_generators_go_on_where_the_checkpoint_was_taken(tmp_path):
    def draws():
        return [random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(2).tolist()]

    draws()
    save_checkpoint(tmp_path, 1, {"weights": torch.zeros(2)}, {"events": {}})
    expected = draws()
    draws()
    resumed_checkpoint(tmp_path, ALONE)
    assert draws() == expected
