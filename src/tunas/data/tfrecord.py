"""TFRecord files and tf.Example messages, without TensorFlow.

A record is its length (uint64, little endian), the masked CRC-32C of these 8 bytes, the payload, and the masked CRC-32C
of the payload (TensorFlow, "TFRecord and tf.train.Example").
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np

from tunas.data.crc32c import masked_crc32c
from tunas.data.examples import BadImageError
from tunas.data.storage import open_binary, patiently, size_of, storage_error
from tunas.errors import InputError

HEADER = 12
"""Bytes in front of a payload."""
FOOTER = 4
"""Bytes behind it."""


def record_places(path: str) -> np.ndarray:
    """int64 `[records, 2]`: offset and length in bytes of every record of a file, header and checksums included.

    Reads the headers alone; payloads are checked when they are used.

    Raises:
        InputError: with file and offset, where the file cannot be read, ends within a record, or a length's checksum is
        wrong.
        TemporaryError: where the storage does not answer.
    """
    try:
        return patiently(lambda: _record_places(path))
    except OSError as error:
        raise storage_error(path, error) from None


def _record_places(path: str) -> np.ndarray:
    """`record_places`, asked for once."""
    places = []
    end = size_of(path)
    with open_binary(path) as file:
        offset = 0
        while offset < end:
            file.seek(offset)
            header = file.read(HEADER)
            length = HEADER + _payload_length(header, path, offset) + FOOTER
            if offset + length > end:
                raise InputError(
                    f"{path} is cut short: the record at byte {offset} takes {length} bytes, {end - offset} are there"
                )
            places.append((offset, length))
            offset += length
    return np.array(places, np.int64).reshape(-1, 2)


def _payload_length(header: bytes, path: str, offset: int) -> int:
    if len(header) < HEADER:
        raise InputError(f"{path} is cut short within the record at byte {offset}")
    length, checksum = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != checksum:
        raise InputError(
            f"{path} is damaged, or no TFRecord file: the checksum of the record length at byte {offset} is wrong"
        )
    return length


def record_payload(record: bytes) -> memoryview:
    """The payload of one whole record.

    Raises:
        BadImageError: where a checksum or the length is wrong.
    """
    if len(record) < HEADER + FOOTER:
        raise BadImageError("the record is cut short")
    length, checksum = struct.unpack_from("<QI", record)
    if masked_crc32c(record[:8]) != checksum or length != len(record) - HEADER - FOOTER:
        raise BadImageError("the record's length is damaged")
    payload = memoryview(record)[HEADER:-FOOTER]
    if masked_crc32c(payload) != struct.unpack_from("<I", record, HEADER + length)[0]:
        raise BadImageError("the record's checksum is wrong")
    return payload


def parse_example(payload: bytes | memoryview) -> Any:
    """The features of a serialized tf.Example: a mapping from name to a message with bytes_list, float_list and
    int64_list.

    Raises:
        BadImageError: where it is none.
    """
    from google.protobuf.message import DecodeError

    message = example_type()()
    try:
        message.ParseFromString(bytes(payload))
    except DecodeError:
        raise BadImageError("the record is no tf.Example") from None
    return message.features.feature


@functools.cache
def example_type() -> Any:
    """The message class of tf.Example: features of a name each, which are a list of bytes, of floats or of integers.

    Described here field by field, in a descriptor pool of its own: nothing else that knows the message can clash with
    it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tunas/example.proto", package="tunas.tf", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, Any, bool]) -> Any:
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            entry = message.field.add(name=field_name, number=number)
            entry.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            entry.type = field.TYPE_MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                entry.type_name = f".tunas.tf.{kind}"
        return message

    add("BytesList", ("value", 1, field.TYPE_BYTES, True))
    add("FloatList", ("value", 1, field.TYPE_FLOAT, True))
    add("Int64List", ("value", 1, field.TYPE_INT64, True))
    kinds = (
        ("bytes_list", 1, "BytesList", False),
        ("float_list", 2, "FloatList", False),
        ("int64_list", 3, "Int64List", False),
    )
    feature = add("Feature", *kinds)
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    features = add("Features", ("feature", 1, "Features.FeatureEntry", True))
    entry_type = features.nested_type.add(name="FeatureEntry")
    entry_type.options.map_entry = True
    entry_type.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry_type.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tunas.tf.Feature", label=field.LABEL_OPTIONAL
    )
    add("Example", ("features", 1, "Features", False))

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tunas.tf.Example"))
