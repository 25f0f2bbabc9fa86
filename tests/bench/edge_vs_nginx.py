#!/usr/bin/env python3
"""CPU per request of the edge beside nginx, relaying the same load to the same upstream in one run.

    tests/bench/edge_vs_nginx.py [--bin build/bin] [--seconds 10] [--connections 64] [--body 2048] [--stream]

Starts tollhouse-simprovider, nginx (a plain relay, keep-alive both ways, one worker) and tollhoused
on free loopback ports in a temporary directory, then drives each with wrk in turn, twice, and prints
requests/s, latency and CPU microseconds per request of the relay's processes (user + system, from
/proc). tollhoused's figure is that of the whole process: edge, enforcer, ledger with its commits.
Afterwards the ledger is held against the provider's meter. Needs wrk and nginx (Debian packages).
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

MODEL = "gpt-4o-mini"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(check, what, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            result = check()
            if result:
                return result
        time.sleep(0.02)
    sys.exit(f"edge_vs_nginx: {what} did not come up in {seconds} s")


def cpu_seconds(pids):
    tick = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / tick


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


class Processes:
    """Child processes, ended by pid in reverse order."""

    def __init__(self, directory):
        self.directory = directory
        self.started = []

    def start(self, name, *argv, **kw):
        log = open(os.path.join(self.directory, name + ".log"), "wb")
        process = subprocess.Popen(argv, stdout=log, stderr=log, **kw)
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_provider(run, args):
    endpoint = os.path.join(run.directory, "sim.json")
    run.start("sim", os.path.join(args.bin, "tollhouse-simprovider"), "--listen", "127.0.0.1:0",
              "--endpoint-file", endpoint)
    return wait_for(lambda: json.load(open(endpoint)), "the simulated provider")["listen"]


def start_nginx(run, upstream):
    port = free_port()
    conf = os.path.join(run.directory, "nginx.conf")
    with open(conf, "w") as f:
        f.write(f"""
worker_processes 1; pid {run.directory}/nginx.pid; error_log {run.directory}/nginx.err; daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {run.directory}/body; proxy_temp_path {run.directory}/proxy;
  fastcgi_temp_path {run.directory}/f; uwsgi_temp_path {run.directory}/u; scgi_temp_path {run.directory}/s;
  client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 1000000;
  upstream sim {{ server {upstream}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://sim; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; }}
  }}
}}""")
    process = run.start("nginx", "nginx", "-c", conf, "-p", run.directory)
    wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True, "nginx")
    return f"http://127.0.0.1:{port}", [process.pid] + children(process.pid)


def start_tollhoused(run, upstream, args):
    data = os.path.join(run.directory, "data")
    process = run.start("tollhoused", os.path.join(args.bin, "tollhoused"), "--data-dir", data,
                        "--edge-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                        "--metrics-listen", "127.0.0.1:0", "--log-level", "warning",
                        "--edge-threads", str(args.edge_threads))
    endpoints = wait_for(lambda: json.load(open(os.path.join(data, "endpoints.json"))), "tollhoused")

    def ctl(*words):
        return json.loads(subprocess.run(
            [os.path.join(args.bin, "tollctl"), "--server", endpoints["admin"], "--token-file",
             os.path.join(data, "admin.token"), "--output", "json", *words],
            check=True, capture_output=True).stdout)

    credential = os.path.join(run.directory, "credential")
    with open(credential, "w") as f:
        f.write("sk-simulated")
    ctl("provider", "set", "openai", "--dialect", "openai", "--base-url", f"http://{upstream}/v1",
        "--credential-file", credential, "--allow-private")
    for kind, path in (("org", "acme"), ("team", "acme/bench"), ("user", "acme/bench/wrk")):
        ctl(kind, "create", path)
        ctl("budget", "set", path, "--limit", "1000000", "--window", "month")
    secret = ctl("key", "create", "acme/bench/wrk", "--name", "load")["secret"]
    ctl("budget", "set", "acme/bench/wrk/load", "--limit", "1000000", "--window", "month")
    return endpoints["edge"], [process.pid], secret, ctl


def load(url, key, script, args):
    out = subprocess.run(["wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "--latency",
                          "-s", script, url + "/v1/chat/completions", "--", key],
                         check=True, capture_output=True, text=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    p50 = re.search(r"50%\s+(\S+)", out).group(1)
    p99 = re.search(r"99%\s+(\S+)", out).group(1)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return requests, rate, p50, p99, int(errors.group(1)) if errors else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--body", type=int, default=2048, help="bytes of the prompt")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--edge-threads", type=int, default=1)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as directory:
        run = Processes(directory)
        try:
            upstream = start_provider(run, args)
            nginx, nginx_pids = start_nginx(run, upstream)
            edge, edge_pids, secret, ctl = start_tollhoused(run, upstream, args)
            body = {"model": MODEL, "max_tokens": 64, "stream": args.stream,
                    "messages": [{"role": "user", "content": "x" * args.body}]}
            if args.stream:
                body["stream_options"] = {"include_usage": True}
            script = os.path.join(directory, "post.lua")
            with open(script, "w") as f:
                f.write(f"""
wrk.method = "POST"
wrk.body = [==[{json.dumps(body)}]==]
wrk.headers["Content-Type"] = "application/json"
function init(args) wrk.headers["Authorization"] = "Bearer " .. args[1] end
""")
            figures = {}
            print(f"{args.connections} connections, {args.body} byte prompt, "
                  f"{'SSE' if args.stream else 'JSON'}, {args.seconds} s per round")
            print(f"{'relay':<12}{'requests/s':>12}{'p50':>10}{'p99':>10}{'CPU us/request':>16}{'errors':>8}")
            for _ in range(2):
                for name, url, pids, key in (("nginx", nginx, nginx_pids, "sk-simulated"),
                                             ("tollhoused", edge, edge_pids, secret)):
                    before = cpu_seconds(pids)
                    requests, rate, p50, p99, errors = load(url, key, script, args)
                    micros = (cpu_seconds(pids) - before) / requests * 1e6
                    figures.setdefault(name, []).append((rate, micros))
                    print(f"{name:<12}{rate:>12.0f}{p50:>10}{p99:>10}{micros:>16.1f}{errors:>8}")
            best = {name: (max(r for r, _ in rows), min(m for _, m in rows)) for name, rows in figures.items()}
            print(f"tollhoused / nginx: CPU {best['tollhoused'][1] / best['nginx'][1]:.2f}, "
                  f"requests/s {best['tollhoused'][0] / best['nginx'][0]:.2f}")
            print("ledger verify:", "ok" if ctl("ledger", "verify")["ok"] else "NOT OK")
        finally:
            run.stop()


if __name__ == "__main__":
    main()
