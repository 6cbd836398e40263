"""A Slurm of two nodes on this machine, which ends with the test that started it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

#: Those that must be there; of Debian they are in slurm-wlm and munge.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
CONFIGURATION = """\
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
MinJobAge=3600
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=small Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


#: What differs there from a large cluster: no GPU, little memory, no accounting; it is asked more often.
PROFILE = {
    "set-resources": {"01_perturbation": {"mem_mb": 3000}},
    "default-resources": {"mem_mb": 3000},
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": 5,
    "seconds-between-status-checks": 5,
}


class NotHere(Exception):  # noqa: N818
    """Why no Slurm can be started here."""


def _path():
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin"


def program(name):
    """Where a program of Slurm's lies."""
    if found := shutil.which(name, path=_path()):
        return found
    raise NotHere(f"{name} is not installed; on Debian: apt-get install slurm-wlm munge")


def _free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)
    if done.returncode:
        raise NotHere(f"{Path(command[0]).name} does not run here: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout


@contextmanager
def cluster(folder):
    """Start munged, slurmctld and two slurmd in a folder; gives the environment in which jobs can be submitted.

    Raises:
        NotHere: something of it is not installed, or cannot run here.
    """
    found = {name: program(name) for name in PROGRAMS}
    if os.geteuid():
        raise NotHere("Slurm's daemons want to be root")
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=_free_ports(3))
    configuration.write_text(text, encoding="utf8")
    # Snakemake takes SLURM_CONF out of the environment of its jobs, so the commands are told each time.
    commands = folder / "bin"
    commands.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun"):
        file = commands / name
        file.write_text(f'#!/bin/sh\nSLURM_CONF="{configuration}" exec {found[name]} "$@"\n', encoding="utf8")
        file.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": f"{commands}{os.pathsep}{_path()}"}
    with _daemons(folder):
        own = {name: folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        files = ("--socket", own["socket"], "--pid-file", own["pid"], "--log-file", own["log"])
        _run(found["munged"], "--force", "--key-file", key, "--seed-file", own["seed"], *files)
        _run(found["slurmctld"], "-i", env=environment)
        for node in ("one", "two"):
            _run(found["slurmd"], "-N", node, env=environment)
        until = time.monotonic() + 60
        while _run(commands / "sinfo", "-h", "-o", "%T %D").split() != ["idle", "2"]:
            if time.monotonic() > until:
                raise NotHere("its nodes do not answer")
            time.sleep(0.5)
        yield environment


def joined(environment, its):
    """An environment of commands, with that of :func:`cluster`."""
    commands = its["PATH"].split(os.pathsep)[0]
    path = f"{commands}{os.pathsep}{environment['PATH']}"
    return environment | {"SLURM_CONF": its["SLURM_CONF"], "PATH": path}


@contextmanager
def _daemons(folder):
    """Ends those that left their numbers in the folder."""
    try:
        yield
    finally:
        for file in [*sorted(folder.glob("slurm*.pid"), reverse=True), *folder.glob("munge.pid")]:
            with suppress(ValueError, ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        time.sleep(1)
