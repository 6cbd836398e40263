"""Who may know whom in kanlib."""

import importlib
import shutil
import subprocess
import sys

import pytest

from kanlib import sources

TOP = {"charts", "coefficient_charts", "view_charts", "explaining", "explanation", "looks", "mixer"}
WINGS = {"networks", "kan", "symbolic", "attribution", "sae"}
#: Floor → what its modules may import.
MAY = {
    "ground": {"ground"},
    "networks": {"ground", "networks"},
    "kan": {"ground", "kan"},
    "symbolic": {"ground", "kan", "symbolic"},
    "attribution": {"ground", "networks", "kan", "symbolic", "attribution"},
    "sae": {"ground", "networks", "kan", "sae"},
    "top": {"ground", "networks", "kan", "symbolic", "attribution", "sae", "top"},
}


def floor(module):
    first = module.split(".")[1]
    return first if first in WINGS else "top" if first in TOP else "ground"


def arrows(package):
    """Each module that is no face, and what it imports."""
    found = sources.modules(package)
    return {name: sources.imported(file, package) for name, file in found.items() if file.name != "__init__.py"}


def broken(package):
    return [
        f"{name} imports {target}, which stands above it or in a wing that it never meets"
        for name, targets in arrows(package).items()
        for target in sorted(targets)
        if floor(target) not in MAY[floor(name)]
    ]


def circle(package):
    """Modules that lead back to themselves; a topological order exists where there is none."""
    left = arrows(package)
    while ready := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ready}
    return sorted(left)


def test_modules_import_only_what_stands_below():
    assert broken(sources.PACKAGE) == []


@pytest.mark.parametrize(
    "line", ["import book.execute", "from kanlib import files, setup_files, setups, shards, sources, store"]
)
def test_what_orders_and_executes_notebooks_leaves_torch_and_pandas_to_them(line):
    """The lines of book/execute.py and of the Snakefile; several such processes run beside the kernels."""
    asked = f"import sys; {line}; print({{'torch', 'pandas', 'scipy'}} & sys.modules.keys())"
    result = subprocess.run(
        [sys.executable, "-c", asked], cwd=sources.PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
    assert line.startswith("import") or line in (sources.PACKAGE.parent / "Snakefile").read_text(encoding="utf8")


def test_no_module_imports_itself_through_others():
    assert circle(sources.PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("kan/search.py", "from kanlib.networks import probe", "kanlib.kan.search imports kanlib.networks.probe"),
        ("symbolic/refit.py", "from kanlib.networks import Probe", "symbolic.refit imports kanlib.networks.probe"),
        ("networks/probe.py", "import kanlib.kan.splines", "kanlib.networks.probe imports kanlib.kan.splines"),
        ("masks.py", "from kanlib.kan import KAN", "kanlib.masks imports kanlib.kan.kan"),
        ("networks/probe.py", "from kanlib.sae import train", "networks.probe imports kanlib.sae.training"),
        ("kan/kan.py", "def f():\n    from kanlib import charts", "kanlib.kan.kan imports kanlib.charts"),
    ],
)
def test_a_line_that_breaks_the_rule_is_found(tmp_path, file, line, sentence):
    package = tmp_path / "kanlib"
    shutil.copytree(sources.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / file).open("a", encoding="utf8") as text:
        text.write(f"\n{line}\n")
    (found,) = broken(package)
    assert sentence in found


def test_a_circle_is_found(tmp_path):
    package = tmp_path / "kanlib"
    shutil.copytree(sources.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "errors.py").open("a", encoding="utf8") as text:
        text.write("\nfrom kanlib import store\n")
    assert {"kanlib.errors", "kanlib.store"} <= set(circle(package))


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_a_face_hands_on_what_it_says_in_order_and_documented(wing):
    face = importlib.import_module(f"kanlib.{wing}")
    assert face.__all__ == sorted(face.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in face.__all__:
        assert getattr(face, name).__doc__, name
    assert "Example" in face.__doc__
