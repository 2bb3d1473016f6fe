"""A queue of machines that share a folder and that ssh reaches: `conf/cluster/ssh.yaml` calls this module's command.

`hosts submit SSH SLOTS SCRIPT LOG HOST...` starts a script on one of the machines and prints its id,
`hosts state SSH ID...` prints `ID running`, `ID done` or `ID lost`, and `hosts cancel SSH ID...` ends scripts.
"""

import random
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence

NAME = "leyden-job"  # of a script's process, by which its machine counts them
UNREACHABLE = 255  # exit code of ssh
SSH_S = 40
# The time at which a process began tells it from a later one with its number.
BEGAN = "cut -d' ' -f22 /proc/$p/stat 2>/dev/null"
TO_START = f"""
[ "$(pgrep -cf '^{NAME}')" -lt %s ] || exit 7
setsid bash -c 'exec -a {NAME} bash "$0"' %s >>%s 2>&1 </dev/null & p=$!
sleep 0.1; echo "$p:$({BEGAN})"
"""
TO_LOOK = f"""
for each in %s; do p=${{each%%%%:*}}
[ "$p:$({BEGAN})" = $each ] && echo $each running || echo $each done
done
"""
TO_END = f"""
for each in %s; do p=${{each%%%%:*}}
[ "$p:$({BEGAN})" = $each ] && kill -- -$p
done
"""


def on_host(ssh: Sequence[str], host: str, program: str) -> tuple[str, int]:
    """Run a program of bash on a machine; return its output and exit code, `UNREACHABLE` without an answer."""
    try:
        done = subprocess.run(
            [*ssh, "--", host, "bash -s"],
            input=program,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SSH_S,
        )
    except subprocess.TimeoutExpired:
        return "", UNREACHABLE
    if done.returncode:
        print(f"{host}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.strip(), done.returncode


def start_on(ssh: Sequence[str], num_slots: str, script: str, log: str, *hosts: str) -> int:
    """Start a script on a machine that has room for it, and print its id; return the exit code."""
    program = TO_START % (int(num_slots), shlex.quote(script), shlex.quote(log))
    for host in random.sample(hosts, len(hosts)):
        out, code = on_host(ssh, host, program)
        if not code:
            print(f"{host}:{out}")
            return 0
    print(
        f"no machine has room for a further job, or none answers: {' '.join(hosts)}",
        file=sys.stderr,
    )
    return 1


def by_host(ids: Sequence[str]) -> dict[str, list[str]]:
    """Return processes by their machine."""
    found = defaultdict(list)
    for job in ids:
        host, process, began = job.rsplit(":", 2)
        found[host].append(f"{int(process)}:{int(began)}")
    return found


def look(ssh: Sequence[str], *ids: str) -> int:
    """Print the state of each script."""
    for host, processes in by_host(ids).items():
        for _ in range(2):
            out, code = on_host(ssh, host, TO_LOOK % " ".join(processes))
            if code != UNREACHABLE:
                break
        lines = out.splitlines()
        if code == UNREACHABLE:
            lines = [f"{each} lost" for each in processes]
        print("".join(f"{host}:{line}\n" for line in lines), end="")
    return 0


def end(ssh: Sequence[str], *ids: str) -> int:
    """End scripts."""
    for host, processes in by_host(ids).items():
        on_host(ssh, host, TO_END % " ".join(processes))
    return 0


def main() -> None:
    """Run the command."""
    verb, ssh, *arguments = sys.argv[1:]
    calls: dict[str, Callable[..., int]] = {"submit": start_on, "state": look, "cancel": end}
    sys.exit(calls[verb](shlex.split(ssh), *arguments))


if __name__ == "__main__":
    main()
