"""The rooms of the package import each other as docs/architecture.md says."""

import re

import pytest
import rooms


@pytest.mark.parametrize("room", sorted(rooms.room_graph()))
def test_a_room_imports_what_the_page_lets_it(room: str) -> None:
    rules = rooms.rules()
    assert room in rules, f"docs/architecture.md does not list the room {room}"
    assert rooms.room_graph()[room] <= rules[room]


def test_every_room_on_the_page_exists() -> None:
    assert rooms.rules().keys() == rooms.room_graph().keys()


def test_every_file_on_the_page_exists() -> None:
    files = re.findall(r"`([\w/]+\.py)`", rooms.PAGE.read_text())
    assert (
        files
        and [file for file in files if not any((top / file).is_file() for top in (rooms.ROOT, rooms.PACKAGE))] == []
    )


def test_no_files_import_each_other_in_a_ring() -> None:
    assert rooms.cycle() == []


def test_the_picture_shows_the_imports_of_today() -> None:
    assert rooms.PICTURE.search(rooms.PAGE.read_text())[0] == rooms.picture(), "draw it anew: python tools/rooms.py"
