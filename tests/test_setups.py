import math
from pathlib import Path

import pytest
import torch
import yaml

from kanlib import setups, store
from kanlib.errors import BadInputError


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


def test_an_artifact_of_knobs_that_are_no_more_is_refused(folder):
    artifact = store.Artifact({}, {"parameters": {"setup": "small", "max_nodes": 12}}, "")
    refused(r"parameter max_nodes .*record of an artifact; did you mean max_\w+\?", setups.Symbolic.of, artifact)


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
        ("extends: 3", "3"),
    ],
)
def test_a_bad_file_is_refused(folder, text, sentence):
    (folder / "bad.yaml").write_text(text, encoding="utf8")
    refused(sentence, setups.Training.from_setup, "bad")


def test_a_file_that_is_no_text_is_refused(folder):
    (folder / "bad.yaml").write_bytes(b"\xff\xfe\x00\x80\x81")
    refused("setup bad is not YAML", setups.read, "bad")


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
    ],
)
def test_a_bad_value_is_refused_by_name(folder, stage, name, value):
    refused(rf"{name}.* is ", stage.from_notebook, {"setup": "small", "run": "mine", name: value})


def test_a_whole_number_is_a_valid_real_one(folder):
    assert setups.Perturbation.from_notebook({"setup": "small", "run": "mine", "scale": 2}).scale == 2.0


def test_a_setup_may_state_every_default(folder):
    whole = {
        name: stage().model_dump(exclude={"setup", "run", "seed", "threads"})
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


@pytest.mark.parametrize("run", ["../elsewhere", "a/b", "/x", ""])
def test_a_run_is_a_name_and_no_path(folder, run):
    refused("run is", setups.Surrogate.from_notebook, {"setup": "small", "run": run})


def test_a_file_elsewhere_may_not_take_the_name_of_a_setup(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("elsewhere") / "small.yaml"
    file.write_text("{}", encoding="utf8")
    refused("has the name of one", setups.read, str(file))


def test_in_a_live_notebook_the_check_can_run_again(folder):
    first = setups.Surrogate.from_notebook({"setup": "small"})
    assert setups.Surrogate.from_notebook({"setup": "small", "p": first, "bar": 3}) == first
