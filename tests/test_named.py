"""Code that a user names as `file.py:name`, here and in other processes."""

import pickle
import sys

from support.jobs import DOTS
from tunas.named import LoadedFiles, load_named


def test_what_a_file_defines_can_be_read_by_a_process_that_has_not_run_it(monkeypatch):
    dataset = load_named(f"{DOTS}:Dots", "dataset")(9, seed=0)
    sent = pickle.dumps((LoadedFiles(), dataset))
    monkeypatch.delitem(sys.modules, type(dataset).__module__)  # as in a new process
    _, received = pickle.loads(sent)
    assert type(received) is not type(dataset)
    assert received.places.equal(dataset.places)


def test_two_files_of_one_name_are_both_read_elsewhere(tmp_path, monkeypatch):
    sent = []
    for number in (1, 2):
        file = tmp_path / str(number) / "mine.py"
        file.parent.mkdir()
        file.write_text(f"class Mine:\n    number = {number}\n")
        sent.append(load_named(f"{file}:Mine", "class")())
    data = pickle.dumps((LoadedFiles(), sent))
    for each in sent:
        monkeypatch.delitem(sys.modules, type(each).__module__)
    assert [each.number for each in pickle.loads(data)[1]] == [1, 2]
