"""A process of a cluster: started from a stored command, found again by its pid and start time.

Processes outlive the script that starts them; everything about them rests in a dict that is kept as
JSON: {"argv", "env", "log", "pid", "born"}.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import time


def wait_for(check, timeout, interval=0.02):
    """Polls until check() is truthy and returns that, else what it was at the end."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result or time.monotonic() > deadline:
            return result
        time.sleep(interval)  # lint: allow(sleep-in-test) the one poll loop


def _stat(pid):
    """(state, start time in ticks) of a process, None if there is none."""
    try:
        fields = pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def state_of(record):
    """"running", "paused" or "dead"."""
    found = _stat(record["pid"]) if record.get("pid") else None
    if found is None or found[1] != record["born"] or found[0] in "ZX":
        return "dead"
    return "paused" if found[0] == "T" else "running"


def spawn(record, prefix=(), env=None):
    """Starts the command of the record in a session of its own and notes pid and birth."""
    pathlib.Path(record["log"]).parent.mkdir(parents=True, exist_ok=True)
    with open(record["log"], "ab") as log:
        process = subprocess.Popen(
            [*prefix, *record["argv"]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            env={**os.environ, **record.get("env", {}), **(env or {})}, start_new_session=True)
    process.returncode = 0  # found by its pid from now on
    adopt(record, process.pid)


def adopt(record, pid):
    """The record is of this running process."""
    found = _stat(pid)
    record["pid"], record["born"] = pid, found[1] if found else -1


def send(record, number):
    if state_of(record) != "dead":
        os.kill(record["pid"], number)


def send_all(record, number):
    """To the process and those it made."""
    if state_of(record) == "dead":
        return
    for pid in [record["pid"], *_children(record["pid"])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(parent):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


def reap(record, timeout):
    """Waits until the process is gone; False if it is not."""
    def gone():
        if not record.get("pid"):
            return True
        try:
            os.waitpid(record["pid"], os.WNOHANG)  # where it is a child of this process
        except (ChildProcessError, OSError):
            pass
        return state_of(record) == "dead"
    return wait_for(gone, timeout)


def kill(record):
    send(record, signal.SIGKILL)
    reap(record, 10)


def tail(record, lines=15):
    """The end of its log."""
    try:
        text = pathlib.Path(record["log"]).read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
