"""A real Slurm for the tests: two nodes on this machine, in a temporary folder.

It has accounting (slurmdbd with MariaDB), limits, and a plugin that asks for an account; `SBATCH_ACCOUNT` gives one.
It needs root and Debian's packages `NEEDS`. Outside its folder only /etc/hosts changes: the ranks of a job
find each other by the name of a node, so `127.0.0.1 n1 n2` is added where n1 is missing. After a failure the folder
stays, for its logs. Each process of pytest-xdist has a cluster of its own. The ports are fixed: one such session per machine.
"""

import os
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import ENGINE
from tests.forks import TIMEOUT_S

NEEDS = ("slurm-wlm", "slurmdbd", "mariadb-server-core", "mariadb-client-core", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
SETTINGS = (
    "add account physics Cluster=lab",
    "add qos limited MaxSubmitJobsPerUser=3",
    "add user root Account=physics Cluster=lab",
    "modify user root set qos+=limited",
)
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class Slurm:
    """What tests ask of the cluster. `root` is its folder."""

    def __init__(self, root):
        self.root = root

    def run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, command, *options):
        return self.run(
            "sbatch", "--parsable", f"--chdir={self.root}", *options, f"--wrap={command}"
        )

    def wait(self, job_id, states):
        """Wait until a job, or each task of an array, is in one of `states`, such as "COMPLETED FAILED"."""
        asked = (
            "squeue",
            "-h",
            "-r",
            "--states=all",
            "-j",
            str(job_id),
            "-o",
            "%T",
        )  # Slurm keeps them for a day
        self.wait_for(
            lambda: {*self.run(*asked).split()} <= {*states.split()}, f"job {job_id} to be {states}"
        )

    def wait_for(self, predicate, what):
        end = time.monotonic() + TIMEOUT_S
        while not (value := predicate()):
            assert time.monotonic() < end, f"waited {TIMEOUT_S} s for {what}"
            time.sleep(0.1)
        return value


def start(stack, *command):
    """A daemon in the foreground, which `stack` will stop."""
    # In a session of its own: Ctrl-C must not stop it before its jobs. If pytest is killed, the kernel stops it.
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    stack.callback(process.wait, timeout=20)
    stack.callback(process.terminate)
    return process


def start_accounting(stack, slurm, port):
    """MariaDB and slurmdbd, with an account, and a quality of service that allows three jobs."""
    root = slurm.root
    socket = slurm.root / "run/my.sock"
    # In a common folder of temporary files, each MariaDB that starts deletes those of the others.
    bare = ("--no-defaults", "--user=root", f"--datadir={root}/db", f"--tmpdir={root}/run")
    slurm.run(
        "mariadb-install-db", *bare, "--auth-root-authentication-method=normal", "--skip-test-db"
    )
    options = (
        f"--socket={socket}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--pid-file={root}/run/db.pid",
    )
    start(stack, "mariadbd", *bare, *options, "--innodb-buffer-pool-size=64M")
    user = "slurm@'127.0.0.1'"
    text = f"create database slurm_acct; create user {user} identified by 'x'; grant all on slurm_acct.* to {user};"
    client = ["mariadb", "--no-defaults", f"--socket={socket}", "--user=root", "--execute", text]
    slurm.wait_for(
        lambda: not subprocess.run(client, capture_output=True).returncode,
        f"MariaDB; see {root}/db",
    )
    start(stack, "slurmdbd", "-D")
    is_there = ["sacctmgr", "--immediate", "add", "cluster", "lab"]
    slurm.wait_for(lambda: not subprocess.run(is_there, capture_output=True).returncode, "slurmdbd")
    for line in SETTINGS:
        slurm.run("sacctmgr", "--immediate", *line.split())


@pytest.fixture(scope="session")
def slurm(request, mnist_root):
    """The nodes n1 and n2 with the partitions `test` and `urgent`, used by all that this process starts."""
    with running(request, number=WORKER) as started:
        yield started


@contextmanager
def running(request, number, min_job_age=86400):
    """A cluster whose ports follow from a number, which remembers ended jobs for so many seconds."""
    if os.geteuid() or not all(map(shutil.which, PROGRAMS)):
        pytest.skip(f"needs root and Slurm: apt-get install {' '.join(NEEDS)}")

    # The path to munge's socket must be short and open to all.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    root.chmod(0o755)
    for name in ("ctld", "db", "etc", "log", "run", "spool/n1", "spool/n2"):
        (root / name).mkdir(parents=True)
    host = os.uname().nodename.split(".")[0]
    names = ("port", "port_1", "port_2", "dbd_port", "db_port")
    ports = {name: 6817 + 5 * number + place for place, name in enumerate(names)}
    # Ids differ from cluster to cluster, so that no job takes the files of an older one for its own, nor the port of another one.
    first_job_id = random.randrange(1000, 4000) + 4000 * number
    settings = {
        "root": root,
        "host": host,
        "first_job_id": first_job_id,
        "min_job_age": min_job_age,
        **ports,
    }
    texts = {
        "cgroup.conf": "CgroupPlugin=disabled\n",
        "gres.conf": "AutoDetect=off\nName=gpu File=/dev/tty[0-1]\n",
    }
    for name in ("slurm.conf", "slurmdbd.conf", "job_submit.lua"):
        texts[name] = Path(__file__).with_name(name).read_text().format(**settings)
    for name, text in {**texts, "munge.key": secrets.token_hex(512)}.items():
        (root / "etc" / name).touch(mode=0o600)
        (root / "etc" / name).write_text(text)
    hosts = Path("/etc/hosts")
    if "n1" not in hosts.read_text().split():
        with hosts.open("a") as file:
            file.write("127.0.0.1 n1 n2\n")

    slurm = Slurm(root)
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        accounts = dict.fromkeys(
            ("SBATCH_ACCOUNT", "SLURM_ACCOUNT"), "physics"
        )  # the second one for srun
        for name, value in {
            "SLURM_CONF": f"{root}/etc/slurm.conf",
            "GLOO_SOCKET_IFNAME": "lo",
            **accounts,
        }.items():
            environment.setenv(name, value)
        environment.setenv(
            "PYTHONPATH", str(ENGINE), prepend=os.pathsep
        )  # jobs use classes of the tests
        # A SIGTERM ends the session as Ctrl-C does: with what follows `yield`.
        stack.callback(
            signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler)
        )
        files = [f"--{kind}-file={root}/etc/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        daemons = [
            start(stack, "munged", "--foreground", f"--socket={root}/run/munge.sock", *files)
        ]
        slurm.wait_for((root / "run/munge.sock").exists, f"munged; see {root}/etc")
        start_accounting(stack, slurm, ports["db_port"])
        daemons += [
            start(stack, *line.split())
            for line in ("slurmctld -D", "slurmd -D -N n1", "slurmd -D -N n2")
        ]

        def ready():
            for daemon in daemons:
                assert daemon.poll() is None, f"a daemon ended; see {root}/log"
            command = ["sinfo", "-h", "-N", "-p", "test", "-t", "idle", "-o", "%N"]
            return (
                subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
                == "n1\nn2\n"
            )

        slurm.wait_for(ready, f"two idle nodes; see {root}/log")
        stack.callback(
            lambda: slurm.wait_for(
                lambda: not slurm.run("squeue", "-h", "-t", "PD,R,CG,CF"), "the end"
            )
        )
        stack.callback(slurm.run, "scancel", "-u", "root")
        yield slurm
    if not request.session.testsfailed:
        shutil.rmtree(root)
