"""Rows that run real, unmodified programs: sockperf, iperf3, redis, nginx with wrk."""
import json
import re
import statistics
from contextlib import ExitStack

from measure import PLAIN, PROGRAMS, SWITCHED, Missing, alternate, free_port, need, number_in, output, ratio_line, running, wait_for_port, workplace

WRITE = 128 << 10      # what iperf3 hands to one send
RING = 1 << 20         # the most that a direction's ring grows to
MESSAGE = 64


def beside_ring(run):
    """A switched round trip, and the bare ring's before and after it: what shares a cache with what is the host's choice and
    changes from second to second."""
    def ring():
        return int(output([PROGRAMS / "ring", "rtt", 50_000, MESSAGE], PLAIN)) / 1000

    before = ring()
    return run(), (before + ring()) / 2


def round_trip_line(what, plain, switched, proof, at_least=20):
    """`switched`: pairs of it and the ring's."""
    switched, ring = map(list, zip(*switched))
    times = statistics.median(b / r for b, r in zip(switched, ring))
    asked = {"aimed": times <= 2.5, "aim_text": "within 2.5 x of the ring"} if at_least else {}
    line = ratio_line(what, "us", plain, switched, at_least, lower=True, digits=2, **asked,
                      reference=f"bare ring {statistics.median(ring):.2f} us: {times:.2f} x of it; {proof}")
    line.runs["bare ring"] = ring
    return line


def sockperf(options):
    """Ping-pong as sockperf does it by default, but for the rate: the room for its sequence numbers is reckoned from it, and
    the default is less than what happens here ("_seqN > m_maxSequenceNo"). TCP is far from it, so it paces nothing there."""
    program, = need("sockperf")
    ports = {}
    with workplace() as (_, proof), ExitStack() as stack:
        def ask(side):
            text = output([program, "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", ports[side], "-m", MESSAGE, "-t", options.seconds,
                           "--full-rtt", "--mps=2000000"], side, 30, **proof.environment(side))
            return number_in(r"percentile 50\.000 =\s+([\d.]+)", text)

        for side in (PLAIN, SWITCHED):
            ports[side] = free_port()
            server = stack.enter_context(running([program, "server", "--tcp", "-i", "127.0.0.1", "-p", ports[side]], side))
            wait_for_port(server, ports[side])
        plain, switched = alternate(options.pairs, lambda: ask(PLAIN), lambda: beside_ring(lambda: ask(SWITCHED)))
        return [round_trip_line("sockperf ping-pong 64 B, median RTT", plain, switched, proof)]


def iperf3(options):
    program, = need("iperf3")

    def ask(side):
        port, more = free_port(), proof.environment(side)
        command = [program, "-s", "-B", "127.0.0.1", "-p", port, "--one-off", "--forceflush"]
        with running(command, side, environment=more, stdout=-1, text=True) as server:
            if not any(line.startswith("Server listening") for line in server.stdout):
                raise Missing(f"{side}: iperf3 -s did not start")
            text = output([program, "-c", "127.0.0.1", "-p", port, "-t", options.seconds, "-J"], side, options.seconds + 20, **more)
            return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e9

    def bare():
        return float(output([PROGRAMS / "ring", "stream", 500 * options.seconds, WRITE, RING], PLAIN)) / 1e9

    with workplace() as (_, proof):
        plain, switched, ring = alternate(options.pairs, lambda: ask(PLAIN), lambda: ask(SWITCHED), bare)
        part = statistics.median(b / r for b, r in zip(switched, ring))
        line = ratio_line("iperf3, one stream", "Gbit/s", plain, switched, 3, aimed=part >= 0.85, aim_text="85 % of the ring",
                          reference=f"bare two-copy ring {statistics.median(ring):.1f} Gbit/s: {100 * part:.0f} % of it; {proof}")
    line.runs["bare ring"] = ring
    return [line]


def redis(options):
    server, client = need("redis-server", "redis-benchmark")
    requests = 100_000 if options.quick else 400_000
    with workplace() as (directory, proof), ExitStack() as stack:
        def start(side):
            port, path = free_port(), directory / f"{side}.sock"
            process = stack.enter_context(running([server, "--bind", "127.0.0.1", "--port", port, "--unixsocket", path, "--save", "",
                                                   "--appendonly", "no", "--dir", directory], side))
            wait_for_port(process, port)
            # GET finds something.
            output([client, "-h", "127.0.0.1", "-p", port, "-t", "set", "-n", 100, "-q"], PLAIN)
            return ["-h", "127.0.0.1", "-p", port], ["-s", path]

        def ask(side, where):
            text = output([client, *where, "-t", "get", "-n", requests, "-c", 50, "--csv"], side, **proof.environment(side))
            return number_in(r'"GET","([\d.]+)"', text)

        (plain_tcp, unix), (switched_tcp, _) = start(PLAIN), start(SWITCHED)
        plain, switched, local = alternate(options.pairs, lambda: ask(PLAIN, plain_tcp), lambda: ask(SWITCHED, switched_tcp),
                                           lambda: ask(PLAIN, unix))
        above = statistics.median(b / u for b, u in zip(switched, local))
        line = ratio_line("redis-benchmark GET, 50 connections", "/s", plain, switched, 1.6, 2.5, digits=0, aimed=above > 1,
                          aim_text="2.5 x, above Unix",
                          reference=f"Unix socket {statistics.median(local):,.0f} /s: {above:.2f} x of it; {proof}")
    line.runs["unix socket"] = local
    return [line]


NGINX = """
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; root {directory}/www; }}
}}
"""


def nginx(options):
    """Debian's settings where they matter: sendfile and tcp_nopush on, workers of another user when we are root."""
    server, client = need("nginx", "wrk")
    with workplace() as (directory, proof), ExitStack() as stack:
        def start(side):
            home, port = directory / side, free_port()
            (home / "www").mkdir(parents=True)
            (home / "www" / "1k").write_bytes(b"x" * 1024)
            for path in (directory, home, home / "www"):
                path.chmod(0o755)
            (home / "nginx.conf").write_text(NGINX.format(directory=home, port=port))
            process = stack.enter_context(running([server, "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"], side))
            wait_for_port(process, port)
            return port

        def ask(side):
            text = output([client, "-t2", "-c64", f"-d{options.seconds}s", f"http://127.0.0.1:{ports[side]}/1k"], side,
                          options.seconds + 20, **proof.environment(side))
            trouble = re.search(r"(Socket errors:.*|Non-2xx.*)", text)
            if trouble:
                raise Missing(f"{side}: wrk: {trouble[1]}")
            return number_in(r"Requests/sec:\s+([\d.]+)", text)

        ports = {side: start(side) for side in (PLAIN, SWITCHED)}
        plain, switched = alternate(options.pairs, lambda: ask(PLAIN), lambda: ask(SWITCHED))
        return [ratio_line("nginx + wrk keep-alive, 1 KB, 64 conn.", "/s", plain, switched, 1.3, 2, digits=0, reference=str(proof))]
