"""Hundreds of files such as a stranger might send: each is refused with a sentence, or taken for what it says."""

import os

import pytest

from tests import hostile

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("door", hostile.doors(), ids=lambda door: door.name)
def test_whatever_comes_is_refused_or_right(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hostile.watched() as started:
        counts = hostile.fuzz(door, 60, tmp_path / "sent")
    assert started == []
    assert counts["refused"] > 10


def test_an_input_that_is_taken_for_something_else_is_seen(tmp_path):
    def opened(sent, folder):
        if sent == "command":
            (folder.parent / "executed").touch()
        hostile.agree(sent != "silent")
        if sent == "traceback":
            raise KeyError(sent)
        if sent == "hang":
            raise hostile.Hang

    door = hostile.Door("any", None, opened)
    for sent in ("silent", "traceback", "hang"):
        assert hostile.outcome(door, sent, tmp_path / "sent") == sent
    assert hostile.outcome(door, "right", tmp_path / "sent") == "sound"


def test_a_command_that_is_started_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hostile.watched() as started:
        (tmp_path / "executed").touch()
    assert started == ["executed"]
    with hostile.watched() as started:
        (tmp_path / "executed").unlink()
        os.system("true")  # noqa: S605, S607 (what is to be seen)
    assert started == ["os.system"]
