"""Files that other hosts run and nobody here can: the workflow of GitHub, Binder's folder, the cell for Colab."""

import re
import tomllib
from xml.etree import ElementTree

import yaml

from kanlib import store

WORKFLOWS = sorted((store.ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):.*##", (store.ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
PROJECT = tomllib.loads((store.ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
CONFIG = yaml.safe_load((store.ROOT / "_config.yml").read_text(encoding="utf8"))


def steps(workflow):
    whole = yaml.safe_load(workflow.read_text(encoding="utf8"))
    return [step for job in whole["jobs"].values() for step in job["steps"]]


def test_the_book_is_built_by_the_command_that_builds_it_everywhere():
    (book,) = WORKFLOWS
    commands = [step["run"] for step in steps(book) if "run" in step]
    assert {"make book", "make check"} <= set(commands)
    named = [name for command in commands for name in re.findall(r"\bmake ([\w-]+)", command)]
    assert set(named) <= set(TARGETS)
    (folder,) = (step["with"]["path"] for step in steps(book) if "upload-pages" in step.get("uses", ""))
    assert f'"{folder}/index.html"' in (store.ROOT / "Snakefile").read_text(encoding="utf8")


def test_the_workflow_says_the_addresses_that_the_book_reads():
    (said,) = (step["env"] for step in steps(WORKFLOWS[0]) if step.get("run") == "make book")
    read = set(re.findall(r"\bBOOK_[A-Z]+\b", (store.ROOT / "book/_ext/address.py").read_text(encoding="utf8")))
    assert set(said) == read
    (pages,) = (step["id"] for step in steps(WORKFLOWS[0]) if "configure-pages" in step.get("uses", ""))
    assert said["BOOK_URL"] == f"${{{{ steps.{pages}.outputs.base_url }}}}"


def test_what_the_workflow_caches_is_known_by_files_that_are_there():
    settings = [step["with"] for step in steps(WORKFLOWS[0]) if "setup-python" in step.get("uses", "")]
    assert settings
    for given in settings:
        assert (store.ROOT / given["cache-dependency-path"]).is_file()
        assert re.fullmatch(r"3\.1[123]", given["python-version"])


def test_binder_installs_the_locked_torch_for_the_cpu():
    lines = (store.ROOT / "binder/requirements.txt").read_text(encoding="utf8").splitlines()
    locked = dict(re.findall(r"^(torch|torchvision)==(\S+)", (store.ROOT / "requirements.lock").read_text(), re.M))
    assert len(locked) == 2
    assert {f"{name}=={version}+cpu" for name, version in locked.items()} <= set(lines)
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines
    (constraints,) = (line.split()[1] for line in lines if line.startswith("-c"))
    assert (store.ROOT / "binder" / constraints).resolve() == store.ROOT / "requirements.lock"
    (extras,) = (line for line in lines if line.startswith("-e"))
    assert set(re.findall(r"[a-z]+", extras.partition("[")[2])) <= PROJECT["optional-dependencies"].keys()


def test_binders_other_files_are_as_it_reads_them():
    assert re.fullmatch(r"python-3\.1[123]\n", (store.ROOT / "binder/runtime.txt").read_text(encoding="utf8"))
    hook = store.ROOT / "binder/postBuild"
    assert hook.stat().st_mode & 0o111
    assert hook.read_text(encoding="utf8").startswith("#!")


def test_the_cell_for_colab_installs_what_the_book_asks_for():
    cell = (store.ROOT / "tests/examples/colab.txt").read_text(encoding="utf8")
    extra, *others = re.findall(r'"([^"]+)"', cell)
    asked = PROJECT["optional-dependencies"]
    assert extra.strip(".[]") in asked
    assert set(others) <= set(asked["book"])


def test_the_favicon_is_a_small_drawing():
    icon = store.ROOT / "book" / CONFIG["html"]["favicon"]
    assert icon.stat().st_size < 2000
    assert ElementTree.parse(icon).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 (ours)
