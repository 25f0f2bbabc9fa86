"""What the processes say about themselves: /healthz, /readyz, /metrics, grpc.health.v1, exit codes."""

import subprocess
import urllib.error

import pytest

from stack import BIN, get, wait_until

SERVICES = ("ledger", "router", "vault", "enforcer", "edge")


def ready(stack, name):
    """(200, text) or (503, why)."""
    record = stack.cluster.state["processes"][name]
    try:
        return 200, get("http://%s/readyz" % record["metrics"], timeout=5).decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_every_process_is_alive_ready_and_measured(stack):
    for service in SERVICES:
        for name in stack.cluster.names(service):
            metrics = stack.cluster.state["processes"][name]["metrics"]
            assert get("http://%s/healthz" % metrics) == b"ok\n"
            assert ready(stack, name) == (200, "ready\n")
            get("http://%s/metrics" % metrics)


def test_an_edge_without_its_services_is_alive_and_not_ready(fresh):
    stack = fresh()
    cluster = stack.cluster
    for name in cluster.names("edge") + cluster.names("router"):
        cluster.stop(name)
    cluster.start("edge-0", wait=False)
    metrics = cluster.state["processes"]["edge-0"]["metrics"]
    wait_until(lambda: alive(metrics), what="the edge lives")
    assert ready(stack, "edge-0") == (503, "not ready: starting\n")
    for name in cluster.names("router"):
        cluster.start(name)
    wait_until(lambda: ready(stack, "edge-0")[0] == 200, what="the edge has a policy")


def alive(metrics):
    try:
        return get("http://%s/healthz" % metrics, timeout=2) == b"ok\n"
    except OSError:
        return False


def test_sigterm_ends_with_exit_code_0(fresh):
    """Started by hand, as the cluster's processes are not children of this one."""
    stack = fresh()
    for service in SERVICES:
        name = service + "-0"
        stack.cluster.stop(name)
        argv = stack.cluster.state["processes"][name]["argv"]
        with open(stack.directory / (service + ".log"), "wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            wait_until(lambda: ready_or_dead(stack, name, process), 30, "%s is ready" % name)
            process.terminate()
            assert process.wait(30) == 0, (stack.directory / (service + ".log")).read_text()
        finally:
            process.kill()
            process.wait()
        stack.cluster.start(name)


def ready_or_dead(stack, name, process):
    assert process.poll() is None
    try:
        return ready(stack, name)[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize("service", SERVICES)
def test_configuration_is_checked_and_printed_without_secrets(stack, service):
    program = BIN / ("tollhouse-" + service)
    config = stack.cluster.directory / "config" / (service + "-0.yaml")

    def run(*arguments, file=config):
        return subprocess.run([program, "--config", file, *arguments], text=True, capture_output=True,
                              check=False)

    checked = run("--check-config")
    assert checked.returncode == 0 and "valid" in checked.stdout
    printed = run("--print-config", "--log-level", "debug")
    assert printed.returncode == 0 and "log_level: debug" in printed.stdout
    assert stack.cluster.token_file.read_text().strip() not in printed.stdout
    wrong = stack.directory / "wrong.yaml"
    wrong.write_text(config.read_text() + "no_such_option: 1\n")
    refused = run("--check-config", file=wrong)
    assert refused.returncode == 2 and "no_such_option: unknown key" in refused.stderr
    assert run("--no-such-flag").returncode == 2
    wrong.write_text("".join(line for line in config.read_text().splitlines(True)
                             if not line.startswith("tls_cert")))
    assert "--tls-cert is required" in run("--check-config", file=wrong).stderr
    helped = run("--help")
    assert helped.returncode == 0 and "Examples:" in helped.stdout and "--tls-ca" in helped.stdout


def test_without_tls_only_this_machine_is_served(stack):
    program = BIN / "tollhouse-ledger"
    done = subprocess.run([program, "--insecure", "--listen", "0.0.0.0:0", "--admin-token-file",
                           stack.cluster.token_file, "--database", "sqlite:/nowhere/x"], text=True,
                          capture_output=True, check=False)
    assert done.returncode == 2
    assert "--insecure is for loopback addresses only, not 0.0.0.0:0" in done.stderr
