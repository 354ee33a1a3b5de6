"""Charts as SVG text: lines over a logarithmic axis, and bars of ratios. Nothing is loaded; a pointer over a mark shows its number."""
import html
import math

COLOURS = {"tcp": "#8a8f98", "unix": "#d98a1f", "switch": "#1f6fd9"}
NAMES = {"tcp": "TCP", "unix": "Unix socket", "switch": "switch"}
DASHES = {"tcp": "6 3", "unix": "2 3", "switch": ""}
WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40


def text(x, y, words, anchor="middle", style="", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}" {more}>{html.escape(words)}</text>'


def short(value):
    """At most four figures: 0.5, 12, 1.5k, 20M."""
    for step, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= step:
            return f"{value / step:.3g}{unit}"
    return f"{value:.3g}"


def scale(low, high, start, end, logarithmic):
    """From a value to a place."""
    change = math.log10 if logarithmic else float
    first, last = change(low), change(high)
    return lambda value: start + (end - start) * ((change(value) - first) / ((last - first) or 1))


def ticks(low, high, logarithmic):
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [10.0 ** power for power in powers]
        if len(found) < 4:
            found = sorted(found + [factor * 10.0 ** power for power in powers for factor in (2, 5)])
        return [value for value in found if low * 0.999 <= value <= high * 1.001]
    step = 10 ** math.floor(math.log10(high / 4))
    step *= next((factor for factor in (1, 2, 2.5, 5, 10) if high / (step * factor) <= 5), 10)
    return [step * i for i in range(int(high / step) + 1)]


def bounds(values, logarithmic):
    low, high = min(values), max(values)
    if not logarithmic:
        return 0, high * 1.08
    # Whole decades or their 2 and 5, so that the axis begins and ends at a line.
    steps = [factor * 10.0 ** power for power in range(-9, 13) for factor in (1, 2, 5)]
    return max(step for step in steps if step <= low), min(step for step in steps if step >= high * 1.0001)


def lines(title, series, x_label, y_label, x_ticks, log_x=True, log_y=False):
    """`series`: by side, (x, y) pairs; `x_ticks`: (x, label) pairs."""
    points = [point for pairs in series.values() for point in pairs]
    if not points:
        return ""
    xs = [x for x, _ in points]
    low, high = bounds([y for _, y in points], log_y)
    across = scale(min(xs), max(xs), LEFT + 8, WIDTH - RIGHT - 8, log_x)
    up = scale(low, high, HEIGHT - BOTTOM, TOP, log_y)
    parts = [text(LEFT, 15, title, "start", "title")]
    for value in ticks(low, high, log_y):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" class="grid"/>')
        parts.append(text(LEFT - 6, up(value) + 3.5, short(value), "end", "tick"))
    for x, label in x_ticks:
        parts.append(text(across(x), HEIGHT - BOTTOM + 15, label, style="tick"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, style="label"))
    parts.append(text(0, 0, y_label, style="label", more=f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"'))
    for side, pairs in series.items():
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in pairs)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[side]}" stroke-width="2" stroke-dasharray="{DASHES[side]}"/>')
        for x, y in pairs:
            label = next((name for place, name in x_ticks if place == x), short(x))
            parts.append(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{COLOURS[side]}"><title>{NAMES[side]}, {label}: {short(y)}</title></circle>')
    return drawing(WIDTH, HEIGHT, title, parts + legend(series, WIDTH - RIGHT))


def legend(sides, right):
    parts, x = [], right
    for side in reversed(list(sides)):
        x -= 7 * len(NAMES[side]) + 26
        parts.append(f'<line x1="{x}" x2="{x + 18}" y1="26" y2="26" stroke="{COLOURS[side]}" stroke-width="2.5" stroke-dasharray="{DASHES[side]}"/>')
        parts.append(text(x + 22, 29.5, NAMES[side], "start", "tick"))
    return parts


def bars(title, ratios):
    """`ratios`: (name, ratio of the switch, ratio of the Unix socket or None); a logarithmic axis with TCP at 1."""
    if not ratios:
        return ""
    width, left, row = 960, 300, 19
    values = [value for _, *pair in ratios for value in pair if value]
    low, high = min(0.5, *values), max(2, *values)
    across = scale(low, high * 1.3, left, width - 90, True)
    height = TOP + 14 + row * len(ratios)
    parts = [text(0, 15, title, "start", "title"), text(width - 50, TOP, "switch", "end", "tick"), text(width - 4, TOP, "Unix", "end", "unix")]
    for value in [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= tick <= high * 1.3]:
        style = "one" if value == 1 else "grid"
        parts.append(f'<line x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{TOP + 4}" y2="{height}" class="{style}"/>')
        parts.append(text(across(value), TOP, f"{value:g} x", style="tick"))
    for index, (name, switch, unix) in enumerate(ratios):
        y = TOP + 8 + row * index
        parts.append(text(left - 10, y + 11, name, "end", "tick"))
        if switch:
            begin, end = sorted((across(1), across(switch)))
            colour = COLOURS["switch"] if switch >= 1 else "#c03a2b"
            parts.append(f'<rect x="{begin:.1f}" y="{y + 2}" width="{max(1, end - begin):.1f}" height="{row - 7}" fill="{colour}"><title>{html.escape(name)}: '
                         f"{switch:.2f} x</title></rect>")
            parts.append(text(width - 50, y + 11, f"{switch:.2f}", "end", "tick"))
        if unix:
            parts.append(f'<line x1="{across(unix):.1f}" x2="{across(unix):.1f}" y1="{y}" y2="{y + row - 3}" stroke="{COLOURS["unix"]}" stroke-width="3">'
                         f"<title>Unix socket: {unix:.2f} x</title></line>")
            parts.append(text(width - 4, y + 11, f"{unix:.2f}", "end", "unix"))
    return drawing(width, height, title, parts)


def drawing(width, height, title, parts):
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">' + "".join(parts) + "</svg>"
