#!/usr/bin/env python3
"""CPU per SSE chunk and memory per open stream of tollhoused beside nginx, relaying the same streams.

    tests/bench/streams_vs_nginx.py [--streams 1000[,5000]] [--seconds 8] [--delay-ms 80] [--rounds 3]
                                    [--only tollhoused]

Needs a release build, nginx and wrk. The simulated provider sends a chunk to every stream each
delay; all streams are open before a measurement begins and none ends within it, so that a chunk is
what is measured and not a request. How many chunks passed is the provider's own count. CPU is the
relaying process's own user and system time, memory its resident set above that before the streams.
tollhoused meters every chunk and has a hold for every stream; nginx does none of that.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from edge_vs_nginx import NGINX, WRK, children, cpu_us, free_port, numbers
import stack as stacks

TOKENS_PER_CHUNK = 4
RAMP_SECONDS = 12


def resident(pids):
    """Kilobytes of memory, in all."""
    return sum(int(line.split()[1]) for pid in pids
               for line in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines()
               if line.startswith("VmRSS"))


def measure(stack, url, pids, directory, streams, secret, options):
    """(CPU us per chunk, chunks/s, KiB per open stream)."""
    chunks = (options.seconds + RAMP_SECONDS) * 1000 // options.delay_ms
    body = directory / "request.json"
    body.write_text(json.dumps({
        "model": "gpt-4o-mini", "max_tokens": 10_000, "stream": True, "messages": [
            {"role": "user", "content": "go [[sim output=%d chunks=%d chunk_delay_ms=%d]]" % (
                chunks * TOKENS_PER_CHUNK, chunks, options.delay_ms)}]}))
    script = directory / "post.lua"
    script.write_text(WRK % (secret, body))
    idle = resident(pids)
    load = subprocess.Popen(["wrk", "-t1", "-c%d" % streams, "-d60s", "--timeout", "60s", "-s",
                             str(script), url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        stacks.wait_until(lambda: stack.sim.totals()["in_flight"] == streams, RAMP_SECONDS,
                          "%d streams" % streams)
        begin, used = stack.sim.totals()["usage"]["output_tokens"], cpu_us(pids)
        started = time.monotonic()
        time.sleep(options.seconds)  # lint: allow(sleep-in-test) what is measured is a time
        used = cpu_us(pids) - used
        passed = (stack.sim.totals()["usage"]["output_tokens"] - begin) / TOKENS_PER_CHUNK
        seconds = time.monotonic() - started
        grown = resident(pids) - idle
    finally:
        load.kill()
        load.wait()
    stacks.wait_until(lambda: stack.sim.totals()["in_flight"] == 0, 60, "the streams to end")
    return used / max(1, passed), passed / seconds, grown / streams


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
                                      "proxy_pass", "proxy_buffering off; proxy_pass").replace(
                                      "worker_processes 1", "worker_processes auto"))
        nginx.start(["/usr/sbin/nginx", "-c", conf])
        stacks.wait_until(lambda: nginx.running and children(nginx.pid), what="nginx's worker")
        targets = {"nginx": ("http://127.0.0.1:%d" % port, children(nginx.pid)),
                   "tollhoused": (stack.edge, [stack.house.pid])}
        targets = {name: target for name, target in targets.items() if options.only in ("", name)}
        print("streams  %-11s %14s %10s %16s" % ("target", "CPU us/chunk", "chunks/s", "KiB per stream"))
        for streams in options.streams:
            medians = {}
            rows = {name: [] for name in targets}
            for _ in range(options.rounds):
                for name, (url, pids) in targets.items():
                    rows[name].append(measure(stack, url, pids, directory, streams, tenant.secret,
                                              options))
            for name, results in rows.items():
                middle = [statistics.median(column) for column in zip(*results)]
                # Memory that is kept does not grow again: the first round says what streams need.
                middle[2] = max(row[2] for row in results)
                medians[name] = middle[0]
                print("%7d  %-11s %14.1f %10.0f %16.1f" % (streams, name, *middle))
            if len(medians) == 2:
                print("tollhoused / nginx: %.2f" % (medians["tollhoused"] / medians["nginx"]), flush=True)
    finally:
        nginx.stop()
        stack.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=numbers, default=[1000])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--delay-ms", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["nginx", "tollhoused", ""], default="")
    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as directory:
        run(pathlib.Path(directory), parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
