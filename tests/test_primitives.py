"""More code of oneDNN's is kept, unless the user says how much."""

import os

from tunas.primitives import CAPACITY, keep_primitives

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    keep_primitives()
    assert os.environ[NAME] == str(CAPACITY)
    monkeypatch.setenv(NAME, "7")
    keep_primitives()
    assert os.environ[NAME] == "7"
