"""A full disk under journal and database: admission stops and says so, nothing is lost."""

import os
import subprocess

import pytest

import audit
import load
from stack import Stack, wait_until
from test_sdks import GPT, say


def purchase(stack, tenant, output=10, **directives):
    return load.call_now(stack.edge, load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=output, **directives)}))


@pytest.fixture
def small_disk(tmp_path):
    """A stack whose data directory is a file system of 64 MiB of its own."""
    data = tmp_path / "data"
    data.mkdir()
    if os.geteuid() == 0:
        mount = ["mount"]
        umount = ["umount"]
    else:
        mount, umount = ["sudo", "-n", "mount"], ["sudo", "-n", "umount"]
    subprocess.run([*mount, "-t", "tmpfs", "-o", "size=64m,mode=0700,uid=%d" % os.geteuid(), "tmpfs",
                    data], check=True)
    stack = Stack(tmp_path)
    try:
        yield stack.start()
    finally:
        stack.stop()
        subprocess.run([*umount, data], check=True)


def fill(directory):
    """Takes every free byte of the file system."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as f:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while f.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return filler


def test_full_disk_stops_admission_and_loses_nothing(small_disk):
    stack = small_disk
    tenant = stack.tenant()
    cap = 10**9
    tenant.set_budget("org", cap)
    for _ in range(5):
        assert purchase(stack, tenant).status == 200
    filler = fill(stack.house.data)
    statuses = []

    def refused():
        reply = purchase(stack, tenant)
        statuses.append(reply.status)
        return reply if reply.status not in (200, 402) else None

    reply = wait_until(refused, 60, "admission to stop")
    assert reply.status == 503, "an infrastructure failure is not an exhausted budget"
    assert reply.headers["x-should-retry"] == "true" and int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["message"]
    log = stack.house.log.read_text(errors="replace").lower()
    assert "disk" in log or "space" in log or "full" in log, "the operator is told why"
    assert stack.house.running
    filler.unlink()
    wait_until(lambda: purchase(stack, tenant).status == 200, 60, "service after room was made")
    tenant.settled()
    audit.check_covered(tenant, cap)
    assert stack.ctl("ledger", "verify")["ok"]


def test_kill_9_on_a_full_disk(small_disk):
    stack = small_disk
    tenant = stack.tenant()
    cap = 10**9
    tenant.set_budget("org", cap)
    for _ in range(5):
        assert purchase(stack, tenant).status == 200
    filler = fill(stack.house.data)
    for _ in range(5):
        purchase(stack, tenant)
    stack.house.kill()
    filler.unlink()
    stack.house.start()
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service after the restart")
    tenant.settled()
    audit.check_covered(tenant, cap)
    assert stack.ctl("ledger", "verify")["ok"]
