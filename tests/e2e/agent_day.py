"""A day of coding agents under a hard cap: four agents in sessions whose bodies grow from 50 KB to
760 KB, nearly all of it read from the provider's cache, max_tokens 32,000, tools, SSE. It goes on until
the budget refuses for good, and says how much of the cap could be used and what holds cost in time.

    tests/e2e/agent_day.py [--cap USD] [--agents N] [--seed N] [--latency-ms N]
"""

import argparse
import http.client
import json
import pathlib
import random
import statistics
import tempfile
import threading
import time

import stack as stacks

MODEL = "claude-sonnet-4-5"
TOOLS = [{"name": name, "description": "A tool of the agent: " + name, "input_schema": {
    "type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}}}
    for name in ("read", "edit", "search", "run")]
GIVE_UP = 60  # seconds that one call may take, all its retries included


class Agent(threading.Thread):
    """One agent: session after session until it is refused for good. Its figures are its fields."""

    def __init__(self, number, edge, secret, seed, latency_ms):
        super().__init__(name="agent-%d" % number)
        self.rng = random.Random("%s %d" % (seed, number))
        self.address = edge.split("//")[1]
        self.secret = secret
        self.latency = latency_ms / 1000
        self.calls, self.retries = 0, 0
        self.waits = []  # seconds per call that neither the provider nor the network took
        self.refusal = None  # the final one, and when
        self.error = None

    def run(self):
        try:
            while self.refusal is None:
                self.session()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def session(self):
        """Turns that add a tool's result each; the provider has read all but the last ones before."""
        target = self.rng.randrange(300_000, 760_000)
        texts = ["x" * self.rng.randrange(30_000, 60_000)]
        while sum(map(len, texts)) < target and self.refusal is None:
            texts.append("y" * self.rng.randrange(4_000, 30_000))
            total = sum(map(len, texts)) // 4
            fresh = len(texts[-1]) // 4
            self.call(texts, "[[sim cached=%d cache_write=%d output=%d chunks=12 latency_ms=%d]]" % (
                total - fresh, fresh, self.rng.randrange(100, 1500), self.latency * 1000))

    def call(self, texts, directive):
        body = json.dumps({
            "model": MODEL, "max_tokens": 32_000, "stream": True, "tools": TOOLS,
            "system": [{"type": "text", "text": texts[0], "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [
                *({"type": "text", "text": text} for text in texts[1:]),
                {"type": "text", "text": "go on " + directive,
                 "cache_control": {"type": "ephemeral"}}]}]})
        began = time.monotonic()
        while True:
            status, headers, answer, streamed = self.post(body)
            elapsed = time.monotonic() - began
            if status == 200:
                self.calls += 1
                self.waits.append(max(0.0, elapsed - streamed - self.latency))
                return
            if status == 402:
                self.refusal = (time.time(), answer)
                return
            if status not in (429, 503) or elapsed > GIVE_UP:
                raise AssertionError("status %d after %.1f s: %s" % (status, elapsed, answer[:500]))
            self.retries += 1
            time.sleep(float(headers.get("retry-after", 1)))  # lint: allow(sleep-in-test) as told

    def post(self, body):
        """Status, headers, an error's body, and how long the stream took after its head."""
        connection = http.client.HTTPConnection(self.address, timeout=GIVE_UP)
        try:
            connection.request("POST", "/v1/messages", body, {
                "x-api-key": self.secret, "anthropic-version": "2023-06-01",
                "content-type": "application/json"})
            answer = connection.getresponse()
            head = time.monotonic()
            text = answer.read().decode()
            if answer.status == 200 and "message_stop" not in text:
                raise AssertionError("the stream has no end: %s" % text[-300:])
            return (answer.status, {name.lower(): value for name, value in answer.getheaders()}, text,
                    time.monotonic() - head)
        finally:
            connection.close()


def run(stack, cap_usd=20, agents=4, seed=1, latency_ms=40):
    """The figures of a day on a stack: a dict."""
    tenant = stack.tenant()
    cap = int(cap_usd * 10**9)
    tenant.set_budget("org", cap)
    workers = [Agent(n, stack.edge, tenant.secret, seed, latency_ms) for n in range(agents)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    first_final = None
    while any(worker.is_alive() for worker in workers):
        refused = [worker for worker in workers if worker.refusal]
        if refused and first_final is None:
            first_final = tenant.budget()["spent_nanousd"]
        for worker in workers:
            worker.join(0.05)
    for worker in workers:
        if worker.error:
            raise worker.error
    tenant.settled()
    budget = tenant.budget()
    waits = sorted(wait for worker in workers for wait in worker.waits)
    return {"calls": sum(worker.calls for worker in workers), "seconds": time.monotonic() - began,
            "cap": cap, "spent": budget["spent_nanousd"], "suspense": budget["suspense_nanousd"],
            "billed": tenant.billed(), "used": budget["spent_nanousd"] / cap,
            "first_final_refusal": first_final / cap,
            "retries": sum(worker.retries for worker in workers), "waits": waits}


def report(day):
    waits = day["waits"]
    def at(part):
        return waits[min(len(waits) - 1, int(part * len(waits)))]
    return "\n".join([
        "%d calls in %.0f s, $%.2f of $%.2f spent: %.1f %% of the cap used" % (
            day["calls"], day["seconds"], day["spent"] / 1e9, day["cap"] / 1e9, 100 * day["used"]),
        "first final refusal when %.1f %% was spent; %d answers of 'held by others'" % (
            100 * day["first_final_refusal"], day["retries"]),
        "waiting for holds, edge included: median %.0f ms, p90 %.0f ms, p99 %.0f ms, most %.1f s, "
        "in all %.0f s of %.0f s of agents' time" % (
            1000 * statistics.median(waits), 1000 * at(0.9), 1000 * at(0.99), waits[-1], sum(waits),
            4 * day["seconds"])])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cap", type=float, default=20)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency-ms", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        stack = stacks.Stack(pathlib.Path(directory))
        try:
            stack.start()
            print(report(run(stack, args.cap, args.agents, args.seed, args.latency_ms)))
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
