"""Rows that need programs of our own (bench/*.c): bare ping-pong, short connections, the cost on other descriptors, idle
connections, start-up."""
import json
import os
import pathlib
import re
import statistics
import subprocess
import time
from contextlib import ExitStack, contextmanager

from measure import (LIBRARY, PLAIN, PROGRAMS, SANSWITCH, SWITCHED, Line, Missing, alternate, environment, output, ratio_line, running,
                     verdict, workplace)
from programs import MESSAGE, beside_ring, round_trip_line


# Kernel memory that connections may cost, names of /proc/meminfo.
KERNEL = ("Slab", "PageTables", "KernelStack", "Percpu")


@contextmanager
def echo(side, *words):
    """A server of ours and its port."""
    with running(words or [PROGRAMS / "echo"], side, stdin=-1, stdout=-1, text=True) as server:
        port = server.stdout.readline().strip()
        if not port.isdigit():
            raise Missing(f"{side}: {server.args[0]} did not say its port")
        yield server, int(port)


def pingpong(options):
    """The same without sockperf's own work between two round trips; then with the ends where the scheduler may put them
    anyway, because both paths depend on it: each on a processor of its own, and both on one, where spinning cannot help."""
    first, *rest = sorted(os.sched_getaffinity(0))
    what = "C ping-pong 64 B, median RTT, "
    lines = [placed(options, what + "as scheduled", None, 20)]
    if rest:
        lines.append(placed(options, what + "two processors", (first, rest[0]), 20))
    return lines + [placed(options, what + "one processor", (first, first), None)]


def placed(options, what, processors, at_least):
    # For a time, not a number of trips, so that a slow path is seen for as long as a fast one.
    milliseconds = 300 if options.quick else 1500

    def on(index):
        return ["taskset", "-c", processors[index]] if processors else []

    with workplace() as (_, proof), ExitStack() as stack:
        ports = {side: stack.enter_context(echo(side, *on(0), PROGRAMS / "echo"))[1] for side in (PLAIN, SWITCHED)}

        def ask(side):
            command = [*on(1), PROGRAMS / "pingpong", ports[side], milliseconds, MESSAGE]
            return int(output(command, side, **proof.environment(side)).split()[0]) / 1000

        plain, switched = alternate(options.pairs, lambda: ask(PLAIN), lambda: beside_ring(lambda: ask(SWITCHED)))
        return round_trip_line(what, plain, switched, proof, at_least)


def short(options):
    """Connect, one request, close. A server of its own for each run: a new port, so that no run meets another's TIME-WAIT."""
    count = 3_000 if options.quick else 10_000

    def ask(server_side, client_side):
        with echo(server_side) as (_, port):
            return float(output([PROGRAMS / "rate", port, count], client_side))

    # More rounds of shorter runs than elsewhere: the ratios asked for are close to 1.
    plain, both, client, server = alternate(options.pairs * 2, lambda: ask(PLAIN, PLAIN), lambda: ask(SWITCHED, SWITCHED),
                                            lambda: ask(PLAIN, SWITCHED), lambda: ask(SWITCHED, PLAIN))
    what = "connect + request + close, "
    return [ratio_line(what + "aware peers", "/s", plain, both, 0.9, 1, digits=0),
            ratio_line(what + "unaware server", "/s", plain, client, 0.97, 1, digits=0),
            ratio_line(what + "unaware client", "/s", plain, server, 0.97, 1, digits=0)]


def sendcost(options):
    """Added by the library, less what the harness itself finds where there is no library."""
    def ask(side):
        lines = output([PROGRAMS / "sendcost", 200 if options.quick else 1000], side).splitlines()
        return {name: [float(value) for value in values] for name, *values in map(str.split, lines)}

    plain, switched = alternate(options.pairs, lambda: ask(PLAIN), lambda: ask(SWITCHED))
    texts = {"write": "write to /dev/null, no TCP yet", "send": "send on /dev/null (ENOTSOCK), no TCP yet",
             "write-beside-tcp": "write to /dev/null, TCP open", "send-beside-tcp": "send on /dev/null (ENOTSOCK), TCP open"}
    lines = []
    for name, text in texts.items():
        added = [b[name][2] - a[name][2] for a, b in zip(plain, switched)]
        value = statistics.median(added)
        sides = [f"{statistics.median(run[name][0] for run in runs):.1f} ns" for runs in (plain, switched)]
        lines.append(Line(text, *sides, f"+{value:.1f} ns", "under 5 ns", "3 ns", "libc's own beside it in one process", value < 5, value <= 3,
                          {PLAIN: [run[name] for run in plain], SWITCHED: [run[name] for run in switched], "added": added}, value,
                          verdict(added, lambda one: one < 5)[1]))
    return lines


def kernel_memory():
    """Of the whole machine, KiB: what a connection can cost outside its two processes."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M))
    return {name: int(found[name]) for name in ("Shmem", *KERNEL)}


def proportional(pid):
    """Pss of a process, and its part in shared memory, KiB: a page that both ends map counts half in each."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.M))
    return int(found["Pss"]), int(found["Pss_Shmem"])


def memory(pids):
    """KiB: the processes' pages, shared-memory pages that exist but are not mapped by them, and the kernel's own."""
    pages = [proportional(pid) for pid in pids]
    kernel = kernel_memory()
    shared = sum(shmem for _, shmem in pages)
    return {"processes": sum(pss for pss, _ in pages), "mapped": shared, "unmapped": kernel.pop("Shmem") - shared, **kernel}


def total(run):
    """KiB per connection. The machine's shared memory is everybody's: a negative rest is another's doing."""
    parts = run["parts"]
    return parts["processes"] + max(0, parts["unmapped"]) + sum(parts[name] for name in KERNEL)


def run_time(pid):
    """Nanoseconds on a processor, all threads: finer than utime + stime, which are its parts."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def idle_once(side, count, seconds):
    """KiB per connection by part, milliseconds of both processes in `seconds`, and how many connections left TCP."""
    program = PROGRAMS / "idle"
    with echo(side, program, "serve") as (server, port), \
            running([program, "ask", port, count, 24], side, stdin=-1, stdout=-1, stderr=None, text=True) as client:
        def expect(line):
            if client.stdout.readline().strip() != line:
                raise Missing(f"{side}: the idle client did not say '{line}'")

        expect("begin")
        pids = (server.pid, client.pid)
        before = memory(pids)
        client.stdin.write("\n")
        client.stdin.flush()
        expect("ready")
        # What goes on in the background ends first.
        time.sleep(0.3)
        begun = [run_time(pid) for pid in pids]
        time.sleep(seconds)
        spent = [run_time(pid) - start for pid, start in zip(pids, begun)]
        after = memory(pids)
        return {"parts": {name: (after[name] - before[name]) / count for name in before}, "milliseconds": sum(spent) / 1e6,
                "switched": sessions(client.pid) if side == SWITCHED else 0}


def sessions(pid):
    text = subprocess.run([SANSWITCH, "stat", "--json", str(pid)], capture_output=True, text=True, env=environment(PLAIN)).stdout
    return sum(session["send"]["path"] == session["receive"]["path"] == "companion" for session in json.loads(text or "[]"))


def idle(options):
    count, seconds = 1000, 2 if options.quick else 10
    plain, switched = alternate(1 if options.quick else 3, lambda: idle_once(PLAIN, count, 0.2), lambda: idle_once(SWITCHED, count, seconds))

    sizes = [[total(run) for run in runs] for runs in (plain, switched)]
    size, middle = statistics.median(sizes[1]), sorted(switched, key=total)[len(switched) // 2]
    parts = middle["parts"]
    spent = statistics.median(run["milliseconds"] for run in switched)
    left = min(run["switched"] for run in switched)
    counted = (f"Pss of both {parts['processes']:.1f} (rings {parts['mapped']:.1f}), unmapped shmem {max(0, parts['unmapped']):.1f}, slab "
               f"{parts['Slab']:.1f}, page tables {parts['PageTables']:.1f}, stacks and per-cpu {parts['KernelStack'] + parts['Percpu']:.1f}")
    return [Line(f"idle, {count:,} connections: CPU in {seconds} s", "-", f"{spent:.2f} ms", "-", "none (< 10 ms)", "-",
                 f"{left} of {count} switched both ways", spent < 10 and left == count, None, {SWITCHED: switched}, spent),
            Line("idle: memory each, both ends", f"{statistics.median(sizes[0]):.1f} KiB", f"{size:.1f} KiB",
                 f"+{statistics.median(b - a for a, b in zip(*sizes)):.1f} KiB", "under 48 KiB", "16 KiB", counted, size < 48, size <= 16,
                 {PLAIN: plain, SWITCHED: switched}, size)]


def startup(options):
    """Start to end of /bin/true."""
    def milliseconds(variables):
        begun = time.perf_counter()
        pid = os.posix_spawn("/bin/true", ["/bin/true"], variables)
        status = os.waitpid(pid, 0)[1]
        if status != 0:
            raise Missing(f"/bin/true ended with status {status}")
        return (time.perf_counter() - begun) * 1e3

    plain, switched = alternate(200 if options.quick else 1000, lambda: milliseconds({}), lambda: milliseconds({"LD_PRELOAD": str(LIBRARY)}))
    added = statistics.median(b - a for a, b in zip(plain, switched))
    return [Line("start-up of /bin/true", f"{statistics.median(plain):.3f} ms", f"{statistics.median(switched):.3f} ms", f"+{added:.3f} ms",
                 "under 0.2 ms", "-", f"median of {len(plain)} pairs", added < 0.2, None, {PLAIN: plain, SWITCHED: switched}, added)]
