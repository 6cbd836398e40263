import json

import pytest

from kanlib import setups, sources, store
from kanlib.errors import BadInputError

NOTEBOOKS = sources.notebooks(store.NOTEBOOKS)


@pytest.fixture
def package(tmp_path):
    """A package with a wing whose face hands on what two modules define."""
    root = tmp_path / "kanlib"
    (root / "wing").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "ground.py": "import json\n",
        "lonely.py": "from kanlib import ground\n",
        "wing/__init__.py": "from kanlib.wing.one import first\nfrom kanlib.wing.two import second\n",
        "wing/one.py": "from kanlib.wing.two import helper\n",
        "wing/two.py": "def late():\n    from kanlib import ground\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf8")
    return root


def names(files, package):
    return [str(file.relative_to(package)) for file in files]


def test_every_module_has_a_name_and_a_wing_that_of_its_folder(package):
    found = sources.modules(package)
    assert list(found) == [
        "kanlib",
        "kanlib.ground",
        "kanlib.lonely",
        "kanlib.wing",
        "kanlib.wing.one",
        "kanlib.wing.two",
    ]
    assert found["kanlib.wing"].name == "__init__.py"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from kanlib.wing import first", ["ground.py", "wing/one.py", "wing/two.py"]),
        ("from kanlib.wing import second", ["ground.py", "wing/two.py"]),
        ("from kanlib.wing import one", ["ground.py", "wing/one.py", "wing/two.py"]),
        ("from kanlib.wing.two import helper", ["ground.py", "wing/two.py"]),
        ("import kanlib.lonely", ["ground.py", "lonely.py"]),
        ("import torch", []),
    ],
)
def test_a_file_depends_on_what_it_imports_and_on_what_that_imports(package, tmp_path, line, expected):
    script = tmp_path / "script.py"
    script.write_text(line + "\n", encoding="utf8")
    assert names(sources.reached(script, package), package) == expected


def test_a_notebook_depends_on_the_imports_of_its_code_cells(package, tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["from kanlib import lonely"]},
        {"cell_type": "code", "source": ["from kanlib.wing import second\n", 'p.save("table", 1)']},
        {
            "cell_type": "code",
            "source": ['a = p.load("x")\n', 'b = p.load("table")\n', 'q.load("y")\n', "p.load(a)"],
        },
    ]
    notebook = tmp_path / "n.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf8")
    assert names(sources.reached(notebook, package), package) == ["ground.py", "wing/two.py"]
    assert sources.artifacts(notebook) == (["x"], ["table"])


def test_a_notebook_reads_the_knobs_of_other_sections(tmp_path):
    notebook = tmp_path / "05_more.ipynb"
    source = ["knobs = Surrogate.from_setup(p.setup)\n", "p.from_setup\n", "Training"]
    cells = [{"cell_type": "code", "source": source}]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf8")
    assert sources.sections(notebook, setups.STAGES) == ["surrogate"]


def test_a_readers_own_notebooks_do_not_count(tmp_path):
    for name in ("02_surrogate", "Untitled", "02_surrogate-Copy1", "00_training", "1_more", "my_03_symbolic"):
        (tmp_path / f"{name}.ipynb").touch()
    assert [file.stem for file in sources.notebooks(tmp_path)] == ["00_training", "02_surrogate"]


def test_a_notebook_with_magics_is_refused_with_a_sentence(tmp_path):
    notebook = tmp_path / "05_more.ipynb"
    cells = [{"cell_type": "code", "source": ["x = 1\n", "%matplotlib inline\n"]}]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf8")
    with pytest.raises(BadInputError, match=r"05_more.ipynb is not plain Python .*%matplotlib inline.*mend it"):
        sources.artifacts(notebook)


def test_a_notebook_without_knobs_is_refused_with_a_sentence():
    with pytest.raises(BadInputError, match=r"section recount is unknown to the stages .* notebook 05_recount"):
        setups.of_notebook("05_recount")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_notebooks_write_what_only_they_write_and_read_what_was_written_before(notebook):
    reads, writes = sources.artifacts(notebook)
    before = [kind for earlier in NOTEBOOKS[: NOTEBOOKS.index(notebook)] for kind in sources.artifacts(earlier)[1]]
    assert writes
    assert not set(writes) & set(before)
    assert set(reads) <= set(before)
    assert all(store.written_by(kind) == notebook.stem for kind in writes)
    assert setups.of_notebook(notebook.stem) in setups.STAGES.values()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_notebooks_see_the_faces_of_the_wings_alone(notebook):
    for module, name in sources._imports(notebook):
        if module.startswith("kanlib."):
            assert module.count(".") == 1, f"{notebook.stem} imports {name} from {module}, not from its wing"
        assert (module, name) not in [("kanlib", wing) for wing in ("networks", "kan", "symbolic", "attribution")]


def test_training_does_not_depend_on_the_mathematics():
    reached = names(sources.reached(NOTEBOOKS[0]), sources.PACKAGE)
    assert not [name for name in reached if name.startswith(("kan/", "symbolic/", "attribution/"))]
