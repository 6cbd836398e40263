"""The whole project as its user runs it: snakemake, papermill and the book, in a copy with small parameters."""

import hashlib
import json
import re
import runpy
import shlex
import shutil
import sys
from html.parser import HTMLParser

import nbformat
import papermill
import pytest
import torch
import torch.nn.functional as F
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from benchmarks.explain import differences
from kanlib import claims, formats, setups, sources, store
from kanlib.files import write_whole
from kanlib.networks import trained
from tests.language import small_gpt2, small_speaker
from tests.small_project import SMALL, copied, kill, make, run, snakemake, started, wait_for

pytestmark = pytest.mark.slow

NOTEBOOKS = [path.stem for path in sources.notebooks(store.NOTEBOOKS)]
#: Those that the small default setup has.
OWN = [name for name in NOTEBOOKS if not (stage := setups.of_notebook(name)).asked_for or stage.section in SMALL]


def papermill_run(project, notebook, *parameters):
    # A path from the root would do too, but papermill takes the braces of the project's own for parameters.
    return run(project, "papermill", f"notebooks/{notebook}.ipynb", "out.ipynb", "-k", "python3", *parameters)


def hashes(project, name="digits_resnet18"):
    files = sorted((project / "_artifacts" / name).glob("*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if ".run." not in f.name}


@pytest.fixture
def unharmed(project):
    """The artifacts, of which every byte must be the same afterwards."""
    before = hashes(project)
    yield before
    assert hashes(project) == before


class Addresses(HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video", "audio"}:
            self.found.append(attrs.get("src"))
        if tag == "link" and attrs.get("rel") not in {"canonical"}:
            self.found.append(attrs.get("href"))


def test_the_book_holds_every_notebook_with_its_figures(project):
    for name in OWN:
        page = (project / f"_build/html/setups/digits_resnet18/{name}.html").read_text(encoding="utf8")
        assert 'class="vega-chart"' in page


def test_no_page_loads_anything_from_another_host(project):
    for page in (project / "_build/html").rglob("*.html"):
        parser = Addresses()
        parser.feed(page.read_text(encoding="utf8"))
        assert [a for a in parser.found if a and re.match(r"(https?:)?//", a)] == [], page


def test_every_page_says_what_it_is_about_and_has_an_icon(project):
    html = project / "_build/html"
    pages = {path: path.read_text(encoding="utf8") for path in html.rglob("*.html") if "_static" not in path.parts}
    icons = {path: re.findall('<link rel="icon" href="([^"]*)"', text) for path, text in pages.items()}
    assert [
        path for path, found in icons.items() if not all((path.parent / icon).is_file() for icon in found)
    ] == []
    assert all(len(found) == 1 for found in icons.values())
    silent = {path.stem for path, text in pages.items() if not re.search('name="description" content="[^"]', text)}
    assert silent == {"genindex", "py-modindex", "search"}


def test_numbers_on_the_front_page_are_the_notebooks(project):
    scores = store.load(project / "_artifacts/digits_resnet18/scores.parquet").content
    means = scores.groupby("surrogate")["pearson"].mean()
    front = (project / "_build/html/index.html").read_text(encoding="utf8")
    for name in ("linear", "kan"):
        assert f"{means[name]:.2f}" in front


def test_nothing_is_done_twice(project):
    result = snakemake(project, "book")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr


def test_equal_runs_give_equal_bytes(project, tmp_path):
    again = copied(tmp_path)
    assert snakemake(again).returncode == 0
    assert hashes(again) == hashes(project)
    own = [store.NOTEBOOKS / f"{name}.ipynb" for name in OWN]
    assert len(hashes(again)) == sum(len(sources.artifacts(notebook)[1]) for notebook in own)


def test_artifacts_name_what_they_were_made_from(project):
    folder = project / "_artifacts/digits_resnet18"
    model, responses = (store.load(folder / f"{kind}.safetensors") for kind in ("model", "responses"))
    assert responses.record["inputs"] == {"network": model.hash}
    assert responses.record["parameters"]["n_fit"] == SMALL["perturbation"]["n_fit"]


def test_a_changed_setup_reruns_what_depends_on_it_and_a_failure_keeps_what_was_there(project, unharmed):
    setup = project / "notebooks/setups/digits_resnet18.yaml"
    before = setup.read_text(encoding="utf8")
    notebook = project / "book/setups/digits_resnet18/01_perturbation.ipynb"
    shown = notebook.read_bytes()
    try:
        whole = yaml.safe_load(before)
        whole["perturbation"]["components"] = ["nothing*"]
        setup.write_text(yaml.safe_dump(whole), encoding="utf8")
        result = snakemake(project)
        assert result.returncode != 0
        assert "components pattern nothing* matches no module" in result.stdout + result.stderr
        assert notebook.read_bytes() == shown
    finally:
        setup.write_text(before, encoding="utf8")


@pytest.mark.parametrize(
    ("notebook", "parameters", "sentence"),
    [
        ("02_surrogate", ["-p", "gird", "8"], "parameter gird is unknown to surrogate; did you mean grid?"),
        ("02_surrogate", ["-p", "grid", "many"], "grid is 'many'"),
        ("01_perturbation", ["-p", "scale", "-1.0", "-p", "run", "x"], "scale is -1.0"),
        ("00_training", ["-p", "setup", "digits_resnet81"], "did you mean digits_resnet18?"),
        ("02_surrogate", ["-p", "grid", "8"], "set run to another name"),
    ],
)
def test_bad_parameters_are_refused_with_one_sentence(project, unharmed, notebook, parameters, sentence):
    result = papermill_run(project, notebook, *parameters)
    assert result.returncode != 0
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("kind", "damage", "notebook", "sentence"),
    [
        ("responses", "missing", "02_surrogate", "is missing; it is written by 01_perturbation"),
        ("responses", "truncated", "02_surrogate", "cannot be read"),
        ("model", "reshaped", "01_perturbation", "the weights hold (3,) at fc.bias, expected (10,)"),
        ("model", "overflowing", "01_perturbation", "expected a finite number"),
    ],
)
def test_bad_artifacts_are_refused_with_one_sentence(project, unharmed, kind, damage, notebook, sentence):
    run_folder = project / "_artifacts" / "damaged"
    target = run_folder / f"{kind}.safetensors"
    shutil.copytree(project / "_artifacts/digits_resnet18", run_folder)
    parameters = ["-p", "run", "damaged"]
    aside = []
    try:
        if damage == "missing":
            target.unlink()
            aside = [(project / f"_artifacts/digits_resnet18/{target.name}", project / "aside")]
            for there, elsewhere in aside:
                there.rename(elsewhere)
        elif damage == "truncated":
            target.write_bytes(target.read_bytes()[:1000])
        else:
            weights = load_file(target)
            if damage == "reshaped":
                weights["fc.bias"] = torch.ones(3)
            else:
                weights["fc.weight"] *= 1e38
            record = store.load(target).record
            made = {"parameters": record["parameters"], "inputs": {}, "accuracy": record["accuracy"]}
            store.save(target, weights, kind="model", **made)
            # With useless logits few examples are correct, so they are named.
            parameters += ["-y", "examples: [0, 1]"]
        result = papermill_run(project, notebook, *parameters)
        assert result.returncode != 0
        assert sentence in result.stderr
    finally:
        for there, elsewhere in aside:
            elsewhere.rename(there)
        shutil.rmtree(run_folder)


def test_an_unknown_setup_stops_before_anything_runs(project, unharmed):
    result = snakemake(project, names="digits_resnet81")
    assert result.returncode != 0
    assert "did you mean digits_resnet18?" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("book", ["$(touch executed)", "$(shell touch executed)", "`touch executed`", ";touch executed;"]),
        ("record", ["$$(touch executed)", "!!python/object/apply:os.system", "x&touch executed&"]),
    ],
)
def test_a_setups_name_is_never_executed(project, unharmed, target, names):
    for name in names:
        result = make(project, target, f"SETUPS={name}")
        assert result.returncode != 0
        assert "expected a name of at most" in result.stdout + result.stderr
    assert not list(project.rglob("executed"))


def test_a_file_whose_name_is_a_command_is_no_setup(project, unharmed):
    file = project / "notebooks/setups/z&touch executed&.yaml"
    shutil.copy(project / "notebooks/setups/digits_resnet18.yaml", file)
    try:
        for names in (file.stem, str(file.relative_to(project))):
            result = snakemake(project, names=names)
            assert result.returncode != 0
            assert "expected a name of at most" in result.stdout + result.stderr
        assert snakemake(project, "--dry-run").returncode == 0
    finally:
        file.unlink()
    assert not list(project.rglob("executed"))


def test_a_command_ends_with_one_sentence(project, unharmed):
    result = run(project, sys.executable, "-m", "kanlib.networks.recording", "digits_resnet81")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "setup digits_resnet81 is unknown" in result.stderr


def test_what_a_notebook_says_is_one_sentence(project, unharmed):
    """Neither papermill's traceback nor the notebook's."""
    result = run(
        project,
        sys.executable,
        "-m",
        "book.execute",
        "notebooks/00_training.ipynb",
        "out.ipynb",
        "digits_resnet81",
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "setup digits_resnet81 is unknown" in result.stderr.splitlines()[-1]
    assert not (project / "none.ipynb").exists()


def test_two_runs_at_once_are_one_run_and_a_sentence_and_a_killed_one_is_taken_up(project, unharmed):
    command = ["snakemake", "--forcerun", "02_surrogate", "--cores", "2", "--config", "setups=digits_resnet18"]
    with started(project, *command) as first:
        wait_for(first, "Execute 1 jobs")
        second = run(project, *command)
        assert second.returncode != 0
        assert re.search(r"another run is at work here \(process \d+, since \d\d:\d\d\)", second.stderr)
        assert "Traceback" not in second.stdout + second.stderr
        kill(first)
    again = run(project, *command)
    assert again.returncode == 0, again.stderr
    assert "LockException" not in again.stderr


def test_the_setups_of_the_book_run_as_printed(project):
    names = ("digits_half_scale", "digits_one_image", "digits_resnet34")
    for name in names:
        shutil.copy(store.ROOT / f"tests/examples/{name}.yaml", project / "notebooks/setups")
    # Together, as each of them is a chain of chapters that leaves the second core idle.
    result = snakemake(project, names=" ".join(names))
    assert result.returncode == 0, result.stdout + result.stderr
    half, one, deep = (store.load(project / f"_artifacts/{name}/responses.safetensors") for name in names)
    assert 0.4 < half["masks.fit"].std() < 0.6
    assert one["examples"].tolist() == [7]
    assert deep["masks.fit"].shape[1] == 16


def test_several_setups_share_the_book(project):
    (project / "notebooks/setups/second.yaml").write_text("extends: digits_resnet18\n", encoding="utf8")
    result = snakemake(project, "_build/toc.yml", names="digits_resnet18 second")
    assert result.returncode == 0, result.stderr
    assert "setups/second/04_interactions" in (project / "_build/toc.yml").read_text(encoding="utf8")


def test_a_new_notebook_is_two_places(tmp_path):
    """The notebook, and its knobs in setups: what it reads and writes, and its page, follow."""
    project = copied(tmp_path)
    cells = [
        new_code_cell('setup: str = "digits_resnet18"', metadata={"tags": ["parameters"]}),
        new_code_cell("from kanlib.setups import Recount\n\np = Recount.from_notebook(globals())"),
        new_code_cell(
            'from kanlib.kan import KAN\n\np.save("recount", {"n": KAN.read(p.load("surrogates")).bias})'
        ),
    ]
    nbformat.write(new_notebook(cells=cells), project / "notebooks/05_recount.ipynb")
    schema = project / "kanlib/setups.py"
    text = schema.read_text(encoding="utf8")
    knobs = '"""Another stage."""\n\n    section: ClassVar[str] = "recount"\n\n\n'
    place = "#: Section of a setup"
    schema.write_text(text.replace(place, f"class Recount(Stage):\n    {knobs}{place}"), encoding="utf8")
    result = snakemake(project, "_build/toc.yml")
    assert result.returncode == 0, result.stderr
    assert "setups/digits_resnet18/05_recount" in (project / "_build/toc.yml").read_text(encoding="utf8")
    asked = snakemake(project, "_artifacts/digits_resnet18/recount.safetensors", "--dry-run", "--quiet", "host")
    order = [asked.stdout.index(f"digits_resnet18: {name}") for name in ("02_surrogate", "05_recount")]
    assert order == sorted(order)
    assert "03_symbolic" not in asked.stdout


def test_the_commands_of_the_book_run_as_printed(project, unharmed):
    for line in (store.ROOT / "tests/examples/variant.sh").read_text(encoding="utf8").splitlines():
        result = run(project, *shlex.split(line))
        assert result.returncode == 0, result.stderr
    assert {"surrogates.safetensors", "scores.parquet", "symbolic.json"} <= hashes(project, "finer").keys()


def test_the_library_example_of_the_book_runs_as_printed(project):
    result = run(project, sys.executable, "tests/examples/library.py")
    assert "torch.Size([2, 100])" in result.stdout, result.stderr


def test_explain_gives_the_numbers_of_the_notebooks(project):
    folder = project / "_artifacts/digits_resnet18"
    recorded = store.load(folder / "responses.safetensors")
    before = torch.get_num_threads()
    torch.set_num_threads(recorded.record["parameters"]["threads"])
    try:
        found = differences(folder, *trained(store.load(folder / "model.safetensors")))
    finally:
        torch.set_num_threads(before)
    assert found.keys() == {"responses", "predictions", "at rest", "averaged"}
    assert max(found.values()) < 1e-4


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_are_the_schema(name):
    """Names, types and comments of the ``parameters`` cell are those of the stage's fields."""
    stage = setups.of_notebook(name)
    listed = papermill.inspect_notebook(store.ROOT / f"notebooks/{name}.ipynb")
    assert listed.keys() == stage.model_fields.keys()
    schema = stage.model_json_schema()["properties"]
    kinds = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "array": "list"}
    for parameter, shown in listed.items():
        field = schema[parameter]
        kind = next(part for part in field.get("anyOf", [field]) if part["type"] != "null")["type"]
        assert shown["help"] == stage.model_fields[parameter].description
        assert shown["inferred_type_name"].split("[")[0] == kinds[kind]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_templates_hold_no_outputs(name):
    notebook = nbformat.read(store.ROOT / f"notebooks/{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_executed_notebooks_name_no_path_of_the_machine(project):
    for notebook in (project / "book/setups/digits_resnet18").glob("*.ipynb"):
        assert str(project) not in json.dumps(json.loads(notebook.read_text(encoding="utf8")))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_the_default_setup_meets_its_targets_under_other_seeds(tmp_path, seed):
    """Another split, another network, other examples, masks and starts."""
    project = copied(tmp_path, {"seed": seed})
    assert snakemake(project).returncode == 0
    result = run(project, sys.executable, "-m", "benchmarks.accuracy", "digits_resnet18")
    assert result.returncode == 0, result.stderr
    measured = claims.read(project / "data/claims.json")
    print({claim.id: claim.value for claim in measured})
    assert [claim.id for claim in measured if not claim.holds()] == []


def test_a_strangers_model_is_explained(project):
    """The worked example of the book: a file, weights, a folder of images."""
    for name in ("own.py", "own_model.yaml"):
        shutil.copy(
            store.ROOT / "tests/examples" / name, project / ("notebooks/setups" if name[3] == "_" else ".")
        )
    raw, rows = load_digits(), ["file,class_index"]
    (project / "scans").mkdir()
    for i, (image, label) in enumerate(zip(raw.images[:300], raw.target[:300], strict=True)):
        Image.fromarray((image * 15.9).astype("uint8")).save(project / f"scans/{i}.png")
        rows.append(f"{i}.png,{label}")
    (project / "scans/labels.csv").write_text("\n".join(rows), encoding="utf8")
    network = runpy.run_path(str(project / "own.py"))["small_net"](10)
    x = torch.from_numpy(raw.images[:300] / 16).float()[:, None].expand(-1, 3, -1, -1)
    x, y = F.interpolate(x, size=16, mode="bilinear"), torch.from_numpy(raw.target[:300])
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    save_file(network.state_dict(), project / "own.safetensors")
    result = snakemake(project, "_artifacts/own_model/scores.parquet", names="own_model")
    assert result.returncode == 0, result.stdout + result.stderr
    responses = store.load(project / "_artifacts/own_model/responses.safetensors")
    assert responses.record["names"] == ["2", "4"]
    assert responses.record["accuracy"] > 0.5


def test_a_recording_takes_the_place_of_the_network(project):
    """`make record`, then the same numbers from the recording, without a model."""
    default = yaml.safe_load((project / "notebooks/setups/digits_resnet18.yaml").read_text(encoding="utf8"))
    sizes = {name: default["perturbation"][name] for name in ("n_fit", "n_validation", "n_test", "n_reference")}
    few = {
        "n_reported": default["perturbation"]["n_examples"],
        "n_development": 1,
        "n_fit_output": 0,
        "scales": [],
    }
    setup = default | {"recording": sizes | few | {"n_ablation": 0, "max_order": 2, "batch_size": 25}}
    # Without a recording of its own such a chapter trains the network.
    for section in ("components", "editing", "views"):
        del setup[section]
    file = project / "notebooks/setups/recorded.yaml"
    file.write_text(yaml.safe_dump(setup), encoding="utf8")
    # The same weights, as 00_training would have written them for that setup.
    content, record, _ = formats.read(project / "_artifacts/digits_resnet18/model.safetensors")
    record["parameters"]["setup"] = "recorded"
    write_whole(
        project / "_artifacts/recorded/model.safetensors", formats.written(".safetensors", content, record)
    )
    result = run(project, sys.executable, "-m", "kanlib.networks.recording", "recorded")
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.rmtree(project / "_artifacts/recorded")
    setup["perturbation"]["source"] = "frozen"
    file.write_text(yaml.safe_dump(setup), encoding="utf8")
    result = snakemake(project, "book", names="digits_resnet18 recorded")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (project / "_artifacts/recorded/model.safetensors").exists()
    for name in ("digits_resnet18", "recorded"):
        assert (project / f"_build/html/setups/{name}/04_interactions.html").exists()
    ours, live = (
        store.load(project / f"_artifacts/{name}/responses.safetensors")
        for name in ("recorded", "digits_resnet18")
    )
    for key, value in live.content.items():
        torch.testing.assert_close(ours[key], value, atol=1e-4, rtol=1e-4, msg=key)


LANGUAGE = {
    "setup": {
        "threads": 2,
        "perturbation": {"source": "frozen"},  # No chapters on a classifier.
        "surrogate": {"hidden": [2], "grid": 3, "decays": [0.1], "restarts": 1, "steps": 40, "n_bootstrap": 50},
        "language": {
            "n_stories": 60,
            "shortest": 4,
            "longest": 8,
            "choose": "any",
            "n_examples": 2,
            "n_development": 1,
            "n_fit": 100,
            "n_validation": 30,
            "n_test": 30,
            "n_reference": 20,
            "peers": ["linear", "mlp"],
        },
    },
    "llama2c:tiny": ["layers.*.attention[*]", "layers.*.feed_forward"],
    "transformers/tiny": ["transformer.h.*.attn[*]", "transformer.h.*.mlp"],
}


@pytest.mark.parametrize("model", ["llama2c:tiny", "transformers/tiny"])
def test_a_language_model_is_explained_by_a_setup_file_alone(tmp_path, model):
    """A random one: live, recorded without a classifier, and from the recording without its weights."""
    project = copied(tmp_path / "project")
    if model == "llama2c:tiny":
        small_speaker(project / "tiny")
    else:
        small_gpt2(pytest.importorskip("transformers", reason="needs the extra language"), project / "tiny")
    for source in ("live", "frozen"):
        knobs = {"model": model, "components": LANGUAGE[model], "source": source}
        setup = LANGUAGE["setup"] | {"language": LANGUAGE["setup"]["language"] | knobs}
        file = project / "notebooks/setups/speaks.yaml"
        file.write_text(yaml.safe_dump(setup), encoding="utf8")
        result = snakemake(project, names="speaks")
        assert result.returncode == 0, result.stdout + result.stderr
        found = store.load(project / "_artifacts/speaks/language.safetensors")
        if source == "live":
            live = found
            # What make record does.
            for command in (
                ["snakemake", "classifiers", "--cores", "2", "--config", "setups=speaks"],
                [sys.executable, "-m", "kanlib.networks.recording", "speaks"],
            ):
                result = run(project, *command)
                assert result.returncode == 0, result.stdout + result.stderr
            assert not (project / "_artifacts/speaks/model.safetensors").exists()
            shutil.rmtree(project / "tiny")
    for key, value in live.content.items():
        torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-4, msg=key)


def test_a_setup_that_nobody_recorded_is_pending(project):
    result = snakemake(
        project, "_build/toc.yml", "book/setups/imagenet_resnet50/pending.md", names="imagenet_resnet50"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    page = (project / "book/setups/imagenet_resnet50/pending.md").read_text(encoding="utf8")
    assert "make record SETUPS=imagenet_resnet50" in page
    assert "setups/imagenet_resnet50/pending" in (project / "_build/toc.yml").read_text(encoding="utf8")
