"""The demonstration of tools/quickstart, without the part that installs and builds."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import load
from stack import BIN, ROOT, wait_until
from test_sdks import GPT


def quickstart(directory, *arguments, **env):
    return subprocess.Popen(
        [sys.executable, "-B", str(ROOT / "tools" / "quickstart.py"), "--data-dir", str(directory),
         "--listen", "127.0.0.1:0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **env})


def processes_of(directory):
    """Pids of processes with that directory on their command line."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


@pytest.fixture
def built():
    assert BIN == ROOT / "build" / "bin", "quickstart runs what stands in build/bin"


def test_twice_and_nothing_left_behind(built, tmp_path):
    for run in (1, 2):
        process = quickstart(tmp_path / "data", "--no-serve")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert "key demo-%d" % run in output
        assert "alert POSTed to the webhook" in output and "hard stop" in output
        assert re.search(r"ledger = provider's meter, for each of \d+ requests", output)
        assert "insufficient_quota" in output
        assert ("earlier runs" in output) == (run == 2), "the second run keeps the data"
        assert processes_of(tmp_path) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_stopped(built, tmp_path, sent):
    process = quickstart(tmp_path / "data")
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "serving; Ctrl-C" in line:
                break
        output = "".join(lines)
        url = re.search(r"OPENAI_BASE_URL=(http://\S+)/v1", output).group(1)
        key = (tmp_path / "data" / "laptop.key").read_text().strip()
        assert key not in output
        reply = load.call_now(url, load.chat_request(key, {
            "model": GPT, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}))
        assert reply.status == 200
    finally:
        process.send_signal(sent)
        process.stdout.read()
        assert process.wait(30) == 0
    wait_until(lambda: processes_of(tmp_path) == [], what="every process to be gone")


def test_registers_a_real_provider_without_showing_its_key(built, tmp_path):
    process = quickstart(tmp_path / "data", "--no-serve", "--yes", OPENAI_API_KEY="real-key-of-mine")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "registered provider openai" in output and "real-key-of-mine" not in output
    for path in (tmp_path / "data").rglob("*"):
        assert not path.is_file() or b"real-key-of-mine" not in path.read_bytes(), path
