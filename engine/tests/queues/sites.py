"""Real queues on this machine for the tests, of two nodes each: HTCondor, Grid Engine, ssh, Ray, and PBS's commands on Slurm.

They need root and Debian's packages `NEEDS`. A node is a namespace of processes, network and name, so that it dies as a
machine does. Outside of a temporary folder only /etc/hosts changes, as Slurm's nodes do, and links of networks appear.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.forks import TIMEOUT_S
from tests.queues.conftest import NEEDS as OF_SLURM
from tests.queues.conftest import running as slurm_cluster

NEEDS = {
    "condor": ("condor_master", "htcondor"),
    "sge": ("sge_qmaster", "gridengine-master gridengine-exec gridengine-client"),
    "ssh": ("sshd", "openssh-server openssh-client"),
    "slurm": ("slurmctld", " ".join(OF_SLURM)),
    "pbs": (
        "slurmctld",
        " ".join([*OF_SLURM, "libslurm-perl", "libslurmdb-perl", "libswitch-perl"]),
    ),
    "ray": ("unshare", "util-linux"),
}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
NET = "10.99.7"
NODES = {"gm": f"{NET}.1", "g1": f"{NET}.2", "g2": f"{NET}.3"}


class Site:
    """A queue: `bin` goes before PATH, `arguments` choose it, `daemons` are its nodes by name."""

    def __init__(self, root, name):
        self.root = root
        self.daemons = {}
        self.arguments = (f"cluster={name}", "cluster.cpus=1", "cluster.mem_gb=1")
        self.environment = {}
        (root / "bin").mkdir()

    def command(self, name, text):
        """A command of the site, on PATH."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def remove(self, job):
        run(self, *self.cancel, job)

    def lose(self, node):
        """A machine dies."""
        self.daemons[node].kill()
        self.daemons[node].wait()


def run(site, *command):
    environment = {**os.environ, **site.environment, "PATH": path_of(site)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def path_of(site):
    return f"{site.root / 'bin'}{os.pathsep}{os.environ['PATH']}"


def wait_for(predicate, what):
    end = time.monotonic() + TIMEOUT_S
    while not (value := predicate()):
        assert time.monotonic() < end, f"waited {TIMEOUT_S} s for {what}"
        time.sleep(0.2)
    return value


def succeeds(site, *command, says=""):
    with contextlib.suppress(AssertionError):
        return says in run(site, *command)
    return False


def daemon(stack, *command, host, environment=None, net=None):
    """A daemon in namespaces of its own, which die with it."""
    spaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    # HTCondor takes processes of the same number on two machines for one.
    first = f"echo {sum(map(ord, host))}0 >/proc/sys/kernel/ns_last_pid"
    named = ["sh", "-c", f'hostname "$0"; {first}; "$@" & wait', host]
    inside = ["nsenter", f"--net=/run/netns/{net}"] if net else []
    process = subprocess.Popen(
        [*inside, "setpriv", "--pdeathsig", "KILL", *spaces, *named, *command],
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        **QUIET,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def network(stack):
    """Three hosts of a network of their own."""
    call = lambda text: subprocess.run(shlex.split(text), check=True, **QUIET)  # noqa: E731
    hosts = Path("/etc/hosts")
    for name, address in NODES.items():
        if name not in hosts.read_text().split():
            with hosts.open("a") as file:
                file.write(f"{address} {name}\n")
        subprocess.run(["ip", "netns", "del", name], check=False, **QUIET)
        call(f"ip netns add {name}")
        stack.callback(call, f"ip netns del {name}")
        call(f"ip netns exec {name} ip link set lo up")
    call("ip netns exec gm ip link add br0 type bridge")
    call(f"ip netns exec gm ip addr add {NODES['gm']}/24 dev br0")
    call("ip netns exec gm ip link set br0 up")
    for name in ("g1", "g2"):
        call(f"ip link add v{name} netns gm type veth peer name eth0 netns {name}")
        call(f"ip netns exec gm ip link set v{name} master br0 up")
        call(f"ip netns exec {name} ip addr add {NODES[name]}/24 dev eth0")
        call(f"ip netns exec {name} ip link set eth0 up")


# A dead node is offered jobs for `CLASSAD_LIFETIME` seconds, 900 by default.
CONDOR = """
RELEASE_DIR=/usr
BIN=/usr/bin
SBIN=/usr/sbin
LIB=/usr/lib/condor
LIBEXEC=/usr/libexec/condor
LOCAL_DIR={root}
LOCAL_CONFIG_DIR=
CONDOR_HOST=127.0.0.1
COLLECTOR_HOST=127.0.0.1:29618
NETWORK_INTERFACE=127.0.0.1
BIND_ALL_INTERFACES=False
NETWORK_HOSTNAME={node}.lab
DEFAULT_DOMAIN_NAME=lab
UID_DOMAIN=lab
FILESYSTEM_DOMAIN=lab
SEC_DEFAULT_AUTHENTICATION=OPTIONAL
SEC_DEFAULT_AUTHENTICATION_METHODS=FS
SEC_DEFAULT_ENCRYPTION=NEVER
SEC_DEFAULT_INTEGRITY=NEVER
ALLOW_WRITE=*
ALLOW_READ=*
ALLOW_ADMINISTRATOR=*
ALLOW_NEGOTIATOR=*
ALLOW_DAEMON=*
LOG={root}/{node}
SPOOL={root}/spool
EXECUTE={root}/{node}/execute
LOCK={root}/{node}
RUN={root}/{node}
DAEMON_LIST=MASTER {daemons}
STARTD_NAME={node}
USE_SHARED_PORT=False
NUM_CPUS=4
MEMORY=8000
SLOT_TYPE_1=100%
NUM_SLOTS_TYPE_1=1
SLOT_TYPE_1_PARTITIONABLE=True
CLAIM_PARTITIONABLE_LEFTOVERS=True
START=True
SUSPEND=False
PREEMPT=False
KILL=False
NEGOTIATOR_INTERVAL=2
NEGOTIATOR_MIN_INTERVAL=1
NEGOTIATOR_CYCLE_DELAY=1
SCHEDD_INTERVAL=2
SCHEDD_MIN_INTERVAL=1
UPDATE_INTERVAL=5
MASTER_UPDATE_INTERVAL=5
NEGOTIATOR_UPDATE_INTERVAL=5
CLASSAD_LIFETIME=30
POLLING_INTERVAL=2
ALIVE_INTERVAL=5
JOB_START_DELAY=0
SEC_USE_FAMILY_SESSION=False
ENABLE_URL_TRANSFERS=False
USE_PROCD=False
BASE_CGROUP=
CGROUP_MEMORY_LIMIT_POLICY=none
DISCARD_SESSION_KEYRING_ON_STARTUP=False
"""


def condor(stack, root):
    """HTCondor refuses to run jobs as root, so that all of it is another user of a namespace."""
    site = Site(root, "condor")
    site.arguments += ("cluster.lease_s=10",)
    site.cancel = ("condor_rm",)
    (root / "spool").mkdir()
    users = root / "users"
    users.touch()
    holder = subprocess.Popen(["unshare", "--user", "--map-user=1", "--map-group=1", "sleep", "1d"])
    stack.callback(holder.wait)
    stack.callback(holder.kill)
    outside = Path("/proc/self/ns/user").readlink()
    there = Path(f"/proc/{holder.pid}/ns/user")
    wait_for(lambda: there.readlink() != outside, "a namespace of users")
    subprocess.run(["mount", "--bind", there, users], check=True)
    stack.callback(subprocess.run, ["umount", users], check=True)
    inside = ["nsenter", f"--user={users}", "--preserve-credentials"]
    kinds = {"head": "COLLECTOR NEGOTIATOR SCHEDD", "n1": "STARTD", "n2": "STARTD"}
    for node, daemons in kinds.items():
        (root / node / "execute").mkdir(parents=True)
        (root / node / "execute").chmod(0o755)
        config = root / f"{node}.conf"
        config.write_text(CONDOR.format(root=root, node=node, daemons=daemons))
        master = (*inside, "condor_master", "-f")
        where = {"CONDOR_CONFIG": str(config)}
        site.daemons[node] = daemon(stack, *master, environment=where, host=node)
    for name in ("condor_submit", "condor_q", "condor_rm", "condor_status"):
        there = shlex.join([*inside, f"/usr/bin/{name}"])
        site.command(name, f'CONDOR_CONFIG={root}/head.conf exec {there} "$@"')
    asked = ("condor_status", "-af", "Name")
    wait_for(lambda: succeeds(site, *asked, says="n1") and "n2" in run(site, *asked), "HTCondor")
    return site


SGE_BOOTSTRAP = """admin_user root
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {root}/db
binary_path /usr/sbin
qmaster_spool_dir {root}/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""
SGE_SETTINGS = {
    "execd_spool_dir": "{root}",
    "min_uid": "0",
    "min_gid": "0",
    "load_report_time": "00:00:03",
    "max_unheard": "00:00:10",
    "reschedule_unknown": "00:00:05",
}
SGE_SCHEDULER = {"schedule_interval": "0:0:2", "flush_submit_sec": "1", "flush_finish_sec": "1"}
SGE_SMP = """pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args /bin/true
stop_proc_args /bin/true
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""
SGE_QUEUE = {
    "qname": "all.q",
    "hostlist": "@nodes",
    "seq_no": "0",
    "load_thresholds": "NONE",
    "suspend_thresholds": "NONE",
    "nsuspend": "1",
    "suspend_interval": "00:05:00",
    "priority": "0",
    "min_cpu_interval": "00:05:00",
    "processors": "UNDEFINED",
    "qtype": "BATCH INTERACTIVE",
    "pe_list": "smp",
    "rerun": "TRUE",
    "slots": "4",
    "tmpdir": "/tmp",
    "shell": "/bin/bash",
    "shell_start_mode": "unix_behavior",
    "notify": "00:00:60",
    "initial_state": "default",
}
NONE = "ckpt_list prolog epilog starter_method suspend_method resume_method terminate_method owner_list user_lists"
NONE += " xuser_lists subordinate_list complex_values projects xprojects calendar"
INFINITE = "rt cpu fsize data stack core rss vmem"


def lines(values):
    return "".join(f"{key} {value}\n" for key, value in values.items())


def replaced(text, values):
    kept = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] not in values:
            kept.append(line)
    return "\n".join([*kept, lines(values)])


def sge(stack, root):
    network(stack)
    site = Site(root, "sge")
    site.cancel = ("qdel",)
    programs = Path("/usr/lib/gridengine")
    common = root / "lab" / "common"
    for path in (common, root / "db", root / "qmaster" / "job_scripts"):
        path.mkdir(parents=True)
    for name in ("utilbin", "util", "lib"):
        (root / name).symlink_to(Path("/var/lib/gridengine") / name)
    (common / "bootstrap").write_text(SGE_BOOTSTRAP.format(root=root))
    (common / "act_qmaster").write_text("gm\n")
    shared = Path("/usr/share/gridengine")
    settings = {key: value.format(root=root) for key, value in SGE_SETTINGS.items()}
    text = (shared / "default-configuration").read_text()
    (root / "configuration").write_text(replaced(text, settings))
    names = {"ROOT": root, "CELL": "lab", "QMASTER_PORT": 6444, "EXECD_PORT": 6445, "ND": 1}
    variables = {f"SGE_{name}": str(value) for name, value in names.items()}
    variables["SGE_ARCH"] = "lx-amd64"
    exports = " ".join(f"{name}={value}" for name, value in variables.items() if name != "SGE_ND")
    there = "nsenter --net=/run/netns/gm unshare --uts sh -c 'hostname gm; exec \"$@\"' sh"
    for name in ("qsub", "qstat", "qdel", "qconf", "spoolinit", "spooldefaults"):
        site.command(name, f'export {exports}; exec {there} {programs}/{name} "$@"')
    run(site, "spoolinit", "berkeleydb", "libspoolb", str(root / "db"), "init")
    run(site, "spooldefaults", "configuration", str(root / "configuration"))
    run(site, "spooldefaults", "complexes", str(shared / "util/resources/centry"))
    run(site, "spooldefaults", "usersets", str(shared / "util/resources/usersets"))
    run(site, "spooldefaults", "managers", "root")
    master = str(programs / "sge_qmaster")
    daemon(stack, master, environment=variables, net="gm", host="gm")
    wait_for(lambda: succeeds(site, "qconf", "-ah", "g1,g2"), f"Grid Engine; see {root}/qmaster")
    run(site, "qconf", "-as", "gm,g1,g2")
    for node in ("g1", "g2"):
        node_program = str(programs / "sge_execd")
        site.daemons[node] = daemon(stack, node_program, environment=variables, net=node, host=node)
    of_queue = dict.fromkeys(NONE.split(), "NONE") | SGE_QUEUE
    for name in INFINITE.split():
        of_queue |= {f"s_{name}": "INFINITY", f"h_{name}": "INFINITY"}
    scheduler = replaced(run(site, "qconf", "-ssconf"), SGE_SCHEDULER)
    nodes = "group_name @nodes\nhostlist g1 g2\n"
    texts = {"-Msconf": scheduler, "-Ap": SGE_SMP, "-Ahgrp": nodes, "-Aq": lines(of_queue)}
    for option, content in texts.items():
        (root / "setting").write_text(content)
        run(site, "qconf", option, str(root / "setting"))
    ready = "qstat -f | awk '/^all.q/ && $NF == \"lx-amd64\"' | wc -l"
    wait_for(lambda: run(site, "bash", "-c", ready).strip() == "2", "two nodes of Grid Engine")
    return site


def ssh(stack, root):
    network(stack)
    site = Site(root, "ssh")
    site.cancel = (sys.executable, "-m", "leyden.queue.hosts", "cancel", f"ssh -F {root}/config")
    keys = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f")
    subprocess.run([*keys, root / "host"], check=True)
    subprocess.run([*keys, root / "user"], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = (
        f"IdentityFile={root}/user",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=5",
    )
    (root / "config").write_text("".join(f"{each.replace('=', ' ', 1)}\n" for each in options))
    of_daemon = (
        f"HostKey={root}/host",
        f"AuthorizedKeysFile={root}/user.pub",
        "StrictModes=no",
        "PermitRootLogin=yes",
        "UsePAM=no",
        "PidFile=none",
    )
    words = [word for each in of_daemon for word in ("-o", each)]
    for node in ("g1", "g2"):
        command = ("/usr/sbin/sshd", "-D", "-f", "/dev/null", *words)
        site.daemons[node] = daemon(stack, *command, net=node, host=node)
    there = f"nsenter --net=/run/netns/gm /usr/bin/ssh -F {root}/config"
    site.command("ssh", f'exec {there} "$@"')
    for node in ("g1", "g2"):
        wait_for(lambda node=node: succeeds(site, "ssh", node, "true"), f"sshd on {node}")
    site.arguments += ("cluster.hosts=[g1,g2]", "cluster.slots=4", f"cluster.ssh={root}/bin/ssh")
    site.cancel = (*site.cancel[:-1], f"{root}/bin/ssh")
    return site


def slurm(stack, root, name="slurm_cpu"):
    """Slurm, which starts the jobs of a node again that is down."""
    of_session = SimpleNamespace(session=SimpleNamespace(testsfailed=0))
    started = stack.enter_context(slurm_cluster(of_session, number=12))
    site = Site(root, name)
    site.daemons = dict.fromkeys(("n1", "n2"))
    site.cancel = ("scancel",)
    site.lose = lambda node: started.run(
        "scontrol", "update", f"nodename={node}", "state=down", "reason=dead"
    )
    if name == "slurm_cpu":
        site.arguments = (f"cluster={name}", "cluster.cpus_per_task=1", "cluster.mem_gb=1")
    # Both nodes are one machine; where a job starts again, its code is not what the first node removes.
    place = f"export TMPDIR={root}/$SLURMD_NODENAME; mkdir -p $TMPDIR"
    site.arguments = (*site.arguments, f"cluster.setup=['{place}']")
    return site


def pbs(stack, root):
    """PBS's commands for Slurm; their package can't be installed beside Grid Engine's, and need not be."""
    site = slurm(stack, root, "pbs")
    there = root / "package"
    there.mkdir()
    subprocess.run(["apt-get", "download", "slurm-wlm-torque"], cwd=there, check=True, **QUIET)
    (package,) = there.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, there], check=True)
    for path in (there / "usr" / "bin").iterdir():
        (root / "bin" / path.name).symlink_to(path)
    for name in ("sbatch", "salloc", "srun", "scancel", "squeue", "scontrol"):  # beside them
        (root / "bin" / name).symlink_to(shutil.which(name))
    # The package's qstat fails at a job that runs, as it calls what its Slurm does not have.
    (root / "bin" / "qstat").unlink()
    missing = "sub Slurm::job_cpus_allocated_on_node_id { 1 } $0 = shift; do $0"
    site.command("qstat", f"exec perl -MSlurm -e '{missing}' {there}/usr/bin/qstat \"$@\"")
    site.cancel = ("qdel",)
    return site


RAY_PORT = 6399
RAY_PAGE = 8299


def ray(stack, root):
    """Ray, of the newest package, or of a virtual environment that `RAY_VENV` names."""
    site = Site(root, "ray")
    place = Path(os.environ.get("RAY_VENV", root / "venv"))
    if not place.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = (place / "bin" / "pip", "install", "--quiet", "ray[default]")
        subprocess.run(pip, check=True)
    program = str(place / "bin" / "ray")
    site.command("ray", f'exec {program} "$@"')
    common = ("--block", "--disable-usage-stats")
    head = ("--head", f"--port={RAY_PORT}", f"--dashboard-port={RAY_PAGE}", "--num-cpus=0")
    site.daemons["head"] = daemon(stack, program, "start", *head, *common, host="head")
    address = f"127.0.0.1:{RAY_PORT}"
    wait_for(lambda: succeeds(site, "ray", "job", "list", "--address", address), "Ray")
    status = ("ray", "status", "--address", address)
    for number, node in enumerate(("n1", "n2"), start=1):
        ports = [
            f"--dashboard-agent-{kind}-port={RAY_PAGE + 10 * number + place}"
            for place, kind in enumerate(("listen", "grpc"))
        ]
        joins = ("start", f"--address={address}", "--num-cpus=4", *ports)
        site.daemons[node] = daemon(stack, program, *joins, *common, host=node)
        # Two that start at once may choose the same address.
        cpus = f"/{4 * number}.0 CPU"
        wait_for(lambda says=cpus: succeeds(site, *status, says=says), f"node {node} of Ray")
    site.arguments = ("cluster=ray", "cluster.cpus=1", f"cluster.address={address}")
    site.cancel = ("ray", "job", "stop", "--no-wait", "--address", address)
    return site


STARTS = {"condor": condor, "sge": sge, "ssh": ssh, "slurm": slurm, "pbs": pbs, "ray": ray}


@contextlib.contextmanager
def running(name):
    """A site, until the end of the context."""
    program, packages = NEEDS[name]
    if os.geteuid() or not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        pytest.skip(f"needs root and {name}: apt-get install {packages}")
    root = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        # A SIGTERM ends the session as Ctrl-C does: with what is on the stack.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)
        yield STARTS[name](stack, root)
    shutil.rmtree(root)
