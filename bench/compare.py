#!/usr/bin/python3
"""The comparisons people publish, in one run: plain TCP, a Unix socket where it applies, and the switch."""
import argparse
import json
import pathlib
import sys
import time

import page
from groups import GROUPS, SWITCH, TCP, UNIX, Plan
from measure import LIBRARY, SANSWITCH, Missing, build, load, machine, version

TITLES = {"pingpong": "Ping-pong, 64 B: p50 / p99 / p99.9 of the round trip, us", "bulk": "Bulk, one direction, Gbit/s",
          "connect": "Connect, one question, close: connections a second", "many": "Many connections, 64 B under way on each: messages a second",
          "idle": "Idle connections", "programs": "Programs"}
COSTS = {"perMillion": "per million", "perGigabyte": "per GB"}


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(test, side):
    """Of a test with latencies as its measure, those percentiles that there were enough messages for."""
    if test.median(side) is None:
        return "-"
    if test.key == "p50":
        return " / ".join(number(test.curve(side).get(part)) for part in (50, 99, 99.9))
    return number(test.median(side))


def cost(test, side):
    return number(test.median(side, test.cost)) if test.cost else "-"


def proof(test):
    shares = [run["leftTCP"] for run in test.runs.get(SWITCH, []) if run.get("leftTCP") is not None]
    text = f"{100 * min(shares):.1f} % left TCP" if shares else ""
    return "; ".join(part for part in (text, test.note) if part)


def ratio(test, side):
    value = test.ratio(side)
    return "-" if value is None else f"{value:.2f} x"


def rows(tests):
    """By group: the table's head and its cells, as text."""
    for group, title in TITLES.items():
        found = [test for test in tests if test.group == group]
        if not found:
            continue
        costs = sorted({COSTS[test.cost] for test in found if test.cost})
        has_unix, has_proof = any(UNIX in test.runs for test in found), any(proof(test) for test in found)
        head = ["", "TCP", *(["Unix"] if has_unix else []), "switch", "to TCP", *(["Unix to TCP"] if has_unix else [])]
        head += [f"CPU s {' or '.join(costs)}: TCP", "switch"] if costs else []
        yield title, head + (["path"] if has_proof else []), [
            [test.name + (f", {test.unit}" if group in ("idle", "programs") else ""), cell(test, TCP), *([cell(test, UNIX)] if has_unix else []),
             cell(test, SWITCH), ratio(test, SWITCH), *([ratio(test, UNIX)] if has_unix else []),
             *([cost(test, TCP), cost(test, SWITCH)] if costs else []), *([proof(test)] if has_proof else [])] for test in found]


def show(tests):
    for title, head, body in rows(tests):
        table = [head, *body]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        print(f"\n{title}")
        for row in table:
            cells = [text.ljust(width) if i in (0, len(widths) - 1) else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths))]
            print("  " + "  ".join(cells).rstrip())


def as_json(tests, about, skipped):
    return {"about": about, "notMeasured": skipped,
            "tests": [{"group": test.group, "name": test.name, "x": test.x, "measure": test.key, "unit": test.unit, "lessIsBetter": test.lower,
                       "medians": {side: {key: test.median(side, key) for key in keys(test, side)} for side in test.runs},
                       "ratio": test.ratio(), "ratioCost": test.ratio(key=test.cost, lower=True) if test.cost else None,
                       "note": test.note, "runs": test.runs} for test in tests]}


def keys(test, side):
    return [key for key, value in test.runs[side][0].items() if isinstance(value, (int, float)) and not isinstance(value, bool)]


def check(tests, path):
    """Against committed ratios; whether all hold. Ratios of one run are compared, never times: machines differ."""
    limits = json.loads(path.read_text())["leastRatio"]
    found = {f"{test.group}: {test.name}": test.ratio() for test in tests}
    held = True
    print(f"\nRatios to TCP against {path.name}")
    for name, least in limits.items():
        value = found.get(name)
        good = value is not None and value >= least
        held &= good
        text = "not measured" if value is None else f"{value:.2f} x"
        print(f"  {'ok' if good else 'NO'}  {name}: {text}, at least {least:g} x")
    return held


def measure(names, plan):
    tests, skipped = [], {}
    for name in names:
        print(f"  {name} ...", end=" ", flush=True)
        begun = time.monotonic()
        try:
            plan.enter(name)
            for test in GROUPS[name](plan):
                if test.trouble:
                    skipped[f"{test.group}, {test.name}"] = test.trouble
                else:
                    tests.append(test)
        except Missing as reason:
            skipped[name] = str(reason)
            print(f"not measured: {reason};", end=" ")
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
    return tests, skipped


def main():
    parser = argparse.ArgumentParser(prog="sanswitch bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 45 seconds; the numbers wobble more")
    parser.add_argument("--only", metavar="NAME", action="append", choices=GROUPS, help="one group (may be repeated): " + ", ".join(GROUPS))
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="every single measurement, and the medians")
    parser.add_argument("--html", metavar="FILE", type=pathlib.Path, help="one page with charts and tables, for a browser without network")
    parser.add_argument("--check", metavar="FILE", type=pathlib.Path, help="compare with committed ratios; status 1 when one does not hold")
    arguments = parser.parse_args()
    for path in (LIBRARY, SANSWITCH):
        if not path.exists():
            raise SystemExit(f"{path} is not there: run `make build` first")
    build()
    about = machine() | {"library": version(), "loadBefore": load(), "quick": arguments.quick, "command": ["sanswitch", "bench", *sys.argv[1:]],
                         "when": time.strftime("%Y-%m-%d %H:%M %z")}
    print(f"{about['processors']} x {about['processor']}, Linux {about['kernel']}, commit {about['commit']}, load {about['loadBefore']:.2f}", flush=True)
    if about["loadBefore"] > 0.5:
        print("This machine is not idle: the numbers will wobble.")
    begun = time.monotonic()
    tests, skipped = measure(arguments.only or list(GROUPS), Plan(arguments.quick))
    about |= {"loadAfter": load(), "seconds": round(time.monotonic() - begun, 1)}
    show(tests)
    print("\nMedians; ratios are medians of the rounds' ratios, over 1 is better than TCP. `sanswitch bench --html FILE` draws it.")
    if version() != about["library"]:
        print("The library was REPLACED during this run: these numbers are of more than one build.")
    for name, reason in skipped.items():
        print(f"not measured: {name}: {reason}")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(tests, about, skipped), indent=1) + "\n")
    if arguments.html:
        arguments.html.write_text(page.page(tests, about, skipped, list(rows(tests))))
    if arguments.check and not check(tests, arguments.check):
        sys.exit(1)


main()
