"""What `sanswitch bench` compares: groups of tests, each on plain TCP, on a Unix socket where there is one, and under the switch.

Runs alternate (TCP, Unix, switch, TCP, ...), so that a drift of the machine hits all sides; a number is the median of its
side's runs, a ratio the median of the rounds' ratios. Every measured program warms up before its clock starts."""
import json
import os
import pathlib
import re
import resource
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import probes
import programs
from measure import LIBRARY, PLAIN, PROGRAMS, SWITCHED, Missing, free_port, need, output, running, wait_for_port, workplace

TCP, UNIX, SWITCH = "tcp", "unix", "switch"
WARM = 30
TOTAL = 44
QUICK = {"pingpong": 8, "bulk": 4, "connect": 2, "many": 8, "idle": 5, "iperf3": 5, "redis": 4, "nginx": 5}


@dataclass
class Plan:
    """How long things take; `quick` ends within 45 seconds, on a busy machine by measuring fewer rounds and at last fewer groups."""
    quick: bool = False
    begun: float = field(default_factory=time.monotonic)
    # Of a quick run: seconds from its begin to the end of a group.
    ends: float = 0

    def enter(self, name):
        """Before a group; Missing when a quick run has no time left for it."""
        if not self.quick:
            return
        self.ends = sum(QUICK[one] for one in list(QUICK)[:list(QUICK).index(name) + 1])
        if time.monotonic() - self.begun > TOTAL - 1.5 * QUICK[name]:
            raise Missing("a quick run on this machine has no time left for it")

    @property
    def is_late(self):
        return self.quick and time.monotonic() - self.begun > self.ends

    @property
    def patience(self):
        """Seconds after which one run of ours hangs."""
        return 8 if self.quick else 60

    @property
    def rounds(self):
        return 3 if self.quick else 5

    @property
    def few(self):
        """Of whole programs."""
        return 2 if self.quick else 5

    @property
    def milliseconds(self):
        return 80 if self.quick else 300

    @property
    def seconds(self):
        return 1 if self.quick else 3

    @property
    def sizes(self):
        return [64, 1024, 16384, 131072] if self.quick else [64, 256, 1024, 4096, 16384, 65536, 131072, 262144, 1048576]

    @property
    def counts(self):
        return [1, 10, 100, 1000] if self.quick else [1, 10, 100, 1000, 10000]


@dataclass
class Test:
    """One row: by side, every run's numbers. `key` names the number that the ratio is of; `lower`: less is better."""
    group: str
    name: str
    key: str
    unit: str
    lower: bool = False
    x: int | None = None
    cost: str = ""                 # what `cost` counts: CPU seconds per ...
    note: str = ""
    trouble: str = ""              # why it was not measured to its end
    runs: dict = field(default_factory=dict)

    def median(self, side, key=None):
        values = [run[key or self.key] for run in self.runs.get(side, []) if run.get(key or self.key) is not None]
        return statistics.median(values) if values else None

    def ratio(self, side=SWITCH, key=None, lower=None):
        """Over 1 is better than TCP."""
        key, lower = key or self.key, self.lower if lower is None else lower
        pairs = [(a.get(key), b.get(key)) for a, b in zip(self.runs.get(TCP, []), self.runs.get(side, []))]
        ratios = [(a / b if lower else b / a) for a, b in pairs if a and b]
        return statistics.median(ratios) if ratios else None

    def curve(self, side):
        """Percentile to microseconds, the median of the runs."""
        curves = [run["percentiles"] for run in self.runs.get(side, []) if "percentiles" in run]
        # One in a thousand is to be seen in a thousand only.
        least = min((run["messages"] / 2 for run in self.runs.get(side, []) if "percentiles" in run), default=0)
        parts = [part for part in curves[0] if (100 - float(part)) * least >= 99] if curves else []
        return {float(part): statistics.median(curve[part] for curve in curves) for part in parts}


def collect(plan, test, rounds, sides):
    """Runs each side in turn, `rounds` times round; the order changes, so that no side always follows the same other. A quick
    run that is late is content with one round."""
    order = list(sides)
    for turn in range(rounds):
        for side in order[turn % len(order):] + order[:turn % len(order)]:
            try:
                test.runs.setdefault(side, []).append(sides[side]())
            except Missing as reason:
                # The other tests go on; half a comparison is none.
                test.trouble, test.runs = str(reason), {}
                return test
        if plan.is_late:
            break
    return test


# ---- Programs of our own (pair.c)

def pair(plan, side, *words, client=None, server=None):
    """One run; either end may be on another side than the rest."""
    family = "unix" if side == UNIX else "tcp"
    more = {"PAIR_SERVER_PRELOAD": str(LIBRARY) if (server or side) == SWITCH else ""}
    mode, *rest = words
    found = json.loads(output([PROGRAMS / "pair", mode, family, *rest], SWITCHED if (client or side) == SWITCH else PLAIN, plan.patience, **more))
    curve = found.get("percentiles", {})
    found |= {"p50": curve.get("50"), "p99": curve.get("99"), "p99.9": curve.get("99.9"), "rate": found["messages"] / found["seconds"],
              "perMillion": found["processor"] / found["messages"] * 1e6, "gbit": found["bytes"] * 8e-9 / found["seconds"],
              "perGigabyte": found["processor"] / found["bytes"] * 1e9}
    # Of what the client sent, by the kernel's count (TCP_INFO): the proof of the path.
    sent = found["bytes"] / (1 if mode == "bulk" else 2)
    found["leftTCP"] = 1 - found["tcp"] / sent if side == SWITCH and mode != "connect" else None
    return found


def pingpong(plan):
    for wait, name in (("block", "blocking"), ("epoll", "epoll")):
        for gap, state in ((0, "spinning"), (150, "asleep")):
            # Enough trips for a p99.9 even where each takes long.
            milliseconds = plan.milliseconds * (4 if gap else 2)
            test = Test("pingpong", f"{name}, {state}", "p50", "us", lower=True, cost="perMillion")
            yield collect(plan, test, plan.rounds, {side: lambda side=side: pair(plan, side, "pingpong", wait, gap, 64, WARM, milliseconds)
                                              for side in (TCP, UNIX, SWITCH)})


def bulk(plan):
    for size in plan.sizes:
        test = Test("bulk", f"{amount(size)} writes", "gbit", "Gbit/s", x=size, cost="perGigabyte")
        yield collect(plan, test, plan.rounds, {side: lambda side=side: pair(plan, side, "bulk", size, WARM, plan.milliseconds)
                                          for side in (TCP, UNIX, SWITCH)})


def connect(plan):
    count = 500 if plan.quick else 5000
    test = Test("connect", "both aware", "rate", "/s", cost="perMillion")
    yield collect(plan, test, plan.rounds, {side: lambda side=side: pair(plan, side, "connect", count) for side in (TCP, UNIX, SWITCH)})
    for name, ends in (("server unaware", {"server": TCP}), ("client unaware", {"client": TCP})):
        test = Test("connect", name, "rate", "/s", cost="perMillion")
        yield collect(plan, test, plan.rounds, {TCP: lambda: pair(plan, TCP, "connect", count), SWITCH: lambda: pair(plan, SWITCH, "connect", count, **ends)})


def limit_descriptors(count):
    """The soft limit just above what the program needs: the switch has its own descriptors beyond it, up to the hard one. Returns for
    how many there is room."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count + 128 > hard:
        raise Missing(f"{count:,} connections need more descriptors than there may be ({hard:,})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 128, hard))
    return hard - count - 128


def many(plan):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for count in plan.counts:
            test = Test("many", f"{count:,} connections" if count > 1 else "1 connection", "rate", "messages/s", x=count, cost="perMillion")
            room = limit_descriptors(count)
            if room < count:
                test.note = f"descriptors for {room:,} to switch"
            rounds = plan.rounds if count < 1000 else plan.few
            yield collect(plan, test, rounds, {side: lambda side=side: pair(plan, side, "many", count, 64, plan.milliseconds)
                                               for side in (TCP, UNIX, SWITCH)})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def idle(plan):
    count, seconds = (300, 0.5) if plan.quick else (1000, 5)
    test = Test("idle", f"memory, {count:,} connections", "each", "KiB each, both ends", lower=True)
    processor = Test("idle", f"CPU, {count:,} connections", "percent", "% of a processor", lower=True)

    def ask(side):
        run = probes.idle_once(PLAIN if side == TCP else SWITCHED, count, seconds)
        run |= {"each": probes.total(run), "percent": run["milliseconds"] / seconds / 10}
        if side == SWITCH:
            test.note = f"{run['switched']} of {count} switched"
        processor.runs.setdefault(side, []).append(run)
        return run

    collect(plan, test, 1 if plan.quick else 3, {side: lambda side=side: ask(side) for side in (TCP, SWITCH)})
    yield test
    if not test.trouble:
        yield processor


# ---- Real programs

def spent_by_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def family_time(pid):
    """Seconds on a processor of a process and its children, all threads."""
    children = [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit() and parent(entry) == pid]
    return sum(probes.run_time(one) for one in (pid, *children)) / 1e9


def parent(entry):
    try:
        return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return None


def way(side):
    return SWITCHED if side == SWITCH else PLAIN


def iperf3(plan):
    program, = need("iperf3")

    def ask(side):
        port, before = free_port(), spent_by_children()
        with running([program, "-s", "-B", "127.0.0.1", "-p", port, "--one-off", "--forceflush"], way(side), stdout=-1, text=True) as server:
            if not any(line.startswith("Server listening") for line in server.stdout):
                raise Missing(f"{side}: iperf3 -s did not start")
            words = [program, "-c", "127.0.0.1", "-p", port, "-t", plan.seconds, "-J"]
            end = json.loads(output(words, way(side), plan.seconds + 20))["end"]
            server.wait(10)
        return {"gbit": end["sum_received"]["bits_per_second"] / 1e9,
                "perGigabyte": (spent_by_children() - before) / end["sum_received"]["bytes"] * 1e9}

    test = Test("programs", "iperf3, one stream", "gbit", "Gbit/s", cost="perGigabyte")
    yield collect(plan, test, plan.few, {side: lambda side=side: ask(side) for side in (TCP, SWITCH)})


def redis(plan):
    server, client = need("redis-server", "redis-benchmark")
    requests = 40_000 if plan.quick else 300_000
    with workplace() as (directory, _), ExitStack() as stack:
        servers = {}
        for side in (TCP, UNIX, SWITCH):
            port, path = free_port(), directory / f"{side}.sock"
            words = [server, "--bind", "127.0.0.1", "--port", port, "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory]
            process = stack.enter_context(running(words, way(side)))
            wait_for_port(process, port)
            servers[side] = process.pid, ["-s", path] if side == UNIX else ["-h", "127.0.0.1", "-p", port]

        def ask(side):
            pid, where = servers[side]
            before, served = spent_by_children(), family_time(pid)
            text = output([client, *where, "-t", "get", "-n", requests, "-c", 50, "--csv"], way(side))
            spent = spent_by_children() - before + family_time(pid) - served
            # "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
            found = re.search(r'"GET",(.*)', text)
            if found is None:
                raise Missing(f"{side}: redis-benchmark printed no GET line")
            numbers = [float(value.strip('"')) for value in found[1].split(",")]
            return {"rate": numbers[0], "p50": numbers[3] * 1e3, "p99": numbers[5] * 1e3, "perMillion": spent / requests * 1e6}

        output([client, *servers[TCP][1], "-t", "get", "-n", 5000, "-q"], PLAIN)
        test = Test("programs", "redis GET, 50 connections", "rate", "/s", cost="perMillion")
        yield collect(plan, test, plan.few, {side: lambda side=side: ask(side) for side in (TCP, UNIX, SWITCH)})


def nginx(plan):
    server, client = need("nginx", "wrk")
    with workplace() as (directory, _), ExitStack() as stack:
        servers = {}
        for side in (TCP, SWITCH):
            home, port = directory / side, free_port()
            (home / "www").mkdir(parents=True)
            (home / "www" / "1k").write_bytes(b"x" * 1024)
            for path in (directory, home, home / "www"):
                path.chmod(0o755)
            (home / "nginx.conf").write_text(programs.NGINX.format(directory=home, port=port))
            process = stack.enter_context(running([server, "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"], way(side)))
            wait_for_port(process, port)
            servers[side] = process.pid, f"http://127.0.0.1:{port}/1k"

        def ask(side):
            pid, address = servers[side]
            before, served = spent_by_children(), family_time(pid)
            text = output([client, "-t2", "-c64", "--latency", f"-d{plan.seconds}s", address], way(side), plan.seconds + 20)
            spent = spent_by_children() - before + family_time(pid) - served
            if trouble := re.search(r"(Socket errors:.*|Non-2xx.*)", text):
                raise Missing(f"{side}: wrk: {trouble[1]}")
            count, rate = re.search(r"(\d+) requests in", text), re.search(r"Requests/sec:\s+([\d.]+)", text)
            if count is None or rate is None:
                raise Missing(f"{side}: wrk: no number in its output")
            return {"rate": float(rate[1]), "p50": latency(text, 50), "p99": latency(text, 99), "perMillion": spent / int(count[1]) * 1e6}

        test = Test("programs", "nginx + wrk, 1 KB, 64 connections", "rate", "/s", cost="perMillion")
        yield collect(plan, test, plan.few, {side: lambda side=side: ask(side) for side in (TCP, SWITCH)})


def latency(text, part):
    """A line of wrk's distribution, microseconds."""
    found = re.search(rf"^\s+{part}%\s+([\d.]+)(us|ms|s)$", text, re.M)
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]] if found else None


def amount(size):
    for unit, step in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return f"{size // step} {unit}"
    return f"{size} B"


GROUPS = {"pingpong": pingpong, "bulk": bulk, "connect": connect, "many": many, "idle": idle, "iperf3": iperf3, "redis": redis, "nginx": nginx}
