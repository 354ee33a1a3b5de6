#!/usr/bin/python3
"""Runs an unmodified iperf3, server and client on this host, plain and under the switch, and prints both side by side.

The proof that the bytes left TCP is the kernel's: the library logs, at close, TCP_INFO's counters of that very socket."""
import argparse
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SANSWITCH = ROOT / "build/bin/sanswitch"
CLOSED = re.compile(r"sanswitch\[(\d+)\]: closed, (companion|TCP_INFO) bytes sent received fd=(\d+) (\d+) (\d+)")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """iperf3 -s for one client; ready when it says so."""

    def __init__(self, prefix, port):
        self.process = subprocess.Popen([*prefix, "iperf3", "-s", "-B", "127.0.0.1", "-p", str(port), "--one-off", "--forceflush"],
                                        stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("Server listening"):
                return
        raise SystemExit("iperf3 -s did not start")

    def stop(self):
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def measure(prefix, seconds, arguments, halfway=None):
    """One run; iperf3's own summary, and what `halfway` returned for the client's pid in the middle of it."""
    port = free_port()
    server = Server(prefix, port)
    try:
        command = [*prefix, "iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-J", *arguments]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        seen = None
        try:
            client.wait(timeout=seconds / 2)
        except subprocess.TimeoutExpired:
            seen = halfway and halfway(client.pid)
        output, _ = client.communicate(timeout=seconds + 30)
    finally:
        server.stop()
    result = json.loads(output)
    if "error" in result:
        raise SystemExit(f"iperf3: {result['error']}")
    return result["end"]["sum_received"]["bits_per_second"], result["end"]["sum_sent"]["bytes"], seen


def sessions(pid):
    """The busiest session of a process, as `sanswitch stat` has it."""
    found = json.loads(subprocess.run([SANSWITCH, "stat", "--json", str(pid)], check=True, capture_output=True).stdout)
    return max(found, key=lambda session: session["send"]["bytes"] + session["receive"]["bytes"], default=None)


def closing_counts(log):
    """Of the busiest connection in a log: bytes on the companion, bytes on TCP by the kernel's count."""
    connections, latest = [], {}
    for pid, kind, fd, sent, received in CLOSED.findall(log.read_text()):
        # Two lines for each connection, in this order; those of other processes may come between.
        if kind == "companion":
            latest[pid, fd] = [int(sent) + int(received), 0]
            connections.append(latest[pid, fd])
        elif (pid, fd) in latest:
            latest[pid, fd][1] = int(sent) + int(received)
    return max(connections, key=sum, default=[0, 0])


def size(count):
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.2f} {unit}"
        count /= 1000


def compare(runs, seconds, arguments):
    plain, switched = [], []
    with tempfile.TemporaryDirectory(prefix="sanswitch-demo-") as directory:
        for run in range(runs):
            # In pairs, so that a drift of the machine hits both.
            plain.append(measure([], seconds, arguments))
            log = pathlib.Path(directory) / f"{run}.log"
            prefix = [str(SANSWITCH), "run", f"--log={log}", "--"]
            rate, count, seen = measure(prefix, seconds, arguments, sessions)
            switched.append((rate, count, seen, *closing_counts(log)))
            print(f"  run {run + 1}: plain {plain[-1][0] / 1e9:6.1f} Gbit/s, switched {rate / 1e9:6.1f} Gbit/s", flush=True)
    return plain, switched


def report(plain, switched):
    rates = [statistics.median(run[0] for run in runs) / 1e9 for runs in (plain, switched)]
    # The run nearest to the median speaks for the rest.
    _, count, seen, companion, tcp = min(switched, key=lambda run: abs(run[0] / 1e9 - rates[1]))
    path, at = "unknown", None
    if seen:
        direction = seen["send"] if seen["send"]["bytes"] >= seen["receive"]["bytes"] else seen["receive"]
        path, at = direction["path"], direction["switchOver"]
        if path == "kernel":
            path += f" ({seen['reasonText']})"
    moved = statistics.median(run[1] for run in plain)
    rows = [
        ("", "plain TCP", "under sanswitch"),
        ("throughput (median)", f"{rates[0]:.1f} Gbit/s", f"{rates[1]:.1f} Gbit/s"),
        ("path (sanswitch stat)", "kernel", path),
        ("switched over at byte", "-", "-" if at is None else str(at)),
        ("bytes moved (iperf3)", size(moved), size(count)),
        ("on the companion", "-", size(companion)),
        ("on TCP (kernel's TCP_INFO)", "all", f"{size(tcp)} = {100 * tcp / max(1, tcp + companion):.4f} %"),
    ]
    print()
    for name, left, right in rows:
        print(f"  {name:<28}{left:>16}   {right}")
    print(f"\n  {rates[1] / rates[0]:.2f} x plain TCP")
    return path == "companion" and companion > tcp


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="Further arguments go to iperf3 -c (-R, -P 4, ...).")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options, arguments = parser.parse_known_args()
    if not SANSWITCH.exists():
        raise SystemExit("build/bin/sanswitch is not there: run `make build` first")
    print(f"iperf3 over 127.0.0.1, {options.runs} runs of {options.seconds} s each way", flush=True)
    if not report(*compare(options.runs, options.seconds, arguments)):
        sys.exit("\nThe connection did not switch over: see `build/bin/sanswitch doctor`.")


main()
