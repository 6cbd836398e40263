"""Shards as a whole: split, computed side by side, killed, taken up again and put together; here and by Slurm."""

import re
import shutil
import signal
import subprocess
from importlib.util import find_spec

import pytest
import yaml

from benchmarks import scale
from kanlib import setups
from tests import slurm
from tests.small_project import environment, started

pytestmark = pytest.mark.slow

SETUP = "digits_resnet18"


def artifacts(project):
    folder = project / "_artifacts" / SETUP
    return {name: (folder / name).read_bytes() for name in scale.ALL if (folder / name).exists()}


def command(*kinds, profile=()):
    targets = [f"_artifacts/{SETUP}/{name}" for name in kinds]
    return ["snakemake", *profile, *targets, "--config", f"setups={SETUP}", "shards=2"]


@pytest.fixture
def emptied(project, tmp_path):
    """A copy of the project in which what has examples is still to be computed."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("_build"), symlinks=True)
    for name in scale.ALL:
        (copy / "_artifacts" / SETUP / name).unlink()
    return copy


def test_shards_give_the_bytes_of_one_run_and_a_killed_one_costs_only_itself(project, emptied):
    """The default setup of the small project has two examples in blocks of one."""
    whole = artifacts(project)
    assert whole.keys() == set(scale.ALL)
    with started(emptied, *command(*scale.ALL), "--cores", "2") as process:
        scale.kernel(process.pid, "1-1").send_signal(signal.SIGKILL)
        said = process.stdout.read()
        assert process.wait() != 0
    ended = re.search(r"shard 1-1 of digits_resnet18: (\w+) was ended from outside", said)
    assert ended, said
    shards = emptied / "_artifacts" / SETUP / "shards"
    assert not all((shards / "1-1" / name).exists() for name in scale.ALL)
    # The other one went on to its end.
    others = {name: (shards / "2-2" / name).stat().st_mtime_ns for name in scale.ALL}
    done = subprocess.run(
        [*command(*scale.ALL), "--cores", "2"], cwd=emptied, env=environment(emptied),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SETUP}: 8 of 8 shards are there." in done.stdout + done.stderr
    assert {name: (shards / "2-2" / name).stat().st_mtime_ns for name in scale.ALL} == others
    assert artifacts(emptied) == whole


def test_a_real_slurm_gives_the_same_bytes(project, emptied, tmp_path):
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("needs the extra cluster")
    profile = yaml.safe_load((emptied / "profiles/slurm/config.yaml").read_text(encoding="utf8"))
    (emptied / "profiles/slurm/config.yaml").write_text(yaml.safe_dump(profile | slurm.PROFILE), encoding="utf8")
    try:
        with slurm.cluster(tmp_path / "slurm") as its:
            done = subprocess.run(
                command("responses.safetensors", profile=["--workflow-profile", "profiles/slurm"]),
                cwd=emptied, env=slurm.joined(environment(emptied), its),
                capture_output=True, text=True, check=False, timeout=600,
            )  # fmt: skip
            nodes = subprocess.run(
                ["squeue", "-a", "-h", "-t", "all", "-o", "%N"],  # noqa: S607
                env=its, capture_output=True, text=True, check=True,
            ).stdout.split()  # fmt: skip
    except slurm.NotHere as reason:
        pytest.skip(str(reason))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"one", "two"} <= set(nodes)
    name = "responses.safetensors"
    assert artifacts(emptied)[name] == artifacts(project)[name]


def test_profiles_say_nothing_that_a_run_does_not_know():
    for name in ("default", "slurm", "kubernetes"):
        profile = yaml.safe_load((setups.store.ROOT / f"profiles/{name}/config.yaml").read_text(encoding="utf8"))
        assert profile["nolock"]
        assert profile["keep-going"]
        assert set(profile.get("set-resources", {})) <= {"01_perturbation", "02_surrogate"}


@pytest.mark.soak
@pytest.mark.parametrize("part", scale.PARTS)
def test_the_figures_of_the_book_hold(tmp_path, monkeypatch, part):
    """1,000 examples, one worker and two, every stage against examples and masks, a Slurm; the ledger stays."""
    for name in ("GROWTH", "WORKERS"):
        monkeypatch.setattr(scale, name, tmp_path / f"{name}.json")
    try:
        measured = scale.PARTS[part](tmp_path / part)
    except slurm.NotHere as reason:
        pytest.skip(str(reason))
    print({claim.id: claim.value for claim in measured})
    assert [claim.id for claim in measured if claim.missed or not claim.holds()] == []
