"""TFRecord files: checksums, places of records, tf.Example; every damage is found, with file and offset."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rendered import example, opened, record, write_tfds
from tunas import InputError
from tunas.data.crc32c import crc32c, crc32c_by_table, masked_crc32c
from tunas.data.examples import BadImageError
from tunas.data.tfrecord import parse_example, record_payload, record_places


def bitwise_crc32c(content: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("checksum", [crc32c, crc32c_by_table])
def test_checksums_are_those_of_the_standard(checksum):
    """RFC 3720 §B.4."""
    assert checksum(bytes(32)) == 0x8A9136AA
    assert checksum(b"\xff" * 32) == 0x62A8AB43
    assert checksum(bytes(range(32))) == 0x46DD794E
    assert checksum(b"123456789") == 0xE3069283


@given(st.binary(max_size=1600))
@settings(max_examples=60, deadline=None)
def test_checksums_agree_with_the_definition(content):
    assert crc32c_by_table(content) == crc32c(content) == bitwise_crc32c(content)


@pytest.mark.parametrize("length", [512 * 512 - 1, 512 * 512, 512 * 512 + 3, 600_001])
def test_checksums_of_long_contents_agree_with_the_definition(length):
    content = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c_by_table(content) == bitwise_crc32c(content)


def test_a_record_is_framed_as_tensorflow_frames_it():
    """Bytes of `tf.io.TFRecordWriter` for the payload b"abc"."""
    assert record(b"abc")[:8] == struct.pack("<Q", 3)
    assert record_payload(record(b"abc")) == b"abc"
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def test_places_of_records_are_found(tmp_path):
    path = tmp_path / "a.tfrecord"
    payloads = [b"", b"x" * 5, b"y" * 3000]
    path.write_bytes(b"".join(record(payload) for payload in payloads))
    places = record_places(str(path))
    assert places.tolist() == [[0, 16], [16, 21], [37, 3016]]
    content = path.read_bytes()
    assert [bytes(record_payload(content[start : start + length])) for start, length in places] == payloads
    (tmp_path / "empty").write_bytes(b"")
    assert record_places(str(tmp_path / "empty")).shape == (0, 2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is cut short: the record at byte 21 takes 22 bytes, 21 are there"),
        (lambda content: content[:25], "is cut short within the record at byte 21"),
        (lambda content: content[:22] + b"\x01" + content[23:], "checksum of the record length at byte 21 is wrong"),
        (lambda content: b"PK" + content, "no TFRecord file: the checksum of the record length at byte 0 is wrong"),
    ],
)
def test_damaged_frames_are_found_with_file_and_offset(tmp_path, damage, message):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(damage(record(b"12345") + record(b"123456")))
    with pytest.raises(InputError, match=message) as caught:
        record_places(str(path))
    assert str(path) in str(caught.value)


@given(st.binary(min_size=1, max_size=40), st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_found(payload, data):
    content = bytearray(record(payload))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadImageError):
        record_payload(bytes(content))


def test_a_damaged_payload_is_found_when_it_is_read(tmp_path, pictures):
    root = write_tfds(tmp_path, pictures)
    path = root / "shapes" / "1.0.0" / "shapes-train.tfrecord-00001-of-00003"
    offset, length = record_places(str(path))[2]
    content = bytearray(path.read_bytes())
    content[offset + length // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name} at byte {offset}: the record's checksum is wrong"):
        list(opened(root).once("full_train", 16))
    assert sum(len(labels) for _, labels in opened(root, on_bad_image="skip").once("full_train", 16)) == 79


def test_examples_are_parsed(pictures):
    features = parse_example(example(pictures.train[3]))
    assert features["image"].bytes_list.value[0] == pictures.train[3].encoded
    assert list(features["label"].int64_list.value) == [pictures.train[3].label]


def test_an_example_in_tensorflow_s_own_bytes_is_parsed():
    """Serialized by hand from the published message definition: feature "label" with the int64 list [7, -1]."""
    int64_list = b"\x0a\x0b" + b"\x07" + b"\xff" * 9 + b"\x01"  # packed varints
    feature = b"\x1a" + bytes([len(int64_list)]) + int64_list
    entry = b"\x0a\x05label" + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    parsed = parse_example(b"\x0a" + bytes([len(features)]) + features)
    assert list(parsed["label"].int64_list.value) == [7, -1]


def test_bytes_that_are_no_example_are_refused(tmp_path, pictures):
    with pytest.raises(BadImageError, match=r"no tf.Example"):
        parse_example(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: each.features.feature.pop("label"), "has no 'image' with a 'label'"),
        (
            lambda each: each.features.feature["label"].int64_list.value.append(1),
            r"label \[0, 1\] is not one number from 0 to 3",
        ),
        (lambda each: each.features.feature["image"].bytes_list.value.append(b""), "holds 2 images under 'image'"),
    ],
)
def test_examples_without_one_image_and_one_label_are_refused(tmp_path, pictures, change, message):
    from tunas.data.tfrecord import example_type

    root = write_tfds(tmp_path, pictures, shards=1)
    path = root / "shapes" / "1.0.0" / "shapes-train.tfrecord-00000-of-00001"
    message_of_first = example_type().FromString(example(pictures.train[0]))
    change(message_of_first)
    rest = path.read_bytes()[record_places(str(path))[0][1] :]
    path.write_bytes(record(message_of_first.SerializeToString()) + rest)
    with pytest.raises(InputError, match=message):
        list(opened(root).once("full_train", 8))
