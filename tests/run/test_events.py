import struct

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_INT64, DT_STRING

from tunas.run.events import PATTERN, EventLog, cut_back, read_events, record


def logged(directory, *steps):
    events = EventLog(directory)
    for step in steps:
        events.log(step, [("loss", step / 3), ("rlpathlogits/a/0", -step)])
    sizes = events.sizes()
    events.close()
    return sizes


def the_file(directory):
    (path,) = directory.glob(PATTERN)
    return path


def test_what_was_logged_is_read_back_as_float32(tmp_path):
    logged(tmp_path, 0, 1, 2)
    scalars, warnings = read_events(tmp_path)
    assert warnings == [] and list(scalars) == [0, 1, 2]
    assert scalars[1] == {"loss": pytest.approx(1 / 3, rel=1e-7), "rlpathlogits/a/0": -1.0}


def test_tensorboard_reads_the_files(tmp_path):
    logged(tmp_path, 4, 5)
    events = list(EventFileLoader(str(the_file(tmp_path))).Load())
    assert events[0].file_version == "brain.Event:2"
    assert [event.step for event in events[1:]] == [4, 5]
    assert [value.tag for value in events[1].summary.value] == ["loss", "rlpathlogits/a/0"]


def test_an_entry_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    events = EventLog(tmp_path)
    for step in range(3):
        events.log(step, [("loss", 1.0)])
        assert list(read_events(tmp_path)[0]) == list(range(step + 1))


def test_a_session_that_logs_nothing_leaves_no_file(tmp_path):
    events = EventLog(tmp_path)
    assert events.sizes() == {}
    events.close()
    assert not list(tmp_path.iterdir())


def test_sessions_in_the_same_second_and_process_have_files_of_their_own(tmp_path):
    for step in range(4):
        logged(tmp_path, step)
    assert len(list(tmp_path.glob(PATTERN))) == 4 and sorted(read_events(tmp_path)[0]) == [0, 1, 2, 3]


def test_cutting_back_drops_what_came_after_the_checkpoint(tmp_path):
    events = EventLog(tmp_path)
    events.log(0, [("loss", 1.0)])
    sizes = events.sizes()
    events.log(1, [("loss", 2.0)])
    events.close()
    logged(tmp_path, 2)
    assert cut_back(tmp_path, sizes) == []
    assert list(read_events(tmp_path)[0]) == [0] and len(list(tmp_path.glob(PATTERN))) == 1


def test_cutting_back_says_what_is_missing(tmp_path):
    sizes = logged(tmp_path, 0, 1)
    path = the_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    assert [path.name in warning for warning in cut_back(tmp_path, sizes)] == [True]
    path.unlink()
    assert [path.name in warning for warning in cut_back(tmp_path, sizes)] == [True]


def test_a_file_with_a_flipped_byte_anywhere_is_read_up_to_the_damage_with_a_warning(tmp_path):
    logged(tmp_path, 0, 1, 2)
    path = the_file(tmp_path)
    whole, (scalars, _) = path.read_bytes(), read_events(tmp_path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        found, warnings = read_events(tmp_path)
        assert len(warnings) == 1 and str(path) in warnings[0]
        assert list(found) == list(scalars)[: len(found)] and all(found[step] == scalars[step] for step in found)


def test_a_file_cut_short_anywhere_is_read_up_to_there(tmp_path):
    logged(tmp_path, 0, 1, 2)
    path = the_file(tmp_path)
    whole, (scalars, _) = path.read_bytes(), read_events(tmp_path)
    silent = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, warnings = read_events(tmp_path)
        silent += not warnings
        assert list(found) == list(scalars)[: len(found)] and all(found[step] == scalars[step] for step in found)
    assert silent == 4, (
        "only a cut between two records (before the first, or after one of them but the last) is no damage"
    )


def test_damage_in_one_session_leaves_the_others_whole(tmp_path):
    logged(tmp_path, 0, 1)
    path = the_file(tmp_path)
    logged(tmp_path, 2, 3)
    path.write_bytes(path.read_bytes()[:-5])
    scalars, warnings = read_events(tmp_path)
    assert list(scalars) == [0, 2, 3] and len(warnings) == 1


def test_a_full_disk_is_one_sentence(small_disk):
    from tunas import InputError

    events = EventLog(small_disk)
    with pytest.raises(InputError, match="No space left on device"):
        for step in range(1000):
            events.log(step, [(f"a-long-tag/{number}", 1.0) for number in range(200)])
    events.close()
    scalars, warnings = read_events(small_disk)
    assert len(warnings) == 1 and sorted(scalars) == list(range(step))


def written(directory, *events):
    (directory / "events.out.tfevents.1.host").write_bytes(b"".join(record(e.SerializeToString()) for e in events))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(dtype=DT_FLOAT, tensor_content=struct.pack("<f", 0.25)),  # as TensorFlow 2 writes
        TensorProto(dtype=DT_DOUBLE, tensor_content=struct.pack("<d", 0.25)),
        TensorProto(dtype=DT_FLOAT, float_val=[0.25]),
        TensorProto(dtype=DT_FLOAT, tensor_shape={"dim": [{"size": 1}]}, tensor_content=struct.pack("<f", 0.25)),
    ],
)
def test_scalars_of_tensorflow_2_are_read(tmp_path, tensor):
    written(tmp_path, Event(step=3, summary=Summary(value=[Summary.Value(tag="loss", tensor=tensor)])))
    assert read_events(tmp_path) == ({3: {"loss": 0.25}}, [])


def test_whole_numbers_of_tensorflow_2_are_read_as_numbers(tmp_path):
    tensor = TensorProto(dtype=DT_INT64, tensor_content=struct.pack("<q", 7))
    written(tmp_path, Event(step=3, summary=Summary(value=[Summary.Value(tag="step", tensor=tensor)])))
    assert read_events(tmp_path)[0] == {3: {"step": 7.0}}


@pytest.mark.parametrize(
    "value",
    [
        {"tensor": TensorProto(dtype=DT_FLOAT, tensor_content=b"\0\0")},
        {"tensor": TensorProto(dtype=DT_STRING, string_val=[b"text"])},
        {"tensor": TensorProto(dtype=DT_FLOAT, tensor_shape={"dim": [{"size": 2}]}, tensor_content=bytes(8))},
        {"histo": {"min": 1.0}},
        {},
    ],
)
def test_what_is_no_number_is_not_read_as_zero(tmp_path, value):
    written(tmp_path, Event(step=3, summary=Summary(value=[Summary.Value(tag="loss", **value)])))
    assert read_events(tmp_path)[0].get(3, {}) == {}
