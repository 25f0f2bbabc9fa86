"""Keys and secrets of a cluster: revocation at every edge, also at one that is cut off, and rotations of
everything under load."""

import subprocess
import time

import load
from stack import BIN, ROOT
from test_sdks import GPT, say
from test_secrets import Load

MAX_STALENESS = 4.0


def purchase(edge, key):
    return load.call_now(edge, load.chat_request(key, {
        "model": GPT, "max_tokens": 20, "messages": say("Hello", output=5)}))


class LoadOfEdge(Load):
    def __init__(self, edge, key):
        super().__init__(None, key)
        self.edge = edge

    def run(self):
        while not self.ended.is_set():
            self.statuses.append(purchase(self.edge, self.key).status)


def test_revocation_reaches_connected_edges_at_once_and_others_by_their_staleness(fresh):
    stack = fresh(edges=2, gates=True, settings={"edge": {"max_staleness": "%ds" % MAX_STALENESS}})
    tenant = stack.tenant()
    tenant.set_budget("org", 10**9)
    other = tenant.create_key("other")
    for edge in stack.edges:
        for key in (tenant.secret, other):
            assert purchase(edge, key).status == 200
    began = time.monotonic()
    stack.ctl("key", "revoke", tenant.key, "--yes")
    for edge in stack.edges:
        assert purchase(edge, tenant.secret).status == 401
    assert time.monotonic() - began < 1 + 2  # a command, its start, and two calls on a busy machine

    # The second edge hears nothing any more of its vault, and does not notice a closed connection.
    stack.cluster.gate("edge-1>vault-0", "deaf")
    cut = time.monotonic()
    answer = stack.ctl("key", "revoke", tenant.user + "/other", "--yes")
    assert answer["key"]["state"] == "revoked"
    assert purchase(stack.edges[0], other).status == 401
    while purchase(stack.edges[1], other).status == 200:
        # It finds out that its watch is dead by asking: one second each for question and answer.
        assert time.monotonic() - cut < MAX_STALENESS + 10, "served for too long"
    assert purchase(stack.edges[1], other).status in (401, 503)
    stack.cluster.gate("edge-1>vault-0", "open")


def test_no_call_fails_while_everything_rotates(fresh):
    """Keys, credentials, the key-encryption key and every certificate, with two vaults."""
    stack = fresh(edges=2, ledgers=2, vaults=2, routers=1, enforcers=1)
    tenant = stack.tenant()
    tenant.set_budget("org", 10**10)
    credential = stack.directory / "credential-sim"
    with LoadOfEdge(stack.edges[0], tenant.secret) as first, \
            LoadOfEdge(stack.edges[1], tenant.secret) as second:
        both = (first, second)

        def go_on():
            for running in both:
                running.more(3)

        go_on()
        rotated = stack.ctl("key", "rotate", tenant.key, "--overlap", "1h")["secret"]
        go_on()
        for running in both:
            running.key = rotated
        go_on()
        stack.ctl("credential", "set", "sim", "--credential-file", credential, "--overlap", "1h")
        go_on()
        done = subprocess.run(
            [BIN / "tollhouse-vault", "add-key", "--config",
             stack.cluster.directory / "config" / "vault-0.yaml"],
            text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(stack.ctl("kek", "rewrap")["remaining"]) == 0
        go_on()
        # The other vault learns the new key-encryption key when it meets it.
        for _ in range(2):
            stack.ctl("credential", "set", "sim", "--credential-file", credential, "--overlap", "1h")
            go_on()
        # The same authority, a new certificate for everybody.
        subprocess.run([ROOT / "tools" / "certs", stack.cluster.certificates], check=True,
                       stdout=subprocess.DEVNULL)
        until = time.monotonic() + 4  # the files are looked at once a second
        while time.monotonic() < until:
            go_on()
    assert set(first.statuses) == {200} and set(second.statuses) == {200}
