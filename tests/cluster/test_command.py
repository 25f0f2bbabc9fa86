"""tools/cluster as people use it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from stack import BIN, ROOT, get, wait_until

EMBEDDED = ("--postgres", "none", "--redis", "none")  # what the command does is the same, and sooner


def run(command, directory, *arguments, env=None):
    return subprocess.run([ROOT / "tools" / "cluster", command, "--dir", directory, *arguments], text=True,
                          capture_output=True, env={**os.environ, **(env or {})}, timeout=120, check=False)


def alive(pid):
    try:
        return pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def directory(tmp_path):
    yield tmp_path / "c"
    run("down", tmp_path / "c")


def test_up_kill_start_and_down(directory):
    up = run("up", directory, *EMBEDDED)
    assert up.returncode == 0, up.stderr
    cluster = json.loads((directory / "cluster.json").read_text())
    assert cluster["edges"][0] in up.stdout
    assert get("http://%s/readyz" % cluster["processes"]["edge-0"]["metrics"]) == b"ready\n"
    env = dict(line.split("=", 1) for line in run("env", directory).stdout.splitlines())
    assert env == cluster["env"]
    assert subprocess.run([BIN / "tollctl", "org", "create", "acme"], env={**os.environ, **env},
                          capture_output=True, check=False).returncode == 0
    assert run("kill", directory, "router-0", "vault-0").returncode == 0
    assert run("pause", directory, "ledger-0").returncode == 0
    states = {line.split()[0]: line.split()[1] for line in run("status", directory).stdout.splitlines()}
    assert states == {"ledger-0": "paused", "router-0": "dead", "vault-0": "dead", "enforcer-0": "running",
                      "edge-0": "running"}
    assert run("resume", directory, "ledger-0").returncode == 0
    assert run("start", directory, "router-0", "vault-0").returncode == 0
    again = json.loads((directory / "cluster.json").read_text())["processes"]
    assert again["router-0"]["pid"] != cluster["processes"]["router-0"]["pid"]
    assert again["router-0"]["address"] == cluster["processes"]["router-0"]["address"]
    assert '"event":"ready"' in run("logs", directory, "edge-0").stdout
    pids = [record["pid"] for record in again.values()]
    assert run("down", directory).returncode == 0
    assert not any(alive(pid) for pid in pids)
    assert not (directory / "cluster.json").exists()
    assert run("up", directory, *EMBEDDED).returncode == 0, "a directory may be used again"


def test_mistakes_are_explained(directory, tmp_path):
    assert run("up", directory, *EMBEDDED).returncode == 0
    twice = run("up", directory, *EMBEDDED)
    assert twice.returncode == 1 and "a cluster runs in" in twice.stderr
    unknown = run("kill", directory, "ledger-7")
    assert unknown.returncode == 1
    assert "there is no process ledger-7" in unknown.stderr and "ledger-0" in unknown.stderr
    running = run("start", directory, "edge-0")
    assert running.returncode == 1 and "edge-0 is running" in running.stderr
    assert "there is no gate x>y" in run("gate", directory, "x>y", "cut").stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    foreign = run("up", tmp_path / "mine", *EMBEDDED)
    assert foreign.returncode == 1 and "was not made by tools/cluster" in foreign.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert "several enforcers need --redis" in run("up", tmp_path / "x", *EMBEDDED, "--enforcers", "2").stderr


def test_a_process_that_does_not_start_is_named_with_the_end_of_its_log(tmp_path):
    """And nothing is left running."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for program in BIN.glob("tollhouse-*"):
        (binaries / program.name).symlink_to(program)
    (binaries / "tollhouse-edge").unlink()
    (binaries / "tollhouse-edge").write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    (binaries / "tollhouse-edge").chmod(0o755)
    up = run("up", tmp_path / "c", *EMBEDDED, env={"TOLLHOUSE_BIN": str(binaries)})
    assert up.returncode == 1
    assert "edge-0 ended" in up.stderr and "no such luck" in up.stderr
    state = json.loads((tmp_path / "c" / "state.json").read_text())
    assert not any(alive(record["pid"]) for record in state["processes"].values() if "pid" in record)
    (binaries / "tollhouse-edge").unlink()
    up = run("up", tmp_path / "c", *EMBEDDED, env={"TOLLHOUSE_BIN": str(binaries)})
    assert up.returncode == 1 and "tollhouse-edge is missing: build first" in up.stderr


def test_a_cluster_ends_with_its_owner(directory):
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert run("up", directory, *EMBEDDED, "--owner", str(owner.pid)).returncode == 0
    pids = [record["pid"] for record in
            json.loads((directory / "cluster.json").read_text())["processes"].values()]
    assert all(alive(pid) for pid in pids)
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), 30, "every process has ended")
