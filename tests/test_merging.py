"""Shards put together are, to the byte, what one run writes."""

import pandas as pd
import pytest
import torch

from kanlib import merging, setups, shards, store
from kanlib.errors import BadInputError
from tests.helpers import randn

SETUP, N, BLOCK = "digits_resnet18", 8, 2


@pytest.fixture(autouse=True)
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path)
    return tmp_path


def table(n, start=0):
    """Scores as 02_surrogate has them: surrogate by surrogate, then example by example."""
    rows = [(name, e + 1, float(start + e) + len(name)) for name in ("linear", "kan") for e in range(n)]
    return pd.DataFrame(rows, columns=["surrogate", "example", "pearson"])


def responses(rows):
    n = rows.stop - rows.start
    return {
        "masks.fit": randn(5, 3, dtype=torch.float32),
        "responses.fit": randn(N, 5, dtype=torch.float32)[rows],
        "labels": torch.arange(N)[rows],
        "local": randn(N, 7)[rows],
        "empty": torch.empty(n, 0),
    }


def forms(rows):
    whole = [{"layers": [[e, "größe"]]} for e in range(N)]
    front = [{"example": e + 1, "price": price} for e in range(rows.stop - rows.start) for price in (0.1, 1e-7)]
    return {"faithful": whole[rows], "short": whole[rows], "front": front}


CONTENT = {
    "responses": responses,
    "scores": lambda rows: table(rows.stop - rows.start, rows.start),
    "symbolic": forms,
}


def save(kind, shard=None, **changes):
    """What a notebook saves, of all examples or of a shard."""
    stage = setups.of_notebook(store.written_by(kind))
    p = stage.from_setup(SETUP, {"shard": shard, "block": BLOCK} | changes)
    rows = shards.rows(shard, N, BLOCK)
    inputs = {} if kind == "responses" else {"responses": p.load("responses")}
    more = {"names": ["a"], "label_names": [str(e) for e in range(N)[rows]]} if kind == "responses" else {}
    p.save(kind, CONTENT[kind](rows), **inputs, **more)


def of_shards(kind, n):
    """The whole artifact's bytes, from n shards."""
    names = shards.plan(N, BLOCK, n)
    for needed in dict.fromkeys(["responses", kind]):
        for name in names:
            save(needed, name)
        merging.merged(SETUP, needed, names)
    return store.path(SETUP, kind).read_bytes()


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("n", [1, 3, 4])
def test_shards_give_the_bytes_of_one_run(kind, n):
    save("responses")
    if kind != "responses":
        save(kind)
    whole = store.path(SETUP, kind).read_bytes()
    store.remove(store.path(SETUP, kind))
    assert of_shards(kind, n) == whole
    assert store.load(store.path(SETUP, kind), kind).hash
    assert store.circumstances(store.path(SETUP, kind)).exists()


def test_another_number_of_examples_elsewhere_does_not_matter():
    first, *rest = shards.plan(N, BLOCK, 4)
    save("responses", first, n_examples=6)
    for name in rest:
        save("responses", name, n_examples=12)
    found = store.load(merging.merged(SETUP, "responses", [first, *rest]), "responses")
    asked = setups.Perturbation.from_setup(SETUP).n_examples
    assert found.record["parameters"]["n_examples"] == asked
    assert len(found["labels"]) == N


def test_shards_that_do_not_belong_together_are_named():
    first, other, *_ = shards.plan(N, BLOCK, 4)
    save("responses", first)
    save("responses", other, batch_size=7)
    with pytest.raises(
        BadInputError, match="shard 3-4 of responses was made with other parameters than shard 1-2"
    ):
        merging.merged(SETUP, "responses", [first, other])


def test_a_missing_or_damaged_shard_is_named(artifacts):
    first, other, *_ = shards.plan(N, BLOCK, 4)
    save("responses", first)
    with pytest.raises(BadInputError, match=r"shards/3-4/responses.safetensors is missing"):
        merging.merged(SETUP, "responses", [first, other])
    save("responses", other)
    file = store.path(setups.shard_folder(SETUP, other), "responses")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInputError, match=r"shards/3-4/responses.safetensors cannot be read"):
        merging.merged(SETUP, "responses", [first, other])
    assert not store.path(SETUP, "responses").exists()
