#!/usr/bin/env python3
"""The demonstration behind tools/quickstart, on binaries that are already built.

Starts tollhoused and the simulated provider, spends one key's budget with SDK-shaped HTTP until the
soft alert and the hard stop, holds the ledger against the provider's meter, and serves until Ctrl-C.
Standard library only.
"""

import argparse
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN = ROOT / "build" / "bin"
STARTED = float(os.environ.get("TOLLHOUSE_QUICKSTART_STARTED", time.time()))
COLOR = sys.stdout.isatty()
ORG, TEAM, USER = "acme", "acme/payments", "acme/payments/sarah"
LIMIT_USD, SOFT_PCT = "0.10", 80
REAL = {"openai": ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        "anthropic": ("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY")}


class Failed(Exception):
    """The demonstration cannot go on; the text says why and what to do."""


def paint(text, code):
    return "\033[%sm%s\033[0m" % (code, text) if COLOR else text


def say(text):
    seconds = int(time.time() - STARTED)
    print("%s %s" % (paint("[%02d:%02d]" % divmod(seconds, 60), "1"), text), flush=True)


def show(text=""):
    print("        " + text if text else "", flush=True)


def usd(nanos, places=6):
    """Dollars for reading; exact digits are cut, never rounded up."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    return "%s$%d.%s" % (sign, nanos // 10**9, ("%09d" % (nanos % 10**9))[:places])


def wait_for(check, seconds, what):
    deadline = time.monotonic() + seconds
    while not (result := check()):
        if time.monotonic() > deadline:
            raise Failed("Waited %d s in vain for %s." % (seconds, what))
        time.sleep(0.02)
    return result


def read_json(path):
    """The JSON in a file, None while it is not there or not whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


class Server:
    """A child process with its output in a file. It dies with this one."""

    def __init__(self, name, log, *arguments):
        self.name, self.log = name, log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", str(BIN / name), *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True)

    def check(self):
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-5:]
            raise Failed("%s ended with code %d; the end of %s:\n%s" % (
                self.name, self.process.returncode, self.log, "\n".join(tail)))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class AlertReceiver:
    """A webhook receiver on a free port that keeps the alerts it gets."""

    def __init__(self):
        self.alerts = []
        alerts = self.alerts

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                alerts.append(json.loads(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/alerts" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Demo:
    def __init__(self, options):
        self.data = pathlib.Path(options.data_dir).resolve()
        self.listen = options.listen
        self.yes = options.yes
        self.servers = []
        self.sim = self.edge = self.admin = None
        self.bought = []  # request ids of this run

    # --- processes ---------------------------------------------------------------------------------
    def start(self):
        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o700)
        again = (self.data / "tollhouse" / "admin.token").exists()
        endpoint_file = self.data / "simprovider.json"
        endpoint_file.unlink(missing_ok=True)
        provider = self.serve("tollhouse-simprovider", "--listen", "127.0.0.1:0", "--endpoint-file",
                              endpoint_file)

        def endpoint():
            provider.check()
            return read_json(endpoint_file)

        self.sim = wait_for(endpoint, 10, "the simulated provider")["url"]
        listen = self.listen or free_address(8080)
        endpoints_file = self.data / "tollhouse" / "endpoints.json"
        house = self.serve("tollhoused", "--data-dir", self.data / "tollhouse", "--edge-listen", listen,
                           "--admin-listen", free_address(9900), "--metrics-listen", free_address(9901))
        began = time.monotonic()

        def endpoints():
            house.check()
            found = read_json(endpoints_file)
            return found if found and found["pid"] == house.process.pid else None

        found = wait_for(endpoints, 30, "tollhoused")
        self.edge, self.admin = found["edge"].rstrip("/"), found["admin"]
        say("tollhoused is ready after %.2f s at %s (%s)" % (
            time.monotonic() - began, self.edge,
            "with the data of earlier runs" if again else "new data in %s" % self.data))

    def serve(self, name, *arguments):
        server = Server(name, self.data / (name + ".log"), *arguments)
        self.servers.append(server)
        return server

    def stop(self):
        for server in reversed(self.servers):
            server.stop()

    # --- tollctl -----------------------------------------------------------------------------------
    def tollctl(self, *arguments, check=True, output="json"):
        done = subprocess.run(
            [str(BIN / "tollctl"), *map(str, arguments), "--output", output], text=True,
            capture_output=True, stdin=subprocess.DEVNULL, check=False,
            env={**os.environ, "TOLLHOUSE_SERVER": self.admin,
                 "TOLLHOUSE_TOKEN_FILE": str(self.data / "tollhouse" / "admin.token")})
        if done.returncode != 0:
            if not check:
                return None
            raise Failed("tollctl %s failed:\n%s" % (" ".join(map(str, arguments)), done.stderr.strip()))
        return json.loads(done.stdout) if output == "json" and done.stdout.strip() else done.stdout

    def table(self, *arguments):
        show(paint("$ tollctl " + " ".join(arguments), "2"))
        for line in self.tollctl(*arguments, output="table").rstrip().splitlines():
            show(line)
        show()

    # --- the scene ---------------------------------------------------------------------------------
    def set_up(self):
        for name, dialect, url in (("sim-openai", "openai", self.sim + "/v1"),
                                   ("sim-anthropic", "anthropic", self.sim)):
            credential = self.data / "sim.credential"
            credential.write_text("simulated-provider-secret")
            credential.chmod(0o600)
            self.tollctl("provider", "set", name, "--dialect", dialect, "--base-url", url,
                         "--credential-file", credential, "--allow-private")
        for noun, path in (("org", ORG), ("team", TEAM), ("user", USER)):
            if self.tollctl(noun, "show", path, check=False) is None:
                self.tollctl(noun, "create", path)
        self.tollctl("budget", "set", TEAM, "--limit", "50", "--window", "month")
        laptop = self.data / "laptop.key"
        if not laptop.exists():
            self.tollctl("key", "revoke", USER + "/laptop", "--yes", check=False)
            secret = self.tollctl("key", "create", USER, "--name", "laptop")["secret"]
            laptop.touch(0o600)
            laptop.write_text(secret + "\n")
        run = 1 + max([int(match.group(1)) for key in self.tollctl("key", "list", USER)["keys"]
                       if (match := re.fullmatch(re.escape(USER) + r"/demo-(\d+)", key["path"]))],
                      default=0)
        self.key = "%s/demo-%d" % (USER, run)
        self.secret = self.tollctl("key", "create", USER, "--name", "demo-%d" % run)["secret"]
        self.tollctl("budget", "set", self.key, "--limit", LIMIT_USD, "--window", "month",
                     "--soft", SOFT_PCT)
        for webhook in self.tollctl("webhook", "list", ORG).get("webhooks", []):
            if webhook["url"].startswith("http://127.0.0.1:"):
                self.tollctl("webhook", "delete", ORG, "--url", webhook["url"], "--yes")
        self.receiver = AlertReceiver()
        self.tollctl("webhook", "set", ORG, "--url", self.receiver.url, "--allow-private")
        say("org %s > team payments > user sarah > key demo-%d" % (ORG, run))
        show("budgets: %s $50.00 a month; this key $%s a month, alert at %d %%, hard stop at 100 %%" % (
            TEAM, LIMIT_USD, SOFT_PCT))

    def purchase(self, number):
        """One call as an SDK makes it; returns (http status, headers, body, line of print)."""
        kinds = (("openai", "sim-openai/gpt-4o", False), ("anthropic", "sim-anthropic/claude-haiku-4-5", True),
                 ("openai", "sim-openai/gpt-4o", True), ("anthropic", "sim-anthropic/claude-sonnet-4-5", False))
        dialect, model, stream = kinds[number % len(kinds)]
        request_id = "%s-%d" % (self.key.rsplit("/", 1)[1], number)
        tokens = 600 if "haiku" in model else 400
        body = {"model": model, "max_tokens": tokens, "stream": stream, "messages": [
            {"role": "user", "content": "Explain hard budgets. [[sim output=%d chunks=20]]" % tokens}]}
        headers = {"content-type": "application/json", "x-tollhouse-request-id": request_id}
        if dialect == "openai":
            path, headers["authorization"] = "/v1/chat/completions", "Bearer " + self.secret
        else:
            path, headers["x-api-key"] = "/v1/messages", self.secret
            headers["anthropic-version"] = "2023-06-01"
        host, port = self.edge.split("//")[1].rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, text, (request_id, model.split("/")[1],
                                                     "stream" if stream else "json")

    def spend_it_all(self):
        say("calling models until the budget says stop")
        show(paint("%3s  %-18s %-6s %6s %6s %12s %12s" % (
            "#", "model", "answer", "in", "out", "cost", "left"), "2"))
        alerted = False
        for number in range(200):
            status, headers, body, (request_id, model, kind) = self.purchase(number)
            if status == 429 and b"budget_held" in body:
                time.sleep(float(headers.get("retry-after", "1")))
                continue
            if status != 200:
                break
            self.bought.append(request_id)
            told = wait_for(lambda: self.tollctl("explain", request_id, check=False), 10,  # noqa: B023
                            "the ledger to have " + request_id)
            left = self.budget()["available_nanousd"]
            show("%3d  %-18s %-6s %6s %6s %12s %12s" % (
                number + 1, model, kind, told["usage"]["input_tokens"], told["usage"]["output_tokens"],
                usd(int(told["cost_nanousd"])), usd(int(left))))
            if not alerted and self.receiver.alerts:
                alerted = True
                self.show_alert()
        if not alerted:
            wait_for(lambda: self.receiver.alerts, 15, "the soft alert")
            self.show_alert()
        if status != 402:
            raise Failed("Expected a refusal with 402, got %d: %s" % (status, body[:300]))
        say("hard stop: the next call was refused before it reached the provider")
        show(paint("HTTP %d   x-should-retry: %s   x-tollhouse-denied-by: %s" % (
            status, headers["x-should-retry"], headers["x-tollhouse-denied-by"]), "33"))
        error = json.loads(body)["error"]
        show("an SDK raises APIStatusError, %s:" % (error.get("code") or error["type"]))
        for line in textwrap.wrap(error["message"], 100):
            show("  " + line)
        show()

    def budget(self):
        return next(b for b in self.tollctl("budget", "show", self.key)["budgets"]
                    if b["path"] == self.key)

    def show_alert(self):
        alert = self.receiver.alerts[0]
        show(paint("     alert POSTed to the webhook: %s passed %s %% (%s of %s)" % (
            alert["budget"], alert["threshold_pct"], usd(int(alert["spent_nanousd"])),
            usd(int(alert["limit_nanousd"]))), "33"))

    def verify(self):
        """The ledger against the provider's own meter: the sum and every single request."""
        verified = self.tollctl("ledger", "verify")
        if not verified["ok"]:
            raise Failed("tollctl ledger verify found problems: %s" % verified["problems"])
        with urllib.request.urlopen(self.sim + "/sim/meter/records?after=0") as answer:
            metered = {record["hold_id"]: int(record["cost_nanousd"])
                       for record in map(json.loads, answer.read().decode().splitlines())
                       if record["hold_id"]}
        posted = {entry["hold_id"]: int(entry["entry"]["cost_nanousd"])
                  for entry in self.tollctl("ledger", "entries", self.key)["entries"]}
        if posted != metered:
            raise Failed("The ledger and the provider's meter differ: %s" % sorted(
                set(posted.items()) ^ set(metered.items()))[:5])
        say("ledger = provider's meter, for each of %d requests and in sum: %s nano-USD" % (
            len(metered), format(sum(metered.values()), ",")))
        show("tollctl ledger verify: ok, %s entries" % verified["entries"])
        show()

    # --- afterwards --------------------------------------------------------------------------------
    def offer_real_providers(self):
        for name, (dialect, url, variable) in REAL.items():
            if not os.environ.get(variable):
                continue
            if not self.yes:
                if not sys.stdin.isatty():
                    continue
                answer = input("        %s is set. Register %s as a real provider? [y/N] " % (variable, name))
                if answer.strip().lower() not in ("y", "yes"):
                    continue
            self.tollctl("provider", "set", name, "--dialect", dialect, "--base-url", url,
                         "--credential-env", variable)
            say("registered provider %s; its key is stored encrypted" % name)

    def tell_what_is_next(self):
        token = self.data / "tollhouse" / "admin.token"
        say("to use it with a real provider and your SDK:")
        show("export TOLLHOUSE_SERVER=%s TOLLHOUSE_TOKEN_FILE=%s PATH=%s:$PATH" % (
            self.admin, token, BIN))
        show("tollctl provider set openai --dialect openai --base-url https://api.openai.com/v1 "
             "--credential-env OPENAI_API_KEY")
        show("export OPENAI_BASE_URL=%s/v1 OPENAI_API_KEY=$(cat %s)" % (
            self.edge, self.data / "laptop.key"))
        show()
        show("Anthropic likewise: --dialect anthropic --base-url https://api.anthropic.com, then "
             "ANTHROPIC_BASE_URL=%s" % self.edge)
        show("More keys: tollctl key create %s --name NAME" % USER)


def free_address(port):
    """The loopback address with this port, or with any free one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return "127.0.0.1:0"
    return "127.0.0.1:%d" % port


def main():
    parser = argparse.ArgumentParser(prog="tools/quickstart", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", default=str(ROOT / ".quickstart"))
    parser.add_argument("--listen", default=None, metavar="HOST:PORT")
    parser.add_argument("--no-serve", action="store_true")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    demo = Demo(options)
    try:
        demo.start()
        demo.set_up()
        demo.spend_it_all()
        demo.verify()
        demo.table("spend", demo.key, "--by", "model")
        demo.table("budget", "list", ORG)
        demo.offer_real_providers()
        demo.tell_what_is_next()
        if not options.no_serve:
            say("serving; Ctrl-C stops everything and keeps the data")
            while True:
                for server in demo.servers:
                    server.check()
                time.sleep(0.5)
        return 0
    except KeyboardInterrupt:
        print()
        say("stopping")
        return 0
    except Failed as failure:
        say(paint(str(failure), "31"))
        show("Logs are in %s." % demo.data)
        return 1
    finally:
        demo.stop()


if __name__ == "__main__":
    sys.exit(main())
