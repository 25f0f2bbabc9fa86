"""Random prices and usages by Python's fractions against price_cases, the program of the real code:
20,000 cases, 10^6 with TOLLHOUSE_TEST_LONG=1. Prices are fully stated, so that the cost is the plain
sum: what unstated rates become is the business of price_test.cc."""

import math
import os
import random
import subprocess
import sys
from fractions import Fraction

CASES = 1_000_000 if os.environ.get("TOLLHOUSE_TEST_LONG") == "1" else 20_000
SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED") or random.SystemRandom().randrange(2**32))
USAGES_PER_PRICE = 20
# The rate of each count of a usage, in the order of price_cases.cc; reasoning is part of the output.
RATES = ["input", "cache_read", "cache_write_5m", "cache_write_1h", "input", "input_audio",
         "cache_read_audio", "input_image", "output", "reasoning", "output_audio", "output_image"]
FEES = ["search_medium", "file_search", "code_session"]
TIERS = {"": ["-", "default", "standard"], "flex.": ["flex", "ON_DEMAND_FLEX"],
         "priority.": ["priority", "fast"], "batch.": ["batch"]}
MODIFIERS = ["speed:fast", "geo:us", "hours:off_peak"]


def decimal(rng, whole, places):
    digits = rng.randrange(places + 1)
    text = "%d.%0*d" % (rng.randrange(whole), digits, rng.randrange(10**digits)) if digits else ""
    return text.rstrip("0").rstrip(".") if text else str(rng.randrange(1, whole))


def make_price(rng):
    """The line and its amounts: {key: Fraction}, steps, factors."""
    amounts = {}
    steps = sorted(rng.sample([0, 128_000, 200_000, 272_000], rng.randrange(1, 4)) + [0])
    for tier in TIERS:
        for rate in set(RATES):
            for step in set(steps):
                key = tier + rate + (">%d" % step if step else "")
                amounts[key] = decimal(rng, rng.choice([2, 30, 5000]), 9)
    for fee in FEES:
        amounts[fee] = "0.%09d" % rng.randrange(1, 10**9)
    factors = {name: "%d.%06d" % (rng.randrange(3), rng.randrange(1000, 10**6))
               for name in MODIFIERS if rng.random() < 0.5}
    words = ["%s=%s" % item for item in amounts.items()]
    words += ["x.%s=%s" % item for item in factors.items()]
    vendor = rng.choice(["openai", "xai", "anthropic", "gemini"])
    return ("price %s m %s" % (vendor, " ".join(words)), vendor,
            {key: Fraction(text) for key, text in amounts.items()}, sorted(set(steps)),
            {name: Fraction(text) for name, text in factors.items()})


def count(rng):
    return rng.choice([0, 0, 1, rng.randrange(100), rng.randrange(100_000), rng.randrange(400_000),
                       rng.randrange(10**9)])


def round_up(factor):
    """To parts per million, as every product of factors is."""
    return Fraction(math.ceil(factor * 10**6), 10**6)


def cost(price, tier, modifiers, contract, counts):
    _, vendor, amounts, steps, factors = price
    total_input = sum(counts[:8])
    step = max(s for s in steps if s == 0 or total_input > s or (vendor == "xai" and total_input == s))
    suffix = ">%d" % step if step else ""
    tokens = list(counts[:12])
    tokens[9] = min(tokens[9], tokens[8])
    tokens[8] -= tokens[9]
    dollars = sum(n * amounts[tier + rate + suffix] for n, rate in zip(tokens, RATES)) / 10**6
    factor = Fraction(1)
    for one in sorted([Fraction(contract, 10**6), *(factors.get(m, Fraction(1)) for m in modifiers)],
                      reverse=True):
        factor = round_up(factor * one)
    fees = sum(n * amounts[fee] for n, fee in zip(counts[12:], FEES))
    return math.ceil((dollars * factor + fees) * 10**9)


def main():
    print("seed %d (replay with TOLLHOUSE_TEST_SEED), %d cases" % (SEED, CASES))
    rng = random.Random(SEED)
    lines, expected = [], []
    while len(expected) < CASES:
        price = make_price(rng)
        lines.append(price[0])
        for _ in range(USAGES_PER_PRICE):
            tier = rng.choice(list(TIERS))
            modifiers = [m for m in MODIFIERS if rng.random() < 0.4]
            contract = rng.choice([10**6, 10**6, rng.randrange(1000, 2 * 10**6)])
            counts = [count(rng) for _ in range(12)] + [rng.choice([0, 0, 1, 37]) for _ in FEES]
            lines.append("usage %s %s %d %s" % (rng.choice(TIERS[tier]), ",".join(modifiers) or "-",
                                                contract, " ".join(map(str, counts))))
            expected.append((cost(price, tier, modifiers, contract, counts), price[0], lines[-1]))
    done = subprocess.run([sys.argv[1]], input="\n".join(lines) + "\n", text=True,
                          capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    wrong = 0
    answers = done.stdout.split("\n")[:-1]
    for answer, (nanos, price, usage) in zip(answers, expected, strict=True):
        if answer != str(nanos):
            wrong += 1
            if wrong <= 3:
                print("%s\n%s\n  is %d, the program says %s" % (price, usage, nanos, answer))
    print("%d of %d cases agree" % (len(expected) - wrong, len(expected)))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
