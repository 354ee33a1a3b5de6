"""What every row needs: starting programs on plain TCP and under the switch, pairing, medians, and the row's text."""
import contextlib
import hashlib
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
# `sanswitch bench` says where its own library and tool are; installed, the small C programs lie built beside this file.
LIBRARY = pathlib.Path(os.environ.get("BENCH_LIBRARY", ROOT / "build/lib/libsanswitch.so"))
SANSWITCH = pathlib.Path(os.environ.get("BENCH_TOOL", ROOT / "build/bin/sanswitch"))
PROGRAMS = BENCH if (BENCH / "pair").exists() else ROOT / "build/bench"
CLOSED = re.compile(r"closed, (companion|TCP_INFO) bytes sent received fd=\d+ (\d+) (\d+)")
PLAIN, SWITCHED = "plain", "switched"


class Missing(Exception):
    """A row cannot be measured here, and why."""


@dataclass
class Options:
    quick: bool = False

    @property
    def pairs(self):
        return 3 if self.quick else 5

    @property
    def seconds(self):
        """Of one run of a program that runs for a time."""
        return 1 if self.quick else 3


@dataclass
class Line:
    """One line of the table; `runs` holds every single measurement by side, `met` and `aimed` are None where nothing is asked."""
    what: str
    plain: str
    switched: str
    ratio: str
    at_least: str = "-"
    aim: str = "-"
    reference: str = "-"
    met: bool | None = None
    aimed: bool | None = None
    runs: dict = field(default_factory=dict)
    value: float | None = None
    sure: bool = True


def build():
    """The small C programs, where they are older than their source."""
    if PROGRAMS == BENCH:
        return
    if shutil.which("cc") is None:
        raise SystemExit("No C compiler: install gcc")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    for source in sorted(BENCH.glob("*.c")):
        target = PROGRAMS / source.stem
        newest = max(path.stat().st_mtime for path in (source, BENCH / "common.h"))
        if target.exists() and target.stat().st_mtime > newest:
            continue
        subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-o", target, source], check=True)


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"processor": model, "processors": os.cpu_count(), "kernel": platform.release(), "commit": commit or "unknown"}


def load():
    return float(pathlib.Path("/proc/loadavg").read_text().split()[0])


def version():
    """Of the library's file: a build in the middle of a run would make one table of two libraries."""
    return hashlib.sha256(LIBRARY.read_bytes()).hexdigest()[:16]


def environment(side, **more):
    """The caller's, without any switch of its own; with the library for the switched side."""
    result = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and not name.startswith("SAN")}
    if side == SWITCHED:
        result["LD_PRELOAD"] = str(LIBRARY)
    return result | more


def need(*names):
    """The paths of programs; Missing names the first that is not installed."""
    found = [shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin") for name in names]
    for name, path in zip(names, found):
        if path is None:
            raise Missing(f"{name} is not installed")
    return found


@contextlib.contextmanager
def workplace():
    """A directory for one row's files, and the proof kept in it."""
    with tempfile.TemporaryDirectory(prefix="sanswitch-bench-") as name:
        yield pathlib.Path(name), Proof(name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(process, port, seconds=20):
    """Until a listener answers; the probe is an unaware client."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Missing(f"{process.args[0]} ended with status {process.returncode} instead of listening")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise Missing(f"{process.args[0]} did not listen within {seconds} s")


@contextlib.contextmanager
def running(command, side, **how):
    """A program in the background, ended by its process id whatever happens."""
    more = how.pop("environment", {})
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | how
    process = subprocess.Popen([str(word) for word in command], env=environment(side, **more), **how)
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)


def output(command, side, seconds=60, **more):
    """What a program printed. One that fails or hangs is no measurement: the row says so."""
    try:
        result = subprocess.run([str(word) for word in command], env=environment(side, **more), capture_output=True, text=True,
                                stdin=subprocess.DEVNULL, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Missing(f"{side}: {pathlib.Path(command[0]).name} hung ({seconds} s): {' '.join(map(str, command))}") from None
    if result.returncode != 0:
        text = " ".join((result.stderr + result.stdout).split())[-300:]
        raise Missing(f"{side}: {pathlib.Path(command[0]).name} ended with status {result.returncode}: {text}")
    return result.stdout


def number_in(pattern, text):
    """The number that a program printed; its whole answer is the reason when there is none."""
    found = re.search(pattern, text)
    if found is None:
        raise Missing(f"no number in: {' '.join(text.split())[-300:]}")
    return float(found[1])


def alternate(count, *runs):
    """Calls each run in turn, `count` times round, so that a drift of the machine hits all; the results, one list per run."""
    results = [[] for _ in runs]
    for _ in range(count):
        for run, kept in zip(runs, results):
            kept.append(run())
    return results


class Proof:
    """That a row's bytes left TCP, shown for its first switched run only: that one logs, which costs nothing between the start and the end of a
    connection, and at the end the library writes beside its own count what the kernel (TCP_INFO) counted on TCP."""

    def __init__(self, directory):
        self.log, self.started = pathlib.Path(directory) / "log", False

    def environment(self, side):
        if side != SWITCHED or self.started:
            return {}
        self.started = True
        return {"SAN_LOG": f"debug:{self.log}"}

    def __str__(self):
        moved = {"companion": 0, "TCP_INFO": 0}
        for kind, sent, received in CLOSED.findall(self.log.read_text() if self.log.exists() else ""):
            moved[kind] += int(sent) + int(received)
        total = sum(moved.values())
        return f"{100 * moved['companion'] / total:.2f} % left TCP in run 1" if total else "no session seen to close"


def verdict(values, holds):
    """Of the median, and whether every single pair agrees with it."""
    held = holds(statistics.median(values))
    return held, all(holds(value) == held for value in values)


def ratio_line(what, unit, plain, switched, at_least=None, aim=None, lower=False, digits=1, reference="-", aimed=None, aim_text=None):
    """A row whose measure is the median of the pairs' ratios; `lower`: less is better, so plain over switched."""
    ratios = [(a / b if lower else b / a) for a, b in zip(plain, switched)]
    ratio = statistics.median(ratios)
    text = [f"{statistics.median(side):,.{digits}f} {unit}" for side in (plain, switched)]
    met, sure = (None, True) if at_least is None else verdict(ratios, lambda value: value >= at_least)
    if aim is not None:
        aim_text, reached = aim_text or f"{aim:g} x", ratio >= aim
        aimed = reached if aimed is None else aimed and reached
    return Line(what, *text, f"{ratio:.2f} x ({min(ratios):.2f}-{max(ratios):.2f})", "-" if at_least is None else f"{at_least:g} x",
                aim_text or "-", reference, met, aimed, {PLAIN: plain, SWITCHED: switched, "ratio": ratios}, ratio, sure)
