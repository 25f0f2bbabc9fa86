#!/usr/bin/env python3
"""Converts CSV price lists of models into the price book's text format (libs/policy/price_book.h).

    tools/price_import/price_import.py PRICES.csv... [--aliases ALIASES.txt] > services/router-policy/prices/pricebook.txt

A CSV has a header and one row per model; amounts are exact decimal USD per million tokens (search:
per query), factors are decimals, an empty cell is "not stated". Its columns are those of COLUMNS
below; an unknown column or a malformed cell is an error, so that nothing is lost silently. ALIASES has
lines "alias VENDOR ALIAS MODEL", which are checked and appended.
"""

import argparse
import csv
import json
import re
import sys

CLASSES = {
    "input": "input", "output": "output", "cache_read": "cache_read",
    "cache_write": "cache_write_5m", "cache_write_5m": "cache_write_5m",
    "cache_write_1h": "cache_write_1h", "reasoning_output": "reasoning",
    "input_audio": "input_audio", "output_audio": "output_audio", "input_image_tok": "input_image",
    "output_image_tok": "output_image", "cache_read_audio": "cache_read_audio",
}
PLAIN = {
    "max_input_tokens": "max_input", "max_output_tokens": "max_output", "mode": "mode",
    "search_low_usd_per_query": "search_low", "search_medium_usd_per_query": "search_medium",
    "search_high_usd_per_query": "search_high", "regional_uplift_eu": "regional_uplift_eu",
    "regional_uplift_us": "regional_uplift_us", "deprecation_date": "deprecated",
    "litellm_provider": "list", "source": "source",
}
# Names of the source's multipliers as the modifiers of usage lines.
MULTIPLIERS = {"us": "geo:us", "eu": "geo:eu", "fast": "speed:fast"}
# Token prices (USD per token) that the list keeps among other costs; they fill a rate that has no
# column or an empty one.
OTHER_RATES = {"input_cost_per_token_cache_hit": "cache_read",
               "input_cost_per_audio_token_priority": "priority.input_audio"}
# Prices by the call (USD), likewise.
OTHER_FEES = {"code_interpreter_cost_per_session": "code_session"}
NUMBER = re.compile(r"\d+(\.\d{1,9})?$")
TIER_ORDER = ["", "batch.", "flex.", "priority."]


def rate_key(column):
    """"flex_cache_read_gt272k_usd_per_1m" -> "flex.cache_read>272k"; None if it is no rate."""
    match = re.fullmatch(r"(batch_|flex_|priority_)?(.+?)(_gt(\d+)k)?_usd_per_1m", column)
    if not match or match.group(2) not in CLASSES:
        return None
    tier = (match.group(1) or "").replace("_", ".")
    step = ">%sk" % match.group(4) if match.group(4) else ""
    return tier + CLASSES[match.group(2)] + step


def canonical(value):
    """Without zeros that say nothing."""
    return value.rstrip("0").rstrip(".") if "." in value else value


def number(value, where):
    if not NUMBER.match(value):
        sys.exit("%s: '%s' is not a decimal with at most 9 places" % (where, value))
    return canonical(value)


def per_million(value, where):
    """USD per token as decimal text -> USD per million, exactly."""
    if not re.fullmatch(r"\d+\.\d+", value):
        sys.exit("%s: '%s' is not a decimal" % (where, value))
    whole, decimals = value.split(".")
    decimals = decimals.ljust(6, "0")
    return number((whole + decimals[:6]).lstrip("0").rjust(1, "0") + "." + (decimals[6:] or "0"),
                  where)


def quoted(value):
    if re.search(r'[ "\\]', value) and not (value.startswith("{") and " " not in value):
        return json.dumps(value, ensure_ascii=False)
    return value


def convert(row, where):
    """One CSV row as one line of the book."""
    keys, other = {}, json.loads(row.get("other_costs_json") or "{}")
    for column, value in row.items():
        if column in ("provider", "model", "multipliers_json", "other_costs_json") or not value:
            continue
        key = rate_key(column)
        if key:
            keys[key] = number(value, where)
        elif column in PLAIN:
            if column.startswith("max_") and value == "0":
                continue  # no tokens at all come back: nothing to bound
            numeric = not column.startswith(("mode", "deprecation", "litellm", "source"))
            keys[PLAIN[column]] = number(value, where) if numeric else value
        else:
            sys.exit("%s: unknown column '%s'" % (where, column))
    for name, value in json.loads(row.get("multipliers_json") or "{}").items():
        if re.fullmatch(r"\d+(\.\d+)?", value):
            keys["x." + MULTIPLIERS.get(name, name)] = number(value, where)
        else:
            other[name] = value
    for name, key in OTHER_RATES.items():
        if name in other and key not in keys:
            keys[key] = per_million(other[name], where)
    for name, key in OTHER_FEES.items():
        if name in other:
            keys[key] = number(other[name], where)
    if other:
        keys["other"] = json.dumps(other, separators=(",", ":"), ensure_ascii=False)

    def order(item):
        key = item[0]
        if key in ("mode", "max_input", "max_output"):
            return (0, ["mode", "max_input", "max_output"].index(key), 0)
        base = re.sub(r">.*", "", key)
        tier = next(t for t in reversed(TIER_ORDER) if base.startswith(t))
        if base[len(tier):] in CLASSES.values():
            step = int(key.split(">")[1][:-1]) if ">" in key else 0
            return (1 + TIER_ORDER.index(tier), step,
                    list(dict.fromkeys(CLASSES.values())).index(base[len(tier):]))
        rest = ["search_low", "search_medium", "search_high", "code_session", "regional_uplift_eu",
                "regional_uplift_us", "x", "other", "deprecated", "list", "source"]
        return (9, rest.index(key.split(".")[0]), 0)

    words = ["%s=%s" % (key, quoted(value)) for key, value in sorted(keys.items(), key=order)]
    return " ".join(["price", row["provider"], row["model"]] + words)


HEADER = """\
# Tollhouse's price book: what models cost from a moment on. Format: libs/policy/price_book.h, one line
# per vendor, model and date; exact decimal USD per million tokens (search: per query), no date: always.
# Made by tools/price_import/price_import.py; correct a price by adding a line with from=, never by
# changing a line that requests were priced by.
#
# Facts: BerriAI/litellm, model_prices_and_context_window.json, as of 2026-08-01. Only the modes chat,
# responses, embedding, completion and moderation are served; the others are here to be looked up. `list` is that list's name of the vendor, `source` the page it
# quotes. cache_write_5m is Anthropic's 5-minute write and OpenAI's write from gpt-5.6 on.
# Token prices that the list states under other names (cache hits of DeepSeek, Gemini's priority audio)
# are rates here too.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("prices", nargs="+")
    parser.add_argument("--aliases")
    args = parser.parse_args()
    rows = []
    for path in args.prices:
        with open(path, newline="", encoding="utf-8") as f:
            rows += [("%s, record %d (%s)" % (path, index, row["model"]), row)
                     for index, row in enumerate(csv.DictReader(f), 2)]
    if len(args.prices) > 1:  # each vendor's models together, as the first list has them
        vendors = list(dict.fromkeys(row["provider"] for _, row in rows))
        rows.sort(key=lambda item: vendors.index(item[1]["provider"]))
    lines, models, vendor = [HEADER], set(), None
    for where, row in rows:
        name = (row["provider"], row["model"])
        if name in models:
            sys.exit("%s: stands twice" % where)
        models.add(name)
        if row["provider"] != vendor:
            vendor = row["provider"]
            lines.append("\n# --- %s" % vendor)
        lines.append(convert(row, where))
    if args.aliases:
        lines.append("\n# --- names that the vendors also understand (pydantic/genai-prices, 2026-08-21, "
                     "where its prices agree)")
        with open(args.aliases, encoding="utf-8") as f:
            for line in f.read().splitlines():
                if line.startswith("#") or not line.strip():
                    continue
                word, vendor, alias, model = line.split()
                if word != "alias" or (vendor, model) not in models:
                    sys.exit("%s: '%s': no such model" % (args.aliases, line))
                if (vendor, alias) in models:
                    sys.exit("%s: '%s': the alias is a model itself" % (args.aliases, line))
                lines.append(line)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
