"""mTLS between the processes: who is let in, who is not, and what the log says."""

import os
import shutil
import subprocess
import time

import pytest

import load
from stack import BIN, ROOT, Tollctl, wait_until
from test_sdks import GPT, say


def events(stack, name, event):
    """How often that process has logged the event."""
    return stack.cluster.log(name).read_text(errors="replace").count('"event":"%s"' % event)


def purchase(stack, tenant, edge=0):
    return load.call_now(stack.edges[edge], load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=10)}))


def edge_with(stack, directory, certificate, key, ca):
    """The log of an edge that tries to start with these files until it gives up."""
    source = (stack.cluster.directory / "config" / "edge-0.yaml").read_text().splitlines()
    replaced = {"tls_cert": certificate, "tls_key": key, "tls_ca": ca, "listen": "127.0.0.1:0",
                "metrics_listen": "127.0.0.1:0", "data_dir": directory / "edge",
                "start_timeout": "2s"}
    lines = [line for line in source if line.split(":")[0] not in replaced]
    lines += ['%s: "%s"' % item for item in replaced.items()]
    config = directory / "edge.yaml"
    config.write_text("\n".join(lines))
    return subprocess.run([BIN / "tollhouse-edge", "--config", config], text=True,
                          capture_output=True, timeout=60, check=False)


def certs(directory, *arguments, ago=None):
    prefix = ["faketime", ago] if ago else []
    subprocess.run([*prefix, ROOT / "tools" / "certs", directory, *arguments], check=True,
                   stdout=subprocess.DEVNULL)


def test_a_certificate_of_another_authority_is_refused(stack, tmp_path):
    certs(tmp_path / "other")
    before = events(stack, "vault-0", "tls_handshake_failed")
    done = edge_with(stack, tmp_path, tmp_path / "other" / "edge.pem", tmp_path / "other" / "edge.key",
                     stack.cluster.certificates / "ca.pem")
    assert done.returncode == 1
    assert "did not get keys and accounts in time" in done.stderr
    assert events(stack, "vault-0", "tls_handshake_failed") > before
    assert "has expired or is of another authority" in stack.cluster.log("vault-0").read_text()


def test_an_expired_certificate_is_refused(stack, tmp_path):
    shutil.copytree(stack.cluster.certificates, tmp_path / "old")
    certs(tmp_path / "old", "--days", "1", "edge", ago="3 days ago")
    done = edge_with(stack, tmp_path, tmp_path / "old" / "edge.pem", tmp_path / "old" / "edge.key",
                     tmp_path / "old" / "ca.pem")
    assert done.returncode == 1 and "edge.pem: has expired" in done.stderr


def test_another_services_certificate_is_refused(stack, tmp_path):
    certificates = stack.cluster.certificates
    done = edge_with(stack, tmp_path, certificates / "router.pem", certificates / "router.key",
                     certificates / "ca.pem")
    assert done.returncode == 1
    assert "is for spiffe://tollhouse/router, this program needs spiffe://tollhouse/edge" in done.stderr


def test_the_admin_port_wants_the_token_and_shows_its_certificate(stack, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("toll-admin-" + "0" * 64)
    server = stack.cluster.env["TOLLHOUSE_SERVER"]
    tollctl = Tollctl(server, wrong)
    tollctl.env["TOLLHOUSE_SERVER_CA"] = stack.cluster.env["TOLLHOUSE_SERVER_CA"]
    done = tollctl.run("org", "list")
    assert done.returncode == 1 and "refused the admin token" in done.stderr
    strangers = Tollctl(server, stack.cluster.token_file)  # without our authority
    assert "cannot reach" in strangers.run("org", "list").stderr
    certs(tmp_path / "other")
    strangers.env["TOLLHOUSE_SERVER_CA"] = str(tmp_path / "other" / "ca.pem")
    assert "cannot reach" in strangers.run("org", "list").stderr


def test_new_certificates_are_taken_while_requests_run(fresh):
    """A new authority and new certificates for everybody; each process is asked anew afterwards."""
    stack = fresh()
    tenant = stack.tenant()
    tenant.set_budget("org", 10**9)
    assert purchase(stack, tenant).status == 200
    before = {name: stack.cluster.state["processes"][name]["pid"] for name in stack.cluster.names()}
    fresh_certificates = stack.directory / "next"
    certs(fresh_certificates)
    for file in fresh_certificates.iterdir():
        os.replace(file, stack.cluster.certificates / file.name)
    time.sleep(3)  # lint: allow(sleep-in-test) the files are looked at once a second
    for name in stack.cluster.names("enforcer") + stack.cluster.names("ledger"):
        stack.cluster.kill(name)
        stack.cluster.start(name)
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service with new certificates")
    assert stack.ctl("org", "list")
    for name in stack.cluster.names():
        if not name.startswith(("enforcer", "ledger")):
            assert stack.cluster.state["processes"][name]["pid"] == before[name]
