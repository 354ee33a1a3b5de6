#!/usr/bin/python3
"""Measures what the switch brings and costs, each row beside plain TCP in the same run.

Runs alternate (plain, switched, plain, switched, ...) and what is compared are pairs, so that a drift of the machine hits
both; a number is the median of its runs, a ratio the median of the pairs' ratios. Every run of a row is in the JSON file."""
import argparse
import json
import pathlib
import sys
import time
from dataclasses import asdict

import probes
import programs
from measure import LIBRARY, ROOT, SANSWITCH, Missing, Options, build, load, machine, version

ROWS = {"sockperf": programs.sockperf, "pingpong": probes.pingpong, "iperf3": programs.iperf3, "redis": programs.redis, "nginx": programs.nginx,
        "short": probes.short, "sendcost": probes.sendcost, "idle": probes.idle, "startup": probes.startup}
HEADER = ("what", "plain TCP", "switched", "ratio", "at least", "aim", "reference")


def mark(line):
    """Behind a limit: whether the median holds it; with a question mark where single pairs say otherwise."""
    def with_mark(text, held, sure=True):
        return text if held is None else f"{text} {'ok' if held else 'NO'}{'' if sure else '?'}"
    return (line.what, line.plain, line.switched, line.ratio,
            with_mark(line.at_least, line.met, line.sure), with_mark(line.aim, line.aimed), line.reference)


def show(table):
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER) - 1)]
    print()
    for row in table:
        cells = [cell.ljust(width) if i in (0, 4, 5) else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join([*cells, row[-1]]))


def measure(names, options):
    results, skipped = [], []
    for name in names:
        print(f"  {name} ...", end=" ", flush=True)
        begun = time.monotonic()
        try:
            lines = ROWS[name](options)
        except Missing as reason:
            skipped.append((name, str(reason)))
            print(f"not measured: {reason}")
            continue
        results += [(name, line) for line in lines]
        print(f"{time.monotonic() - begun:.0f} s")
    return results, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than a minute; the numbers wobble more")
    parser.add_argument("--only", metavar="NAME", action="append", choices=ROWS, help="one row (may be repeated): " + ", ".join(ROWS))
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="every single measurement")
    arguments = parser.parse_args()
    for path in (LIBRARY, SANSWITCH):
        if not path.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} is not there: run `make build` first")
    build()
    options, about = Options(arguments.quick), machine() | {"library": version(), "loadBefore": load()}
    print(f"{about['processors']} x {about['processor']}, Linux {about['kernel']}, commit {about['commit']}, load {load():.2f}, "
          f"{options.pairs} pairs", flush=True)
    if load() > 0.5:
        print("This machine is not idle: the numbers will wobble.")
    results, skipped = measure(arguments.only or list(ROWS), options)
    show([HEADER] + [mark(line) for _, line in results])
    print("\nIn brackets the least and the most of single pairs; ok? and NO?: not every pair agrees with the median.")
    about |= {"loadAfter": load(), "libraryChanged": version() != about["library"]}
    if about["libraryChanged"]:
        print("The library was REPLACED during this run: these numbers are of more than one build.")
    for name, reason in skipped:
        print(f"not measured: {name}: {reason}")
    if arguments.json:
        rows = [{"name": name, **asdict(line)} for name, line in results]
        content = {"machine": about, "quick": arguments.quick, "command": sys.argv, "rows": rows, "notMeasured": dict(skipped)}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


main()
