"""`sanswitch stat --prometheus` with real traffic, read as Prometheus reads it."""
import re
import subprocess
import time

from toolbox import TOOL, clean_environment

LINE = re.compile(r'^([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\} (\d+)$')


def parse(text):
    """Values by name and labels; every line is understood, every family introduced once, before its values."""
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in types
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        else:
            found = LINE.match(line)
            assert found, line
            assert types[found[1]] == ("counter" if found[1].endswith("_total") else "gauge")
            labels = tuple(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', found[2]))
            assert (found[1], labels) not in values, line
            values[found[1], labels] = int(found[3])
    return values


def of(values, name, **labels):
    return {dict(key[1])["direction"]: value for key, value in values.items()
            if key[0] == name and set(labels.items()) <= set(key[1])}


def settled(tool, connection):
    """Once both directions are on the companion."""
    deadline = time.monotonic() + 30
    while True:
        values = parse(tool("stat", "--prometheus", "--each", connection.client.pid, connection.server.pid).stdout)
        found = sum(value for key, value in values.items() if key[0] == "sanswitch_directions" and ("path", "companion") in key[1])
        if found == 4:
            return values
        assert time.monotonic() < deadline, values
        time.sleep(0.05)


def test_sums_and_counters(connect, tool):
    connection = connect()
    first = settled(tool, connection)
    second = settled(tool, connection)
    for name in ("sanswitch_open_bytes", "sanswitch_session_bytes_total"):
        before, after = (of(values, name, role="client", path="companion") for values in (first, second))
        assert set(before) == set(after) == {"send", "receive"}
        assert all(after[direction] > before[direction] > 0 for direction in before), (before, after)
    session = of(second, "sanswitch_session_calls_total", pid=str(connection.server.pid), role="server")
    assert session["send"] > 8 and session["receive"] > 8
    assert of(second, "sanswitch_open_switches", role="client", change="over") == {"send": 1, "receive": 1}


def test_reason_is_a_label(connect, tool):
    connection = connect(server_switched=False)
    deadline = time.monotonic() + 30
    while True:
        values = parse(tool("stat", "--prometheus", connection.client.pid).stdout)
        if of(values, "sanswitch_directions", reason="peerUnaware", path="kernel") == {"send": 1, "receive": 1}:
            break
        assert time.monotonic() < deadline, values
        time.sleep(0.05)
    assert not [key for key in values if key[0].startswith("sanswitch_session")]


def test_file_is_replaced_whole(connect, tool, tmp_path):
    connection = connect()
    settled(tool, connection)
    path = tmp_path / "sanswitch.prom"
    writer = subprocess.Popen([TOOL, "stat", "--prometheus", "--output", path, "--every", "0.1"], env=clean_environment())
    try:
        seen = set()
        deadline = time.monotonic() + 30
        while len(seen) < 3:
            assert time.monotonic() < deadline
            if path.exists():
                seen.add(of(parse(path.read_text()), "sanswitch_open_bytes", role="client", path="companion").get("send"))
            time.sleep(0.02)
        assert path.stat().st_mode & 0o777 == 0o644
    finally:
        writer.kill()
        writer.wait()
    assert "No such file" in tool("stat", "--prometheus", "--output", tmp_path / "none" / "x", expect=1).stderr
