"""TensorBoard event files: one event per logged step, none missing and none doubled after a resume; and reading them back."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tunas.data.crc32c import masked_crc32c

PATTERN = "events.out.tfevents.*"


class EventLog:
    """Writes scalars into a run directory.

    A checkpoint stores `sizes()`; on resuming, `cut_back` to these drops whatever was logged after the checkpoint.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._writer = EventFileWriter(str(directory))

    def log(self, step: int, scalars: Iterable[tuple[str, float]]) -> None:
        """One event with all `scalars` (tag, value) of `step`."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def sizes(self) -> dict[str, int]:
        """Bytes of every event file once all that was logged is in them."""
        self._writer.flush()
        return {path.name: path.stat().st_size for path in self.directory.glob(PATTERN)}

    def close(self) -> None:
        self._writer.close()


def cut_back(directory: Path, sizes: dict[str, int]) -> None:
    """Brings the event files back to `sizes`: longer ones are cut, ones not named are removed."""
    for path in directory.glob(PATTERN):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            with open(path, "r+b") as file:
                file.truncate(sizes[path.name])


def read_events(directory: Path) -> tuple[dict[int, dict[str, float]], list[str]]:
    """(step -> tag -> value, warnings) of all scalars logged in a run directory.

    A truncated or damaged file is read up to the damage, which the warnings name.
    """
    scalars: dict[int, dict[str, float]] = {}
    warnings: list[str] = []
    for path in sorted(directory.glob(PATTERN)):
        for event in _events(path, warnings):
            if event.HasField("summary"):
                scalars.setdefault(event.step, {}).update((value.tag, _scalar(value)) for value in event.summary.value)
    return scalars, warnings


def _scalar(value: Summary.Value) -> float:
    if value.WhichOneof("value") == "tensor" and len(value.tensor.float_val) == 1:
        return value.tensor.float_val[0]
    return value.simple_value


def _events(path: Path, warnings: list[str]) -> Iterator[Event]:
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
