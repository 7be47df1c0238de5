"""TensorBoard event files: one event per logged step, none missing and none doubled after a resume; and reading them
back.

They are written here and not by TensorBoard's writer, whose thread would report a full disk late or never.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.summary import text as text_summary

from tunas.data.crc32c import masked_crc32c
from tunas.files import make_directory, writing_to
from tunas.run.trackers import Tracker

PATTERN = "events.out.tfevents.*"
HYPERPARAMETERS = "hparams"


class EventLog:
    """Writes scalars into a run directory, a new file each session, made when there is something to log.

    A checkpoint stores `sizes()`; on resuming, `cut_back` to these drops whatever was logged after the checkpoint.

    Args:
        directory: of the run.
        trackers: are given the same scalars.
    """

    def __init__(self, directory: Path, trackers: Sequence[Tracker] = ()):
        self.directory = directory
        self.trackers = trackers
        self._file: BinaryIO | None = None

    def log(self, step: int, scalars: Iterable[tuple[str, float]], texts: Mapping[str, str] | None = None) -> None:
        """One event with all `scalars` (tag, value) of `step`, and lines of text for TensorBoard's page of texts.

        Raises:
            InputError: where the disk is full or the directory cannot be written.
        """
        values = dict(scalars)
        summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        for tag, text in (texts or {}).items():
            summary.extend(text_summary(tag, text).value)
        self._write(step, summary)
        for tracker in self.trackers:
            tracker.log(step, values)

    def _write(self, step: int, values: Iterable[Summary.Value]) -> None:
        with writing_to(self.directory):
            if self._file is None:
                self._file = _new_file(self.directory)
                self._file.write(record(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()))
            self._file.write(
                record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
            )
            self._file.flush()

    def sizes(self) -> dict[str, int]:
        """Bytes of every event file, once all that was logged is on the disk."""
        if self._file is not None:
            with writing_to(self.directory):
                os.fsync(self._file.fileno())
        return {path.name: path.stat().st_size for path in self.directory.glob(PATTERN)}

    def close(self) -> None:
        """Ends the file and the trackers."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # `log` has reported it
                self._file.close()
        for tracker in self.trackers:
            tracker.close()


def log_hyperparameters(directory: Path, values: Mapping[str, Any], results: Mapping[str, float]) -> None:
    """What a run was told and what it came to, for TensorBoard's page of hyperparameters: in a directory of its own, as
    it belongs to no step.

    Raises:
        InputError: where the disk is full or the directory cannot be written.
    """
    folder = make_directory(directory / HYPERPARAMETERS)
    for path in folder.glob(PATTERN):
        path.unlink()
    events = EventLog(folder)
    plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
    for summary in hparams(plain, dict(results)):
        events._write(0, summary.value)
    events.close()


def record(payload: bytes) -> bytes:
    """A TFRecord: length, its checksum, payload, its checksum."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc32c(length)) + payload + struct.pack("<I", masked_crc32c(payload))


def _new_file(directory: Path) -> BinaryIO:
    """Named as TensorBoard names them; never one that is there, even where a restarted container has the same process
    number."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            moment, process = f"{int(time.time()):010d}", f"{socket.gethostname()}.{os.getpid()}"
            return open(directory / f"events.out.tfevents.{moment}.{process}.{number}", "xb")
    raise AssertionError


def cut_back(directory: Path, sizes: dict[str, int]) -> list[str]:
    """Brings the event files back to `sizes`: longer ones are cut, and those that are not named are removed.

    Returns:
        Warnings of what is lost.
    """
    for path in directory.glob(PATTERN):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            with open(path, "r+b") as file:
                file.truncate(sizes[path.name])
    lost = [
        name
        for name, size in sorted(sizes.items())
        if not (directory / name).exists() or (directory / name).stat().st_size < size
    ]
    return [f"{directory / name} has lost entries that were in it when the checkpoint was written" for name in lost]


def read_events(directory: Path) -> tuple[dict[int, dict[str, float]], list[str]]:
    """(step -> tag -> value, warnings) of all scalars logged in a run directory.

    A truncated or damaged file is read up to the damage, which the warnings name.
    """
    scalars: dict[int, dict[str, float]] = {}
    warnings: list[str] = []
    for path in sorted(directory.glob(PATTERN)):
        for event in events_of(path, warnings):
            if event.HasField("summary"):
                found = ((value.tag, _scalar(value)) for value in event.summary.value if _is_scalar(value))
                scalars.setdefault(event.step, {}).update((tag, number) for tag, number in found if number is not None)
    return scalars, warnings


def _is_scalar(value: Summary.Value) -> bool:
    """Whether it is neither a text nor what TensorBoard's page of hyperparameters is made of."""
    plugin = value.metadata.plugin_data.plugin_name
    return value.WhichOneof("value") == "simple_value" or plugin in ("", "scalars")


def _scalar(value: Summary.Value) -> float | None:
    """The number, in either form that TensorFlow writes: simple value, or tensor with values or with raw content; None
    of what is no number, such as a histogram."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor":
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        array = make_ndarray(value.tensor)
    except (TypeError, ValueError):  # of a kind that holds no numbers, or cut off
        return None
    return float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "fiub" else None


def events_of(path: Path, warnings: list[str]) -> Iterator[Event]:
    """The events of a file, up to where it is damaged, which is added to the warnings."""
    try:
        content = path.read_bytes()
    except OSError as error:
        warnings.append(f"cannot read {path}: {error.strerror}")
        return
    place = 0
    while place < len(content):
        header = content[place : place + 12]
        length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
        payload = content[place + 12 : place + 12 + length]
        footer = content[place + 12 + length : place + 16 + length]
        if len(header) < 12 or len(payload) < length or len(footer) < 4:
            warnings.append(f"{path} ends within a record at byte {place}; read up to there")
            return
        sums = struct.unpack("<I", header[8:])[0], struct.unpack("<I", footer)[0]
        if sums != (masked_crc32c(header[:8]), masked_crc32c(payload)):
            warnings.append(f"{path} is damaged at byte {place}; read up to there")
            return
        try:
            yield Event.FromString(payload)
        except Exception as error:  # protobuf's decode error has moved between its versions
            warnings.append(f"{path} holds a record at byte {place} that is no event ({error}); read up to there")
            return
        place += 16 + length
