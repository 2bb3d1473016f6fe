"""A queue of machines that share a folder and that ssh reaches: `conf/cluster/ssh.yaml`.

`hosts submit SSH SLOTS SCRIPT LOG HOST...` starts a script on one of the machines and prints its
id, `hosts state SSH ID...` prints `ID running`, `ID done` or `ID lost`, and `hosts cancel SSH
ID...` ends scripts.
"""

import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence

from leyden.queue.script import run_within

NAME = "leyden-job"  # of a script's process, by which its machine counts them
SILENT = (255, None)  # exit codes of ssh without an answer
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


def on_host(ssh: Sequence[str], host: str, program: str) -> tuple[str, int | None]:
    """Run a program of bash on a machine.

    Return its output and exit code, None without an answer.
    """
    out, error, code = run_within([*ssh, "--", host, "bash -s"], SSH_S, program)
    if code != 0:
        print(f"{host}: {error.strip() or 'no answer'}", file=sys.stderr)
    return out.strip(), code


def start_on(ssh: Sequence[str], num_slots: str, script: str, log: str, *hosts: str) -> int:
    """Start a script on a machine that has room for it, and print its id; return the exit code."""
    program = TO_START % (int(num_slots), shlex.quote(script), shlex.quote(log))
    for host in random.sample(hosts, len(hosts)):
        out, code = on_host(ssh, host, program)
        if code is None:  # it may have started
            return 1
        if code == 0:
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
            if code not in SILENT:
                break
        if code and code not in SILENT:
            return code
        lines = out.splitlines()
        if code in SILENT:
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
