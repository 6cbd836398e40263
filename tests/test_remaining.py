import json
import os

import pytest

from book.remaining import remaining
from kanlib import files, setups, store

SETUP = "digits_resnet18"


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path)
    (tmp_path / ".lock").touch()
    os.utime(tmp_path / ".lock", (0, 0))
    knobs = setups.Perturbation(n_examples=64, block=16)
    monkeypatch.setattr(setups.Perturbation, "from_setup", lambda setup: knobs)


def done(kind, shard, seconds):
    target = store.circumstances(store.path(setups.shard_folder(SETUP, shard), kind))
    files.write_json(target, {"seconds": seconds})
    assert json.loads(target.read_text(encoding="utf8"))["seconds"] == seconds


def test_nothing_is_known_before_the_first_shard():
    assert remaining(SETUP, 4) == (
        "digits_resnet18: 0 of 16 shards are there; those of 01_perturbation, 02_surrogate, 03_symbolic, "
        "04_interactions have not begun."
    )


def test_missing_shards_take_what_others_took():
    for shard, seconds in {"1-16": 100, "17-32": 200}.items():
        done("responses", shard, seconds)
    done("surrogates", "1-16", 60)
    assert remaining(SETUP, 4) == (
        "digits_resnet18: 3 of 16 shards are there; the others take some 8 minutes; those of 03_symbolic, "
        "04_interactions have not begun."
    )


def test_all_shards_are_there():
    for kind in ("responses", "surrogates", "symbolic", "interactions"):
        for shard in ("1-32", "33-64"):
            done(kind, shard, 1)
    assert remaining(SETUP, 2) == "digits_resnet18: 8 of 8 shards are there."
