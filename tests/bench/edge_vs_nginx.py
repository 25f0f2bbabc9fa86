#!/usr/bin/env python3
"""CPU per request of tollhoused beside nginx relaying the same load to the same provider, in one run.

    tests/bench/edge_vs_nginx.py [--seconds 10] [--connections 1,8,64] [--bodies 2048,65536] [--rounds 3]

Needs a release build (tools/test makes one), nginx and wrk (tools/packages.txt). Each cell is the
median of the rounds; nginx and tollhoused take turns, so that both see the same machine. CPU is the
process's own user and system time over the requests it answered. tollhoused holds, journals, prices
and settles every request against budgets on four levels; nginx does none of that.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
sys.dont_write_bytecode = True

import stack as stacks  # noqa: E402

NGINX = """
worker_processes 1;
daemon off;
pid %(dir)s/nginx.pid;
error_log %(dir)s/nginx-error.log;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path %(dir)s/body; proxy_temp_path %(dir)s/proxy; fastcgi_temp_path %(dir)s/f;
  uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  upstream provider { server %(provider)s; keepalive 512; }
  server {
    listen 127.0.0.1:%(port)d;
    location / {
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
"""
WRK = """
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
local file = io.open("%s", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read
              + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, bad,
                         latency:percentile(50), latency:percentile(99)))
end
"""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_us(pids):
    """User and system time of these processes so far, in microseconds."""
    total = 0
    for pid in pids:
        fields = pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) * 1_000_000 // TICKS
    return total


def children(pid):
    return [int(child) for child in
            pathlib.Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split()]


def measure(url, pids, script, connections, seconds):
    """(requests/s, p50 us, p99 us, CPU us per request, errors)."""
    before = cpu_us(pids)
    done = subprocess.run(["wrk", "-t1", "-c%d" % connections, "-d%ds" % seconds, "-s", str(script), url],
                          capture_output=True, text=True, check=True)
    used = cpu_us(pids) - before
    requests, duration, bad, p50, p99 = map(
        int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout).groups())
    return requests * 1_000_000 / duration, p50, p99, used / max(1, requests), bad


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(directory, options):
    stack = stacks.Stack(directory)
    nginx = stacks.Child("nginx", directory / "nginx.log")
    try:
        stack.start()
        tenant = stack.tenant()
        for level in ("org", "team", "user", "key"):
            tenant.set_budget(level, 10**15)
        port = free_port()
        conf = directory / "nginx.conf"
        conf.write_text(NGINX % {"dir": directory, "port": port,
                                 "provider": stack.sim.url.split("//")[1]})
        nginx.start(["/usr/sbin/nginx", "-c", conf])
        stacks.wait_until(lambda: nginx.running and children(nginx.pid), what="nginx's worker")
        targets = {"nginx": ("http://127.0.0.1:%d" % port, children(nginx.pid)),
                   "tollhoused": (stack.edge, [stack.house.pid])}
        print("%6s %5s  %-11s %10s %9s %9s %12s %7s" % (
            "body", "conns", "target", "requests/s", "p50 us", "p99 us", "CPU us/req", "errors"))
        for size in options.bodies:
            body = directory / ("body-%d" % size)
            message = {"role": "user", "content": "x" * max(1, size - 140)}
            body.write_text(json.dumps({"model": "gpt-4o-mini", "max_tokens": 16, "messages": [message]}))
            script = directory / "post.lua"
            script.write_text(WRK % (tenant.secret, body))
            for connections in options.connections:
                rows = {name: [] for name in targets}
                for _ in range(options.rounds):
                    for name, (url, pids) in targets.items():
                        rows[name].append(measure(url, pids, script, connections, options.seconds))
                for name, results in rows.items():
                    middle = [statistics.median(column) for column in zip(*results)]
                    print("%6d %5d  %-11s %10.0f %9.0f %9.0f %12.1f %7d" % (
                        size, connections, name, *middle[:4], sum(row[4] for row in results)), flush=True)
    finally:
        nginx.stop()
        stack.stop()


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=numbers, default=[1, 8, 64])
    parser.add_argument("--bodies", type=numbers, default=[2048, 65536])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as directory:
        run(pathlib.Path(directory), options)


if __name__ == "__main__":
    main()
