"""A real Slurm on this one machine, in a temporary folder: munged, slurmctld and slurmd, gone when the tests are."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
PARTITION = "debug"
CONF = """\
ClusterName=fourhabits
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """`folder` holds everything; `env` is what Slurm's commands need to find it."""

    folder: Path
    env: dict[str, str]
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; empty when it fails."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout.strip()

    def start(self, name: str, *arguments: str, user: str | None = None) -> None:
        path = shutil.which(name, path=f"{self.env['PATH']}:/usr/sbin:/sbin")
        assert path is not None
        with open(self.folder / f"{name}.out", "wb") as log:
            self.daemons[name] = subprocess.Popen(
                [path, *arguments], env=self.env, stdout=log, stderr=log, user=user, group=user, extra_groups=[] if user else None
            )

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Raise with the ends of the logs when `condition` does not come true, or a daemon has died."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.[lo][ou][gt]")]
                raise RuntimeError(f"{what} did not come ({f'{dead} died' if dead else f'{seconds} s'})\n" + "\n".join(logs))
            time.sleep(0.1)

    def stop(self) -> None:
        """End jobs, daemons and what is left of their steps; the folder goes too."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            self.ask("scancel", "--partition", PARTITION)
            deadline = time.monotonic() + 20
            while self.ask("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def missing() -> str | None:
    """Why a Slurm of our own cannot be started here, or None."""
    found = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=found) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "only root can start slurmd"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "there is no user munge"
    return None


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def start_cluster() -> Cluster:
    """Start the three daemons, each when the one that it needs answers."""
    # Not below pytest's own temporary folder: only its owner may enter that, and munged runs as a user of its own.
    folder = Path(tempfile.mkdtemp(prefix="fourhabits-slurm-"))
    folder.chmod(0o755)
    cluster = Cluster(folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir()
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        for path in (folder / "munge", folder / "munge" / "key"):
            shutil.chown(path, "munge", "munge")
        files = {"--socket": "socket", "--key-file": "key", "--pid-file": "pid", "--log-file": "log", "--seed-file": "seed"}
        cluster.start("munged", "--foreground", *(f"{key}={folder}/munge/{name}" for key, name in files.items()), user="munge")
        cluster.wait("munged's socket", (folder / "munge" / "socket").exists)
        host = socket.gethostname().partition(".")[0]
        controller_port, node_port = free_ports(2)
        (folder / "slurm.conf").write_text(
            CONF.format(host=host, folder=folder, controller_port=controller_port, node_port=node_port, partition=PARTITION)
        )
        cluster.start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        cluster.wait("slurmctld", lambda: "is UP" in cluster.ask("scontrol", "ping"))
        cluster.start("slurmd", "-D", "-f", str(folder / "slurm.conf"))
        cluster.wait("an idle node", lambda: cluster.ask("sinfo", "--noheader", "--format", "%T") == "idle")
    except BaseException:
        cluster.stop()
        raise
    return cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A running cluster, or a skip that says what it needs."""
    if reason := missing():
        pytest.skip(f"no Slurm of our own: {reason}")
    running = start_cluster()
    try:
        yield running
    finally:
        running.stop()
