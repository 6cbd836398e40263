import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from kanlib import setups, store
from kanlib.errors import BadInputError, shown

FILES = sorted(setups.FOLDER.glob("*.yaml"))
EXAMPLES = sorted((store.ROOT / "tests" / "examples").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _threads():
    """A notebook's stage sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of setups that holds ``small`` and is the one in use, as is a folder of artifacts."""
    monkeypatch.setattr(setups, "FOLDER", tmp_path)
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path / "artifacts")
    (tmp_path / "small.yaml").write_text(
        "seed: 7\ntraining: {epochs: 2}\nperturbation: {n_fit: 40, scale: 0.5}\n", encoding="utf8"
    )
    return tmp_path


def refused(text, call, *args):
    with pytest.raises(BadInputError, match=text):
        call(*args)


def test_every_default_is_valid():
    for stage in setups.STAGES.values():
        assert stage.model_validate(stage().model_dump()) == stage()


def test_every_knob_is_described():
    for stage in setups.STAGES.values():
        assert all(field.description for field in stage.model_fields.values())


def test_the_file_gives_what_the_notebook_leaves_none(folder):
    stage = setups.Perturbation.from_notebook({"setup": "small", "run": "mine", "n_fit": None, "n_test": 9})
    assert (stage.n_fit, stage.n_test, stage.scale, stage.seed) == (40, 9, 0.5, 7)


def test_what_file_and_notebook_leave_out_is_the_default(folder):
    stage = setups.Perturbation.from_notebook({"setup": "small"})
    assert stage.n_validation == setups.Perturbation().n_validation
    assert stage.output_function == "margin"


def test_the_notebook_overrides_the_file(folder):
    stage = setups.Perturbation.from_notebook({"setup": "small", "run": "mine", "n_fit": 3, "seed": 0})
    assert (stage.n_fit, stage.seed) == (3, 0)


def test_only_parameters_of_the_namespace_count(folder):
    def helper():
        pass

    namespace = {"__name__": "__main__", "_i1": "x = 1", "In": [""], "Out": {}, "open": open, "exit": 1}
    namespace |= {"get_ipython": None, "np": math, "helper": helper, "Path": Path, "setup": "small"}
    assert setups.Training.from_notebook(namespace).epochs == 2


def test_a_notebook_sets_the_threads(folder):
    setups.Training.from_notebook({"setup": "small", "threads": 2})
    assert torch.get_num_threads() == 2


def test_a_variant_needs_a_run_of_its_own(folder):
    given = {"setup": "small", "n_test": 9}
    refused(r"n_test differs from setup small, .*set run", setups.Perturbation.from_notebook, given)
    refused(r"n_test .*run", setups.Perturbation.from_notebook, given | {"run": "small"})
    assert setups.Perturbation.from_notebook(given | {"run": "mine"}).n_test == 9


def test_a_value_that_equals_the_setups_makes_no_variant(folder):
    assert setups.Perturbation.from_notebook({"setup": "small", "n_fit": 40, "seed": 7}).run is None


def test_the_path_of_a_file_is_a_setup_named_by_its_stem(folder):
    stage = setups.Training.from_notebook({"setup": str(folder / "small.yaml")})
    assert stage.epochs == 2
    stage.save("model", {"w": torch.ones(2)})
    assert (store.ARTIFACTS / "small" / "model.safetensors").is_file()


def test_a_run_keeps_its_artifacts_apart_and_reads_the_setups_where_it_has_none(folder):
    setup = setups.Training.from_notebook({"setup": "small"})
    run = setups.Training.from_notebook({"setup": "small", "run": "mine", "epochs": 3})
    setup.save("model", {"w": torch.ones(2)})
    assert run.load("model").hash == setup.load("model").hash
    run.save("model", {"w": torch.zeros(2)})
    assert torch.equal(run.load("model")["w"], torch.zeros(2))
    assert torch.equal(setup.load("model")["w"], torch.ones(2))


def test_an_artifact_records_parameters_and_inputs_but_not_the_run(folder):
    stage = setups.Surrogate.from_notebook({"setup": "small", "run": "mine"})
    stage.save("responses", {"y": torch.ones(2)})
    responses = stage.load("responses")
    stage.save("surrogates", {"w": torch.ones(2)}, responses=responses, components=["layer1.0"])
    record = stage.load("surrogates", responses=responses).record
    assert record["inputs"] == {"responses": responses.hash}
    assert record["components"] == ["layer1.0"]
    assert record["parameters"]["penalties"] == list(stage.penalties)
    assert "run" not in record["parameters"]


def test_an_artifact_made_from_other_inputs_is_refused(folder):
    stage = setups.Surrogate.from_notebook({"setup": "small"})
    stage.save("responses", {"y": torch.ones(2)})
    stage.save("surrogates", {"w": torch.ones(2)}, responses=stage.load("responses"))
    stage.save("responses", {"y": torch.zeros(2)})
    with pytest.raises(
        BadInputError, match=r"surrogates of run small .* not made from the responses .*run 02_surrogate"
    ):
        stage.load("surrogates", responses=stage.load("responses"))


def test_an_artifact_says_what_it_was_made_with(folder):
    stage = setups.Perturbation.from_notebook({"setup": "small", "run": "mine", "n_fit": 3})
    stage.save("responses", {"y": torch.ones(2)})
    made = setups.Perturbation.of(stage.load("responses"))
    assert made == stage.model_copy(update={"run": None})


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"parameters": {"setup": "small", "max_nodes": 12}}, "max_nodes is 12 .*not permitted"),
        ({"parameters": {"r2": "x" * 10_000}}, "r2 is 'x+… .*valid number"),
        ({"parameters": {"r2": [[0.9]]}}, r"r2 is \[\[0\.9\]\] .*valid number"),
        ({"parameters": {"setup": "../x"}}, r"setup is '\.\./x' .*: input should be a name"),
        ({"parameters": {"run": "../x"}}, r"run is '\.\./x' .*: input should be a name"),
        ({"parameters": ["setup"]}, r"what is given is \['setup'\] .*valid dictionary"),
        ({"parameters": None}, "what is given is None .*valid dictionary"),
        ({}, "what is given is None .*valid dictionary"),
    ],
)
def test_an_artifact_of_other_knobs_is_refused(record, sentence):
    for kind, again in (("symbolic", "03_symbolic"), ("nothing", "what wrote it"), (["x"], "what wrote it")):
        artifact = store.Artifact({}, record | {"kind": kind}, "")
        text = rf"{sentence}.*; run {again} again\.$"
        refused(text, setups.Symbolic.of, artifact)
    refused("in the record of an artifact of symbolic", setups.Symbolic.of, store.Artifact({}, record, ""))


@pytest.mark.parametrize("other", ["other", "small.v2", "small.yaml.", "../small", "", None, 3, ["small"]])
def test_an_artifact_of_another_setup_is_refused(folder, other):
    parameters = {"setup": other} if other else {}
    target = store.path("small", "model")
    store.save(target, {"w": torch.ones(2)}, kind="model", parameters=parameters, inputs={})
    sentence = r"artifact model of run small was made for setup .*, expected small; run 00_training again\."
    refused(sentence, setups.Training.from_setup("small").load, "model")


def test_an_artifact_of_another_kind_is_refused(folder):
    stage = setups.Training.from_setup("small")
    stage.save("responses", {"w": torch.ones(2)})
    shutil.copy(store.path("small", "responses"), store.path("small", "model"))
    refused("holds responses, expected model", stage.load, "model")


def test_a_point_in_a_name_is_no_suffix(folder):
    """The results of small.v2 are not those of small."""
    (folder / "small.v2.yaml").write_text("extends: small\n", encoding="utf8")
    assert setups.names() == ["small", "small.v2"]
    assert setups.Training.from_setup("small.v2").folder == "small.v2"
    assert setups.Training.from_setup(str(folder / "small.v2.yaml")).folder == "small.v2"


def test_a_missing_artifact_names_the_notebook_to_run(folder):
    refused("01_perturbation", setups.Surrogate.from_notebook({"setup": "small"}).load, "responses")


def test_extends_completes_a_setup_from_another(folder):
    (folder / "bigger.yaml").write_text("extends: small\nperturbation: {n_fit: 90}\n", encoding="utf8")
    stage = setups.Perturbation.from_setup("bigger")
    assert (stage.n_fit, stage.scale, stage.seed, stage.setup) == (90, 0.5, 7, "bigger")
    assert setups.Training.from_setup("bigger").epochs == 2


def test_names_lists_the_setups(folder):
    (folder / "another.yaml").write_text("", encoding="utf8")
    assert setups.names() == ["another", "small"]
    assert setups.Training.from_setup("another") == setups.Training(setup="another")


def test_an_unknown_setup_suggests_the_nearest(folder):
    refused(r"setup smal is unknown .*did you mean small\?", setups.Training.from_setup, "smal")


def test_an_unknown_setup_without_neighbours_lists_all(folder):
    refused(r"setup zzz is unknown .*there are small\.", setups.Training.from_setup, "zzz")


def test_an_unknown_parameter_of_a_notebook_suggests_the_nearest(folder):
    given = {"setup": "small", "n_fitt": 3}
    refused(
        r"parameter n_fitt is unknown to perturbation; did you mean n_fit\?",
        setups.Perturbation.from_notebook,
        given,
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("perturbation: {n_fitt: 3}", r"parameter n_fitt .*perturbation of setup bad; did you mean n_fit\?"),
        ("perturbatoin: {n_fit: 3}", r"section perturbatoin .*did you mean perturbation\?"),
        ("seeed: 3", r"section seeed .*did you mean seed\?"),
        ("surrogate: 3", "section surrogate of setup bad is 3"),
        ("surrogate:", "section surrogate of setup bad is None"),
        ("- 1", "setup bad is a list, expected sections"),
        ("a: [", "setup bad is not YAML"),
        ("training: {epochs: '5'}", r"epochs is '5' in training of setup bad: .*integer"),
        ("symbolic: {r2: 1.5}", r"r2 is 1\.5 in symbolic of setup bad: .*less than or equal to 1"),
        ("extends: smal", r"setup smal .*did you mean small\?"),
        ("extends: bad", "extends"),
        ("extends: 3", "extends of setup bad is 3, expected a name"),
        ("extends:", "extends of setup bad is None, expected a name"),
        ("seed: 0300", "seed is '0300' in training of setup bad: .*integer"),
        ("seed: 1:30", "seed is '1:30' .*integer"),
        ("seed: 1_000", "seed is '1_000' .*integer"),
        ("training: {download: yes}", "download is 'yes' .*boolean"),
        ("training: {data: 2020-01-01, epochs: 2021-01-01}", "epochs is '2021-01-01' .*integer"),
        ("perturbation: {scale: .inf}", r"scale is '\.inf' .*number"),
        ("perturbation: {scale: 1e999}", "scale is inf .*finite"),
        ("training: {setup: small}", "setup stands in section training of setup bad, .*remove it"),
        ("surrogate: {run: mine}", "run stands in section surrogate of setup bad, .*remove it"),
        ("run: mine", "section run is unknown to setup bad"),
        ("setup: small", "section setup is unknown to setup bad"),
        ('"\\ud800": 3', r"section '\\ud800' is unknown"),
        (f"{{? '{'x' * 5000}' : 3}}", "section 'x+… is unknown to setup bad; there are"),
        ("surrogate: {grid: 5, outside: 0.2}", r"outside is 0\.2 in surrogate of setup bad: .*less than 1/grid"),
    ],
)
def test_a_bad_file_is_refused(folder, text, sentence):
    (folder / "bad.yaml").write_text(text, encoding="utf8")
    refused(sentence, setups.Training.from_setup, "bad")


def test_what_is_extended_is_checked_in_its_own_name(folder):
    (folder / "first.yaml").write_text("training: {epochs: 0}\n", encoding="utf8")
    (folder / "second.yaml").write_text("extends: first\ntraining: {epochs: 3}\n", encoding="utf8")
    refused("epochs is 0 in training of setup first", setups.read, "second")


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        (setups.Training, "epochs", 0),
        (setups.Training, "epochs", 2.0),
        (setups.Training, "epochs", True),
        (setups.Training, "learning_rate", "0.1"),
        (setups.Training, "data", 3),
        (setups.Training, "seed", -1),
        (setups.Training, "setup", 3),
        (setups.Perturbation, "scale", 0.0),
        (setups.Perturbation, "scale", math.inf),
        (setups.Perturbation, "scale", math.nan),
        (setups.Perturbation, "components", []),
        (setups.Perturbation, "components", "layer*"),
        (setups.Perturbation, "gate_site", "input"),
        (setups.Perturbation, "examples", [-1]),
        (setups.Surrogate, "spline_order", 4),
        (setups.Surrogate, "hidden", [0]),
        (setups.Surrogate, "hidden", [[2, 1]]),
        (setups.Symbolic, "max_length", 0),
        (setups.Surrogate, "penalties", []),
        (setups.Surrogate, "penalties", [-1e-3]),
        (setups.Symbolic, "r2", 1.01),
        (setups.Interactions, "max_order", 5),
        (setups.Interactions, "max_order", 1),
        (setups.Training, "seed", 2**32),
        (setups.Training, "epochs", 100_001),
        (setups.Symbolic, "max_degree", 51),
        (setups.Interactions, "refits", 10_001),
        (setups.Surrogate, "n_bootstrap", 1_000_001),
        (setups.Training, "threads", 1025),
        (setups.Surrogate, "hidden", [1] * 9),
        (setups.Surrogate, "hidden", [10**6000]),
        (setups.Perturbation, "components", ["x" * 301]),
        (setups.Perturbation, "only_class", "a\0b"),
        (setups.Perturbation, "scale", 1e-7),
    ],
)
def test_a_bad_value_is_refused_by_name(folder, stage, name, value):
    refused(rf"{name}.* is ", stage.from_notebook, {"setup": "small", "run": "mine", name: value})


def beyond(schema, default=None):
    """Values of a field that are just too large, too many or too long, as its schema in JSON says."""
    (schema,) = (part for part in schema.get("anyOf", [schema]) if part["type"] != "null")
    if "maximum" in schema or "exclusiveMaximum" in schema:
        yield schema.get("maximum", schema.get("exclusiveMaximum")) + 1
    if "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1)
    if "maxItems" in schema:
        yield (default or [1]) * (schema["maxItems"] + 1)
        yield from ([value] for value in beyond(schema["items"]))


@pytest.mark.parametrize("stage", setups.STAGES.values(), ids=setups.STAGES)
def test_every_knob_has_an_upper_bound_that_holds(folder, stage):
    for name, schema in stage.model_json_schema()["properties"].items():
        if name in ("setup", "run", "shard") or schema.get("type") == "boolean" or "enum" in schema:
            continue
        values = list(beyond(schema, getattr(stage(), name)))
        assert values, name
        for value in values:
            refused(rf"^{name}\S* is ", stage.from_setup, "small", {name: value})


@pytest.mark.parametrize(("grid", "outside"), [(5, 0.2), (1000, 0.001), (3, 1 / 3), (2, 0.5)])
def test_values_beyond_both_ends_of_a_grid_leave_some_inside(folder, grid, outside):
    given = {"grid": grid, "outside": outside}
    refused(
        rf"outside is .* in the notebook or setup small: .*1/{grid};", setups.Surrogate.from_setup, "small", given
    )
    given["outside"] *= 0.99
    assert setups.Surrogate.from_setup("small", given).outside == given["outside"]


def test_a_whole_number_is_a_valid_real_one(folder):
    assert setups.Perturbation.from_notebook({"setup": "small", "run": "mine", "scale": 2}).scale == 2.0


def test_a_setup_may_state_every_default(folder):
    whole = {
        name: stage().model_dump(exclude={"setup", "run", "shard", "seed", "threads"})
        for name, stage in setups.STAGES.items()
    }
    (folder / "full.yaml").write_text(yaml.safe_dump(whole), encoding="utf8")
    for stage in setups.STAGES.values():
        assert stage.from_setup("full") == stage(setup="full")


def test_exponents_without_a_point_are_numbers(folder):
    (folder / "exponent.yaml").write_text("training: {weight_decay: 5e-4}\n", encoding="utf8")
    assert setups.Training.from_setup("exponent").weight_decay == 5e-4


def test_the_name_of_a_setup_is_no_name_for_a_variant(folder):
    (folder / "other.yaml").write_text("{}", encoding="utf8")
    refused("other is the name of a setup", setups.Surrogate.from_notebook, {"setup": "small", "run": "other"})


@pytest.mark.parametrize(
    "run", ["../elsewhere", "a/b", "/x", "", ".x", "-p", "x.", "a+b", "é", "a b", "a\n", "a\0", "$(ls)", "x" * 65]
)
def test_a_run_is_a_name_and_no_path(folder, run):
    refused("run is .*: input should be a name", setups.Surrogate.from_notebook, {"setup": "small", "run": run})


@pytest.mark.parametrize("run", ["mine", "_", "0", "A.b-c_2", "x" * 64])
def test_names_of_runs(folder, run):
    assert setups.Surrogate.from_notebook({"setup": "small", "run": run}).folder == run


@pytest.mark.parametrize(
    "setup", [None, 3, ["small"], "", "x" * 5000, "../small", "a\0", "x" * 5000 + ".yaml"], ids=shown
)
def test_a_setup_is_a_name_or_the_path_of_a_file(folder, setup):
    refused("setup is .*expected a name", setups.Surrogate.from_notebook, {"setup": setup})


def test_an_unknown_parameter_of_any_length_is_refused_in_a_short_sentence(folder):
    with pytest.raises(BadInputError, match=r"parameter 'x+… is unknown to training") as error:
        setups.Training.from_setup("small", {"x" * 5000: 3})
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("file", [*FILES, *EXAMPLES], ids=lambda file: file.stem)
def test_the_setups_that_come_with_the_project_are_valid(file):
    assert setups.read(str(file)).keys() <= {"seed", "threads", "block", *setups.STAGES}


def test_in_a_live_notebook_the_check_can_run_again(folder):
    first = setups.Surrogate.from_notebook({"setup": "small"})
    assert setups.Surrogate.from_notebook({"setup": "small", "p": first, "bar": 3}) == first
