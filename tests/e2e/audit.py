"""The ledger held against the provider's own meter, request by request."""

import collections


class Mismatch(AssertionError):
    pass


def entries_by_hold(entries):
    """Terminal or suspended journal entries by hold id; a hold posted twice is a mismatch."""
    found = collections.defaultdict(list)
    for entry in entries:
        found[entry["hold_id"]].append(entry)
    for hold, rows in found.items():
        if any(row["reversing"] for row in rows):  # an estimate that the truth replaced
            rows[:] = [max(rows, key=lambda row: int(row["sequence"]))]
        terminal = [row for row in rows if row["state"] != "suspense"]
        if len(terminal) > 1:
            raise Mismatch("hold %s was posted %d times" % (hold, len(terminal)))
    return {hold: next((row for row in rows if row["state"] != "suspense"), rows[0])
            for hold, rows in found.items()}


def cost(entry):
    return int(entry["entry"]["cost_nanousd"])


def check_exact(tenant):
    """After everything settled: every metered request is one entry of the same amount, and there is
    no other charge. Returns the number of billed requests."""
    tenant.settled()
    entries = entries_by_hold(tenant.entries())
    records = [record for record in tenant.records() if record["hold_id"]]
    seen = collections.Counter(record["hold_id"] for record in records)
    if twice := [hold for hold, count in seen.items() if count > 1]:
        raise Mismatch("the provider saw holds more than once: %s" % twice)
    for record in records:
        entry = entries.get(record["hold_id"])
        if entry is None:
            raise Mismatch("billed %s, not in the journal: %s" % (record["cost_nanousd"], record))
        if cost(entry) != int(record["cost_nanousd"]) or entry["state"] == "suspense":
            raise Mismatch("the journal says %s (%s), the provider %s: %s / %s" % (
                cost(entry), entry["state"], record["cost_nanousd"], entry, record))
    for hold, entry in entries.items():
        if hold not in seen and cost(entry) != 0:
            raise Mismatch("charged for what the provider never saw: %s" % entry)
    billed = sum(int(record["cost_nanousd"]) for record in records)
    if tenant.spent() != billed:
        raise Mismatch("spend says %d, the provider billed %d" % (tenant.spent(), billed))
    return sum(1 for record in records if record["billed"])


def check_covered(tenant, cap):
    """After crashes: every metered request is posted at its amount or stands in suspense with at
    least that, none twice, and billed <= spent + suspense <= cap. Returns (billed, spent, suspense)."""
    entries = entries_by_hold(tenant.entries())
    suspense = {row["hold_id"]: int(row["amount_nanousd"])
                for row in tenant.suspense()}
    records = [record for record in tenant.records() if record["hold_id"]]
    unattributed = 0
    for record in records:
        hold, billed = record["hold_id"], int(record["cost_nanousd"])
        if hold in suspense:
            # What an estimate has posted of it is in suspense no longer.
            entry = entries.get(hold)
            posted = cost(entry) if entry and entry["state"] == "estimated" else 0
            if suspense[hold] + posted < billed:
                raise Mismatch("suspense of %d and %d posted for a bill of %d: %s" % (
                    suspense[hold], posted, billed, record))
        elif hold in entries:
            entry = entries[hold]
            estimated = entry["entry"]["usage_source"].endswith(("PARTIAL", "ESTIMATED"))
            if cost(entry) != billed and not estimated:
                raise Mismatch("posted %d for a bill of %d: %s" % (cost(entry), billed, record))
            if cost(entry) < billed:
                raise Mismatch("posted %d, less than the bill of %d: %s" % (cost(entry), billed, record))
        else:
            unattributed += billed
    budget = tenant.budget()
    total = sum(int(record["cost_nanousd"]) for record in records)
    spent, suspended = budget["spent_nanousd"], budget["suspense_nanousd"]
    if unattributed > suspended - sum(suspense.values()):
        raise Mismatch("%d billed and neither posted nor in suspense" % unattributed)
    if not total <= spent + suspended <= cap:
        raise Mismatch("billed %d, spent %d + suspense %d, cap %d" % (total, spent, suspended, cap))
    return total, spent, suspended
