"""One HTML page of a run: no script, nothing to load, and it prints."""
import html

import charts

SIDES = ("tcp", "unix", "switch")
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1c2128; max-width: 980px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin: 0; } h2 { font-size: 1.1em; margin: 2em 0 .4em; }
p { margin: .4em 0; } .about { color: #57606a; font-size: .9em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 14px 20px; }
svg { width: 100%; height: auto; font-family: inherit; }
.title { font-size: 13px; font-weight: 600; } .tick { font-size: 11px; fill: #3d444d; } .label { font-size: 11px; fill: #57606a; }
.unix { font-size: 11px; fill: #a8650a; } .grid { stroke: #dfe3e8; } .one { stroke: #8a8f98; stroke-width: 1.5; }
table { border-collapse: collapse; width: 100%; font-size: .85em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .6em; border-bottom: 1px solid #dfe3e8; text-align: right; } th:first-child, td:first-child { text-align: left; }
th { color: #57606a; font-weight: 600; } td { white-space: nowrap; } td.ratio { font-weight: 600; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; } .charts { grid-template-columns: 1fr 1fr; }
  svg, table, tr { break-inside: avoid; } h2 { break-after: avoid; } a { color: inherit; }
}
"""


def series(tests, y):
    """By side, (x, y) of the tests that have both."""
    found = {side: [(test.x, y(test, side)) for test in tests if y(test, side) is not None] for side in SIDES}
    return {side: pairs for side, pairs in found.items() if pairs}


def latencies(tests):
    """Percentiles over 1 / (1 - percentile): each further nine is one step to the right."""
    parts = (50, 90, 99, 99.9, 99.99)
    marks = [(100 / (100 - part), f"p{part:g}") for part in parts]
    for test in (test for test in tests if test.group == "pingpong"):
        curves = {side: test.curve(side) for side in SIDES if test.curve(side)}
        lines = {side: [(100 / (100 - part), curve[part]) for part in parts if part in curve] for side, curve in curves.items()}
        yield charts.lines(f"Round trip, {test.name}", lines, "percentile", "us", marks, log_y=True)


def others(tests):
    bulk, many = ([test for test in tests if test.group == group] for group in ("bulk", "many"))
    sizes, counts = [(test.x, test.name.split(" w")[0]) for test in bulk], [(test.x, f"{test.x:,}") for test in many]
    if bulk:
        yield charts.lines("Throughput by write size", series(bulk, lambda test, side: test.median(side)), "bytes in one write", "Gbit/s", sizes)
        yield charts.lines("Processor time by write size", series(bulk, lambda test, side: test.median(side, "perGigabyte")), "bytes in one write",
                           "CPU seconds per GB", sizes, log_y=True)
    if many:
        yield charts.lines("Messages by connections", series(many, lambda test, side: test.median(side)), "connections", "messages/s", counts)
        yield charts.lines("p99 by connections", series(many, lambda test, side: test.median(side, "p99")), "connections", "us", counts, log_y=True)


def ratios(tests):
    titles = {"pingpong": "ping-pong p50, ", "bulk": "bulk, ", "connect": "connections, ", "many": "messages, "}
    return [(titles.get(test.group, "") + test.name, test.ratio(), test.ratio("unix")) for test in tests if test.group != "idle" and test.ratio()]


def tables(found):
    for title, head, body in found:
        yield f"<h2>{html.escape(title)}</h2><table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"
        for row in body:
            yield "<tr>" + "".join(f'<td{" class=ratio" if name == "to TCP" else ""}>{html.escape(text)}</td>' for name, text in zip(head, row)) + "</tr>"
        yield "</table>"


def page(tests, about, skipped, found):
    drawn = "".join(f"<figure style='margin:0'>{chart}</figure>" for chart in (*latencies(tests), *others(tests)))
    missing = "".join(f"<p>Not measured: {html.escape(name)}: {html.escape(reason)}</p>" for name, reason in skipped.items())
    busy = "<p><b>The machine was not idle: the numbers wobble.</b></p>" if about["loadBefore"] > 0.5 else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>sanswitch bench</title><style>{STYLE}</style></head><body>
<h1>sanswitch beside plain TCP and Unix sockets</h1>
<p class="about">{about["processors"]} x {html.escape(about["processor"])}, Linux {html.escape(about["kernel"])}, commit {html.escape(about["commit"])},
{html.escape(about["when"])}, {about["seconds"]} s, load {about["loadBefore"]:.2f} before. <code>{html.escape(" ".join(about["command"]))}</code></p>
<p class="about">All sides in one run, in turn, each after a warm-up. A number is the median of its runs; a ratio is the median of the rounds' ratios, and over 1 is
better than TCP. CPU is of both ends, all threads. Compare ratios, not figures: machines differ.</p>{busy}{missing}
<h2>Ratio to TCP</h2>{charts.bars("Bars: the switch; marks: a Unix socket. TCP is 1, more is better.", ratios(tests))}
<h2>Charts</h2><div class="charts">{drawn}</div>
{"".join(tables(found))}
</body></html>
"""
