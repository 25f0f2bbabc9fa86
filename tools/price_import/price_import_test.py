"""Tests of the price importer: what it keeps, and that it loses nothing silently."""

import csv
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
IMPORTER = os.path.join(HERE, "price_import.py")
BASE = {"provider": "v", "litellm_provider": "list_v", "model": "m", "mode": "chat",
        "input_usd_per_1m": "0.15", "output_usd_per_1m": "", "multipliers_json": "",
        "other_costs_json": "", "source": ""}


def run(*rows, aliases=None):
    """(exit code, lines that are not comments or blank, standard error)."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "prices.csv")
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        command = [sys.executable, "-B", IMPORTER, path]
        if aliases is not None:
            with open(os.path.join(folder, "aliases.txt"), "w", encoding="utf-8") as f:
                f.write(aliases)
            command += ["--aliases", os.path.join(folder, "aliases.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return done.returncode, lines, done.stderr


class PriceImportTest(unittest.TestCase):
    def test_columns_become_keys(self):
        row = dict(BASE, flex_cache_read_gt272k_usd_per_1m="0.50", search_low_usd_per_query="0.01",
                   cache_write_gt200k_usd_per_1m="7.5", regional_uplift_eu="1.1",
                   multipliers_json='{"us": "1.1", "fast": "6.0", "schema": "x"}',
                   other_costs_json='{"per_image": "0.03"}', source='a "b" c')
        code, lines, errors = run(row)
        self.assertEqual((code, errors), (0, ""))
        self.assertEqual(lines, [
            'price v m mode=chat input=0.15 cache_write_5m>200k=7.5 flex.cache_read>272k=0.5 '
            'search_low=0.01 regional_uplift_eu=1.1 x.geo:us=1.1 x.speed:fast=6 '
            'other={"per_image":"0.03","schema":"x"} list=list_v source="a \\"b\\" c"'])

    def test_zero_is_kept_and_empty_is_not_stated(self):
        _, lines, _ = run(dict(BASE, output_usd_per_1m="0"))
        self.assertIn("output=0 ", lines[0])
        _, lines, _ = run(BASE)
        self.assertNotIn("output", lines[0])

    def test_token_prices_under_other_names_become_rates(self):
        other = '{"input_cost_per_token_cache_hit": "0.0000000028"}'
        _, lines, _ = run(dict(BASE, other_costs_json=other))
        self.assertIn("cache_read=0.0028 ", lines[0])
        _, lines, _ = run(dict(BASE, other_costs_json=other, cache_read_usd_per_1m="1"))
        self.assertIn("cache_read=1 ", lines[0])

    def test_what_it_does_not_understand_is_an_error(self):
        for bad in (dict(BASE, surprise_usd_per_1m="1"), dict(BASE, input_usd_per_1m="1e-6"),
                    dict(BASE, input_usd_per_1m="0.0000000001"), dict(BASE, notes="hello")):
            code, _, errors = run(bad)
            self.assertEqual(code, 1, bad)
            self.assertIn("record 2 (m)", errors)
        self.assertEqual(run(BASE, BASE)[0], 1)

    def test_aliases_must_name_models(self):
        _, lines, _ = run(BASE, aliases="# why\nalias v n m\n")
        self.assertEqual(lines[-1], "alias v n m")
        self.assertEqual(run(BASE, aliases="alias v n gone\n")[0], 1)
        self.assertEqual(run(BASE, dict(BASE, model="n"), aliases="alias v n m\n")[0], 1)


if __name__ == "__main__":
    unittest.main()
