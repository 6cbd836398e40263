import hashlib
import json
import pickle
import random

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kanlib import formats, sources, store
from kanlib.errors import BadInputError

TENSORS = {
    "masks": torch.arange(12, dtype=torch.float32).view(3, 4).T,
    "labels": torch.tensor([3, -1]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
}
TABLE = pd.DataFrame({"surrogate": ["linear", "σ"], "pearson": [0.1, float("nan")], "n": [1, 2]})
VALUE = {"σ": [0.1, None, "é", {"b": True, "a": -1e-300}]}
CONTENTS = [("responses", TENSORS), ("scores", TABLE), ("symbolic", VALUE)]
each_kind = pytest.mark.parametrize(("kind", "content"), CONTENTS, ids=[kind for kind, _ in CONTENTS])


def written(folder, kind, content, **record):
    record = {"parameters": {"seed": 0, "penalties": [1e-5]}, "inputs": {"model": "abc"}} | record
    return store.save(store.path(folder, kind), content, kind=kind, **record)


@each_kind
def test_what_is_saved_is_loaded(tmp_path, kind, content):
    file = written(tmp_path / "new" / "folder", kind, content)
    artifact = store.load(file)
    if kind == "responses":
        assert artifact.content.keys() == content.keys()
        for name, tensor in content.items():
            assert artifact[name].dtype == tensor.dtype
            assert torch.equal(artifact[name], tensor)
    elif kind == "scores":
        pd.testing.assert_frame_equal(artifact.content, content)
    else:
        assert artifact.content == content
    written_hash = artifact.hash.encode()
    blank = file.read_bytes().replace(written_hash, formats.BLANK.encode(), 1)
    assert artifact.hash == hashlib.sha256(blank).hexdigest()


@each_kind
def test_the_record_is_inside_and_the_circumstances_beside(tmp_path, kind, content):
    file = written(tmp_path, kind, content)
    assert store.load(file).record == {
        "kind": kind,
        "parameters": {"seed": 0, "penalties": [1e-5]},
        "inputs": {"model": "abc"},
        "code": store.code_hash(),
        "torch": torch.__version__,
    }
    beside = json.loads(file.with_name(file.name + ".run.json").read_text(encoding="utf8"))
    assert {"date", "seconds", "torch"} <= beside.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name, file.name + ".run.json"]


def test_the_record_holds_what_else_its_reader_needs(tmp_path):
    file = written(tmp_path, "responses", TENSORS, components=["layer1.0"])
    assert store.load(file).record["components"] == ["layer1.0"]


def test_a_part_of_an_artifact_drops_the_prefix(tmp_path):
    artifact = store.load(
        written(tmp_path, "responses", {"kan.bias": torch.ones(1), "linear.bias": torch.zeros(1)})
    )
    assert artifact.part("kan.") == {"bias": torch.ones(1)}


@each_kind
def test_equal_runs_give_equal_bytes(tmp_path, kind, content):
    first = written(tmp_path / "a", kind, content)
    reordered = content if kind == "scores" else dict(reversed(content.items()))
    second = written(tmp_path / "b", kind, reordered, parameters={"penalties": [1e-5], "seed": 0})
    assert first.read_bytes() == second.read_bytes()


@each_kind
def test_another_parameter_gives_another_hash(tmp_path, kind, content):
    first = written(tmp_path / "a", kind, content)
    second = written(tmp_path / "b", kind, content, parameters={"seed": 1, "penalties": [1e-5]})
    assert store.load(first).hash != store.load(second).hash


def test_the_hash_of_tensors_is_that_of_names_shapes_and_values(tmp_path):
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.long)}
    same = {"b": one["b"].clone(), "a": torch.arange(6.0).view(3, 2).T.contiguous().copy_(one["a"])}
    assert store.tensors_hash(one) == store.tensors_hash(same)
    others = [
        {"a": one["a"].view(3, 2), "b": one["b"]},
        {"a": one["a"].double(), "b": one["b"]},
        {"a": one["a"] + 1, "b": one["b"]},
        {"c": one["a"], "b": one["b"]},
        {"a": one["a"]},
    ]
    assert len({store.tensors_hash(tensors) for tensors in [one, *others]}) == 1 + len(others)


def test_tensors_that_share_memory_are_saved(tmp_path):
    whole = torch.arange(6.0)
    artifact = store.load(written(tmp_path, "responses", {"one": whole, "same": whole, "part": whole[2:4]}))
    assert torch.equal(artifact["same"], whole)
    assert torch.equal(artifact["part"], whole[2:4])


@each_kind
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path, kind, content, share):
    file = written(tmp_path, kind, content)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInputError, match=rf"{file.name} cannot be read.* run {store.written_by(kind)}"):
        store.load(file)


@each_kind
def test_a_missing_file_names_the_notebook_to_run(tmp_path, kind, content):
    with pytest.raises(BadInputError, match=rf"{kind}\.\w+ is missing; .*{store.written_by(kind)}"):
        store.load(store.path(tmp_path, kind))


def test_a_path_inside_the_project_is_named_from_its_root():
    file = store.path("no-such-run", "model")
    with pytest.raises(BadInputError, match=r"^_artifacts/no-such-run/model\.safetensors is missing"):
        store.load(file)


def test_an_artifact_of_another_kind_is_refused(tmp_path):
    file = written(tmp_path, "responses", TENSORS)
    other = file.rename(tmp_path / "surrogates.safetensors")
    with pytest.raises(BadInputError, match=r"surrogates\.safetensors holds responses, expected surrogates"):
        store.load(other)


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", "{}", '{"content": 1}', '{"content": 1, "record": {}}', '{"content":1,"record":2}'],
)
def test_json_that_is_no_artifact_is_refused(tmp_path, text):
    file = tmp_path / "symbolic.json"
    file.write_text(text, encoding="utf8")
    with pytest.raises(BadInputError, match=r"symbolic\.json .*03_symbolic"):
        store.load(file)


def test_tensors_and_tables_without_a_record_are_refused(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    TABLE.to_parquet(tmp_path / "scores.parquet")
    for name in ("model.safetensors", "scores.parquet"):
        with pytest.raises(BadInputError, match=rf"{name} cannot be read"):
            store.load(tmp_path / name)


@each_kind
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, kind, content):
    file = written(tmp_path, kind, content)
    whole, draw = file.read_bytes(), random.Random(0)  # noqa: S311
    for at in draw.sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(BadInputError, match=rf"{file.name} (cannot be read|holds)"):
            store.load(file)
    file.write_bytes(whole)
    assert store.load(file).record["kind"] == kind


def resealed(file, change):
    """Write an artifact anew as a stranger may, with a right digest."""
    content, record, _ = formats.read(file)
    content, record = change(content, record) or (content, record)
    file.write_bytes(formats.written(file.suffix, content, record))
    return file


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_strangers_array_that_is_not_finite_is_refused(tmp_path, value):
    file = resealed(
        written(tmp_path, "responses", TENSORS), lambda c, r: (c | {"masks": torch.full((2,), value)}, r)
    )
    with pytest.raises(BadInputError, match=r"cannot be read .*masks is not finite"):
        store.load(file)


def test_large_values_whose_sum_overflows_are_finite(tmp_path):
    large = {"masks": torch.full((4,), 3e38)}
    assert torch.equal(store.load(written(tmp_path, "responses", large))["masks"], large["masks"])


@each_kind
@pytest.mark.parametrize("key", ["kind", "parameters", "inputs"])
@pytest.mark.parametrize("value", [None, 3, "x", []], ids=str)
def test_a_strangers_record_is_checked(tmp_path, kind, content, key, value):
    if (key, value) == ("kind", "x"):
        value = {}
    file = resealed(written(tmp_path, kind, content), lambda c, r: (c, r | {key: value}))
    with pytest.raises(BadInputError, match=r"cannot be read .*its record is none"):
        store.load(file)


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    file = written(tmp_path, "symbolic", {"x": 1.5})
    file.write_bytes(file.read_bytes().replace(b"1.5", b"NaN"))
    with pytest.raises(BadInputError, match="NaN is no number of JSON"):
        store.load(file)
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(tmp_path, "symbolic", {"x": float("nan")})


@pytest.mark.parametrize("text", ["[" * 20_000, "9" * 5_000, '{"content": ' + "9" * 5_000 + "}"])
def test_json_that_exhausts_a_reader_is_refused(tmp_path, text):
    (tmp_path / "symbolic.json").write_text(text, encoding="utf8")
    with pytest.raises(BadInputError, match=r"symbolic\.json cannot be read") as refused:
        store.load(tmp_path / "symbolic.json")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("key", "shape", "dtype", "sentence"),
    [
        ("none", (None,), torch.float32, r"none is missing, expected \(any\) of torch\.float32"),
        ("masks", (None, 4), torch.float32, r"masks is \(4, 3\) of torch\.float32, expected \(any, 4\)"),
        ("masks", (4,), torch.float32, r"masks is \(4, 3\)"),
        ("labels", (2,), torch.float32, r"labels is \(2\) of torch\.int64, expected \(2\) of torch\.float32"),
    ],
)
def test_a_tensor_is_what_its_reader_expects(tmp_path, key, shape, dtype, sentence):
    artifact = store.load(written(tmp_path, "responses", TENSORS))
    assert artifact.tensor("masks", (None, 3)) is artifact["masks"]
    with pytest.raises(BadInputError, match=rf"responses\.safetensors is not what kanlib writes: {sentence}"):
        artifact.tensor(key, shape, dtype)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"spearman": float}, "column spearman is missing"),
        ({"n": float}, "column n .* holds no float"),
        ({"n": str}, "column n .* holds no str"),
        ({"surrogate": int}, "column surrogate .* holds no int"),
    ],
)
def test_a_table_is_what_its_reader_expects(tmp_path, columns, sentence):
    artifact = store.load(written(tmp_path, "scores", TABLE))
    assert artifact.table({"surrogate": str, "pearson": float, "n": int}) is artifact.content
    with pytest.raises(BadInputError, match=rf"scores\.parquet is not what kanlib writes: {sentence}"):
        artifact.table(columns)


def test_a_record_says_what_its_reader_expects(tmp_path):
    artifact = store.load(written(tmp_path, "responses", TENSORS, names=["a"], accuracy=True))
    assert artifact.said("names", list) == ["a"]
    for key, kind in (("none", list), ("names", dict), ("accuracy", int)):
        with pytest.raises(BadInputError, match=rf"of {key}, expected {kind.__name__}; make it anew"):
            artifact.said(key, kind)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


@each_kind
def test_a_pickle_is_never_unpickled(tmp_path, kind, content):
    marker = tmp_path / "executed"
    file = store.path(tmp_path, kind)
    file.write_bytes(pickle.dumps(Payload(str(marker))))
    with pytest.raises(BadInputError):
        store.load(file)
    assert not marker.exists()


@each_kind
def test_a_save_that_fails_harms_nothing(tmp_path, kind, content):
    file = written(tmp_path, kind, content)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = pd.DataFrame({"x": [1, object()]}) if kind == "scores" else {"x": object()}
    with pytest.raises(Exception, match=r"object|serializable"):
        written(tmp_path, kind, bad)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert store.load(file).record["kind"] == kind


def test_arrays_that_are_not_finite_are_not_saved_and_harm_nothing(tmp_path):
    file = written(tmp_path, "responses", {"y": torch.ones(2)})
    before = file.read_bytes()
    with pytest.raises(BadInputError, match="y of the responses is not finite"):
        written(tmp_path, "responses", {"y": torch.tensor([1.0, torch.nan])})
    assert file.read_bytes() == before


def test_an_artifact_is_removed_with_its_sidecar(tmp_path):
    file = written(tmp_path, "responses", TENSORS)
    store.remove(file)
    store.remove(file)
    assert not list(tmp_path.iterdir())


def test_the_code_version_moves_with_any_module_of_a_wing(tmp_path, monkeypatch):
    before, known = store.code_hash.__wrapped__(), sources.modules()
    assert any(name.startswith("kanlib.kan.") for name in known)
    for name in ("kanlib.kan.splines", "kanlib.networks.probe", "kanlib.errors"):
        (tmp_path / "other.py").write_text("# another text\n", encoding="utf8")
        monkeypatch.setattr(sources, "modules", lambda name=name: known | {name: tmp_path / "other.py"})
        assert store.code_hash.__wrapped__() != before
    monkeypatch.setattr(sources, "modules", lambda: known)
    assert store.code_hash.__wrapped__() == before
