#!/usr/bin/env python3
"""CPU per SSE chunk and memory per open stream of tollhoused beside nginx, relaying the same streams.

    tests/bench/streams_vs_nginx.py [--seconds 10] [--streams 1000] [--chunks 100] [--delay-ms 40]
                                    [--rounds 3]

Needs a release build, nginx and wrk. The simulated provider sends each stream's chunks with that delay;
what the provider billed says how many chunks there were. CPU is the relaying process's own user and
system time. tollhoused meters every chunk, holds and settles every stream; nginx does none of that.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from edge_vs_nginx import NGINX, WRK, children, cpu_us, free_port
import stack as stacks

TOKENS_PER_CHUNK = 4


def resident(pids):
    """Kilobytes of memory, in all."""
    return sum(int(line.split()[1]) for pid in pids
               for line in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines()
               if line.startswith("VmRSS"))


def measure(stack, url, pids, script, options):
    """(CPU us per chunk, chunks/s, KiB per open stream)."""
    idle = resident(pids)
    tokens = stack.sim.totals()["usage"]["output_tokens"]
    before = cpu_us(pids)
    load = subprocess.Popen(["wrk", "-t1", "-c%d" % options.streams, "-d%ds" % options.seconds,
                             "--timeout", "30s", "-s", str(script), url], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)
    grown = 0
    while load.poll() is None:
        grown = max(grown, resident(pids) - idle)
        try:
            load.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    used = cpu_us(pids) - before
    chunks = (stack.sim.totals()["usage"]["output_tokens"] - tokens) / TOKENS_PER_CHUNK
    stacks.wait_until(lambda: stack.sim.totals()["in_flight"] == 0, 60, "the streams to end")
    return used / max(1, chunks), chunks / options.seconds, grown / options.streams


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
        conf.write_text((NGINX % {"dir": directory, "port": port,
                                  "provider": stack.sim.url.split("//")[1]}).replace(
                                      "proxy_pass", "proxy_buffering off; proxy_pass"))
        nginx.start(["/usr/sbin/nginx", "-c", conf])
        stacks.wait_until(lambda: nginx.running and children(nginx.pid), what="nginx's worker")
        body = directory / "body"
        body.write_text(json.dumps({
            "model": "gpt-4o-mini", "max_tokens": 10_000, "stream": True, "messages": [
                {"role": "user", "content": "go [[sim output=%d chunks=%d chunk_delay_ms=%d]]" % (
                    options.chunks * TOKENS_PER_CHUNK, options.chunks, options.delay_ms)}]}))
        script = directory / "post.lua"
        script.write_text(WRK % (tenant.secret, body))
        targets = {"nginx": ("http://127.0.0.1:%d" % port, children(nginx.pid)),
                   "tollhoused": (stack.edge, [stack.house.pid])}
        rows = {name: [] for name in targets}
        for _ in range(options.rounds):
            for name, (url, pids) in targets.items():
                rows[name].append(measure(stack, url, pids, script, options))
        print("%d streams  %-11s %14s %10s %16s" % (
            options.streams, "target", "CPU us/chunk", "chunks/s", "KiB per stream"))
        medians = {}
        for name, results in rows.items():
            middle = [statistics.median(column) for column in zip(*results)]
            medians[name] = middle[0]
            print("              %-11s %14.1f %10.0f %16.1f" % (name, *middle))
        print("tollhoused / nginx: %.2f" % (medians["tollhoused"] / medians["nginx"]))
    finally:
        nginx.stop()
        stack.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--delay-ms", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    with tempfile.TemporaryDirectory() as directory:
        run(pathlib.Path(directory), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
