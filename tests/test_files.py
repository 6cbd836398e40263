import errno
import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from kanlib import files
from kanlib.errors import BadInputError


def test_bytes_are_written_whole_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "new" / "folder" / "rows.json"
    files.write_whole(target, b"one")
    files.write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert [file.name for file in target.parent.iterdir()] == ["rows.json"]


def test_what_is_written_is_for_all_who_may_read_the_folder(tmp_path):
    files.write_whole(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), RuntimeError("half")])
def test_a_write_that_fails_half_way_harms_nothing(tmp_path, monkeypatch, error):
    target = tmp_path / "symbolic.json"
    target.write_bytes(b"earlier")
    write = Path.write_bytes

    def half(path, content):
        write(path, content[:2])
        assert target.read_bytes() == b"earlier"
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises((BadInputError, KeyboardInterrupt, RuntimeError)):
        files.write_whole(target, b"later")
    assert [path.name for path in tmp_path.iterdir()] == ["symbolic.json"]
    assert target.read_bytes() == b"earlier"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_that_says_how_much_is_missing(tmp_path, monkeypatch, number):
    def full(path, content):
        raise OSError(number, "no room")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BadInputError, match=r"the disk is full: x takes 2 kB and \d\S* \w+ are free; make room"):
        files.write_whole(tmp_path / "no" / "x", bytes(2000))


def test_a_folder_that_takes_no_files_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"x cannot be written \(\w+Error: .*mend its permissions"):
        files.write_whole(tmp_path / "file" / "x", b"")


def test_a_json_value_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "rows.json"
    files.write_json(target, [{"größe": 1.5}])
    assert target.read_text(encoding="utf8") == '[\n {\n  "größe": 1.5\n }\n]\n'
    with pytest.raises(TypeError):
        files.write_json(target, [object()])
    assert json.loads(target.read_text(encoding="utf8")) == [{"größe": 1.5}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def hold(folder, begun):
    with files.alone(folder):
        begun.set()
        time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Another process that has the folder."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=hold, args=(tmp_path, begun))
    process.start()
    assert begun.wait(120)
    yield process
    process.kill()
    process.join()


def test_a_folder_belongs_to_one_process_and_a_killed_one_leaves_no_lock(tmp_path, other):
    with pytest.raises(BadInputError, match=rf"another run is at work here \(process {other.pid}, since "):
        files.alone(tmp_path).__enter__()
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with files.alone(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text(encoding="utf8")
    with files.alone(tmp_path):
        pass
