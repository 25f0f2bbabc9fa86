"""The provider's own meter as the judge: while everything fails, no cap may be exceeded at any level."""

import json
import threading

import audit
from stack import get, usd, wait_until
from test_sdks import CLAUDE, GPT


class Key:
    """A virtual key whose requests reach the provider with a credential of its own, by which the
    provider's records tell whose they are."""

    def __init__(self, house, path, dialect):
        self.house, self.path, self.dialect = house, path, dialect
        self.provider = path.replace("/", "-").replace(".", "-")
        self.secret = None

    @property
    def model(self):
        return "%s/%s" % (self.provider, GPT if self.dialect == "openai" else CLAUDE)

    @property
    def accounts(self):
        """The path and all above it."""
        parts = self.path.split("/")
        return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


class House:
    """An org with two teams, three users and four keys, and caps at every level.

    `caps` are by account; some are too small for the load, `rich` keys never reach any."""

    def __init__(self, stack, name, caps):
        self.stack, self.org = stack, name
        self.keys = [Key(self, name + "/" + path, dialect) for path, dialect in (
            ("red/ann/k1", "openai"), ("red/ann/k2", "anthropic"), ("red/bob/k3", "openai"),
            ("blue/cay/k4", "anthropic"))]
        self.caps = {name + path: cap for path, cap in caps.items()}
        self.seq = 0

    def create(self):
        ctl, stack = self.stack.ctl, self.stack
        made = set()
        for key in self.keys:
            for kind, path in zip(("org", "team", "user"), key.accounts):
                if path not in made:
                    ctl(kind, "create", path)
                    made.add(path)
            parent, _, name = key.path.rpartition("/")
            key.secret = ctl("key", "create", parent, "--name", name)["secret"]
            stack.add_provider(key.provider, key.dialect, stack.sim.url + (
                "/v1" if key.dialect == "openai" else ""))
        for path, cap in self.caps.items():
            ctl("budget", "set", path, "--limit", usd(cap), "--window", "total")
        self.seq = stack.sim.last_seq()
        return self

    def rich(self, key):
        """Whether nothing that the key spends is limited below what the org may."""
        return not any(path in self.caps for path in key.accounts[1:])

    # --- what tests/e2e/audit.py asks of a tenant

    def records(self):
        return self.stack.sim.records(self.seq)

    def entries(self):
        return self.stack.ctl("ledger", "entries", self.org)["entries"]

    def suspense(self):
        return self.stack.ctl("suspense", "list", self.org)["rows"]

    def lost_leases(self):
        return self.stack.ctl("suspense", "list", self.org).get("lost_leases", [])

    def budgets(self):
        return {row["path"]: {name: int(value) if name.endswith("_nanousd") else value
                              for name, value in row.items()}
                for path in self.caps for row in self.stack.ctl("budget", "show", path)["budgets"]}

    def budget(self):
        return self.budgets()[self.org]


class Meter:
    """Reads the provider's records all the time and holds every account's bill against its cap."""

    def __init__(self, house):
        self.house = house
        self.closed, self.bills = {}, {}
        self.after, self.samples, self.broken = house.seq, 0, []
        self.highest = {path: 0 for path in house.caps}
        self.hashes = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stopped.wait(0.02):
                self.sample()
        except Exception as error:  # a meter that nobody reads proves nothing
            self.broken.append("the meter could not be read: %r" % error)

    def sample(self):
        text = get("%s/sim/meter/records?after=%d" % (self.house.stack.sim.url, self.after), timeout=60)
        open_bills, first_open = {}, None
        for line in text.decode().splitlines():
            record = json.loads(line)
            account, cost = record["key_hash"], int(record["cost_nanousd"])
            if record["open"]:
                first_open = min(first_open or record["seq"], record["seq"])
            if first_open is None:
                self.closed[account] = self.closed.get(account, 0) + cost
                self.after = record["seq"]
            else:
                open_bills[account] = open_bills.get(account, 0) + cost
        bills = {}
        for key in self.house.keys:
            digest = self.digest(key)
            cost = self.closed.get(digest, 0) + open_bills.get(digest, 0)
            for path in key.accounts:
                bills[path] = bills.get(path, 0) + cost
        self.samples += 1
        for path, cap in self.house.caps.items():
            self.highest[path] = max(self.highest[path], bills[path])
            if bills[path] > cap:
                self.broken.append("%s: billed %d, cap %d" % (path, bills[path], cap))

    def digest(self, key):
        """How the provider calls the credential that stack.add_provider gave it."""
        import hashlib
        return hashlib.sha256(("sim-secret-" + key.provider).encode()).hexdigest()[:12]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        self.sample()


def at_rest(house, answered, timeout=60):
    """Waits until nothing moves: provider idle, no hold, no lost lease, every bill posted or in a row of
    suspense. See check()."""
    stack = house.stack
    why = ["?"]

    def quiet():
        if stack.sim.totals()["in_flight"]:
            why[0] = "requests are in flight"
        elif stack.ctl("holds", "list", house.org).get("holds"):
            why[0] = "holds are open"
        elif house.lost_leases():
            why[0] = "leases of closed epochs: %s" % house.lost_leases()
        else:
            try:
                check(house, answered)
                return True
            except audit.Mismatch as mismatch:
                why[0] = str(mismatch)
        return False

    try:
        wait_until(quiet, timeout, "the ledger at rest")
    except AssertionError:
        raise AssertionError("not at rest after %d s: %s" % (timeout, why[0])) from None
    return check(house, answered)


def check(house, answered):
    """Every bill is one entry of the same amount, or an estimate or a row of suspense that covers it;
    every budget adds up. What was `answered` in full (request ids) had its result written before its
    caller was told: it is posted as the provider metered it, neither estimated nor in suspense. Returns
    (billed, spent, suspense) of the org."""
    totals = audit.check_covered(house, house.caps[house.org])
    entries, rows = house.entries(), house.suspense()
    check_each(house.records(), entries, rows)
    check_answered(house.records(), entries, rows, answered)
    for path, budget in house.budgets().items():
        of_rows = sum(int(row["amount_nanousd"]) for row in rows
                      if (row["account"] + "/").startswith(path + "/"))
        if budget["suspense_nanousd"] != of_rows:
            raise audit.Mismatch("%s: suspense %d, its rows say %d" % (
                path, budget["suspense_nanousd"], of_rows))
        if budget["spent_nanousd"] + budget["suspense_nanousd"] > house.caps[path]:
            raise audit.Mismatch("%s: %s" % (path, budget))
    return totals


def check_each(records, entries, rows):
    """Each request that the provider saw ended in one place: an entry, or a row that says why not, or an
    estimate beside the rest of its hold. A row that the provider knows nothing of is of a request that
    was on its way when something died."""
    ended = audit.entries_by_hold(entries)
    waiting = {row["hold_id"]: row for row in rows}
    for record in records:
        hold = record["hold_id"]
        if hold and hold not in ended and hold not in waiting:
            raise audit.Mismatch("the provider served it and nobody knows of it: %s" % record)
    for hold, row in waiting.items():
        # Of what was posted as an estimate, the rest of the hold waits.
        if hold in ended and ended[hold]["state"] not in ("suspense", "estimated"):
            raise audit.Mismatch("posted and in suspense: %s / %s" % (ended[hold], row))
        if not row["why"] or not row["account"] or int(row["amount_nanousd"]) <= 0:
            raise audit.Mismatch("suspense that explains nothing: %s" % row)


def check_answered(records, entries, rows, answered):
    for row in rows:
        if row["request_id"] in answered:
            raise audit.Mismatch("answered in full and still in suspense: %s" % row)
    bills = {record["hold_id"]: int(record["cost_nanousd"]) for record in records}
    posted = set()
    for entry in entries:
        request = entry["entry"]["request_id"]
        if request not in answered or entry["state"] != "settled":
            continue
        if bills.get(entry["hold_id"]) != audit.cost(entry) or not entry["entry"]["usage_source"].endswith("FINAL"):
            raise audit.Mismatch("answered in full, billed %s: %s" % (bills.get(entry["hold_id"]), entry))
        posted.add(request)
    if lost := sorted(answered - posted):
        raise audit.Mismatch("%d answered in full and not posted: %s" % (len(lost), lost[:5]))
