"""What takes longer: thousands of strange files, bits flipped, runs killed, and a disk of 3 MB."""

import shutil
import subprocess

import pytest

from benchmarks import faults
from kanlib import store
from tests import hostile
from tests.small_project import environment

pytestmark = pytest.mark.soak


def test_thousands_of_strange_files(tmp_path):
    counts, started = faults.fuzz(400, tmp_path)
    print(dict(counts))
    assert counts.total() >= 5000
    assert {kind: counts[kind] for kind in hostile.WRONG} == dict.fromkeys(hostile.WRONG, 0)
    assert started == []


def test_every_flipped_bit_is_noticed(project):
    artifacts = [f for f in (project / "_artifacts" / faults.SETUP).iterdir() if ".run." not in f.name]
    assert len({f.name for f in artifacts}) == 7
    noticed, n = faults.flips([*artifacts, *store.RESPONSES.glob("*.safetensors")], 1200)
    assert noticed == n


def test_killed_runs_are_taken_up_to_equal_bytes(project):
    assert faults.kills(project, 20) == 20


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of its own")
def test_a_disk_of_three_megabytes_is_one_sentence(project):
    before = faults.hashes(project)
    inside = "mount -t tmpfs -o size=3m tmpfs _artifacts && exec snakemake --forceall --cores 2"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", inside],  # noqa: S607
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in result.stderr or "permission denied" in result.stderr:
        pytest.skip("may not mount a file system")
    assert result.returncode != 0
    assert "the disk is full: checkpoint.safetensors takes" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert faults.hashes(project) == before
