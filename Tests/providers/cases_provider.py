"""What a program sees of its connections, whatever the provider below does. Run by the tests of this directory."""
import ctypes
import fcntl
import os
import re
import select
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "model"))
from endpoint import KEEP, cold_pair, connect, listener, outcome, pair, pattern, poll_events, read_exactly, wait_until, warm  # noqa: E402
from libc import C, call  # noqa: E402
from runner import case, run  # noqa: E402


def ping_pong(a, b, rounds, length=3):
    for i in range(rounds):
        message = b"%03d" % i + b"." * (length - 3)
        a.sendall(message)
        assert read_exactly(b, length) == message
        b.sendall(message[::-1])
        assert read_exactly(a, length) == message[::-1]
    return rounds


@case
def talk():
    """Small and large, both ways, blocking and not, in turn and at once; half-close; the end."""
    a, b = cold_pair()
    trace = [ping_pong(a, b, 40), ping_pong(a, b, 5, 3000)]
    big = pattern(3_000_000)
    for one, other in ((a, b), (b, a)):
        writer = threading.Thread(target=one.sendall, args=(big,))
        writer.start()
        trace.append(outcome(read_exactly, other, len(big)))
        writer.join()
    # A reader that sleeps until the byte comes, and one that polls.
    waker = threading.Timer(0.05, lambda: a.sendall(b"late"))
    waker.start()
    trace.append(outcome(read_exactly, b, 4))
    waker.join()
    b.setblocking(False)
    trace.append(outcome(b.recv, 1))
    a.sendall(b"x")
    wait_until(lambda: "POLLIN" in poll_events(b), "one byte")
    trace += [outcome(b.recv, 10), poll_events(b)]
    b.setblocking(True)
    a.shutdown(socket.SHUT_WR)
    trace += [outcome(b.recv, 1), outcome(b.send, b"still"), outcome(read_exactly, a, 5)]
    b.close()
    return trace + [outcome(a.recv, 1)]


@case
def echo_child():
    """The server is a child of its own, forked after accept."""
    listening = listener()
    child = os.fork()
    if child == 0:
        server, _ = listening.accept()
        listening.close()
        while True:
            data = server.recv(65536)
            if not data:
                os._exit(0)
            server.sendall(data)
    client = connect(listening.getsockname())
    listening.close()
    trace = []
    for length in [10] * 40 + [70000, 1, 500000, 3]:
        data = pattern(length)
        writer = threading.Thread(target=client.sendall, args=(data,))
        writer.start()
        got = read_exactly(client, length)
        writer.join()
        trace.append(got == data)
    client.shutdown(socket.SHUT_WR)
    trace.append(outcome(client.recv, 1))
    return trace + [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


@case
def errno_is_left_alone():
    """Calls that succeed leave errno as it was."""
    a, b = pair()
    buffer = ctypes.create_string_buffer(64)
    seen = set()
    for _ in range(60):
        for one, other in ((a, b), (b, a)):
            ctypes.set_errno(0)
            result = C.send(one.fileno(), b"abc", ctypes.c_size_t(3), 0)
            seen.add(("send", result, ctypes.get_errno()))
            ctypes.set_errno(0)
            result = C.recv(other.fileno(), buffer, ctypes.c_size_t(3), 0)
            seen.add(("recv", result, ctypes.get_errno()))
    ctypes.set_errno(0)
    seen.add(("close", C.close(os.dup(a.fileno())), ctypes.get_errno()))
    ctypes.set_errno(0)
    seen.add(("shutdown", C.shutdown(a.fileno(), 1), ctypes.get_errno()))
    return sorted(seen)


@case
def set_up():
    """One connection with options of every kind, set before it is made; and a datagram, a raw and a local socket beside it."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
    listening.bind(("0.0.0.0", 0))
    listening.listen(5)
    port = listening.getsockname()[1]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, b"\x05" + b"\0" * 15)
    client.connect(("127.0.0.1", port))
    server, _ = listening.accept()
    print("ports %d %d" % (port, client.getsockname()[1]), flush=True)
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox.bind(("127.0.0.1", port))
    datagram.connect(("127.0.0.1", port))
    one, other = socket.socketpair()
    raw = outcome(socket.socket, socket.AF_INET, socket.SOCK_RAW, 253)
    for _ in range(40):
        datagram.send(b"d")
        one.send(b"l")
        other.recv(1)
    warm(client, server)
    return [ping_pong(client, server, 10), isinstance(raw, str)]


@case
def closed_while_connecting():
    """The program goes on, and away, though its companion never connects."""
    a, b = cold_pair()
    trace = [ping_pong(a, b, 40)]
    print("closing", time.monotonic_ns() // 1000000, flush=True)
    a.close()
    trace.append(outcome(b.recv, 1))
    b.close()
    return trace


@case
def interrupted():
    """A blocking call that a signal without SA_RESTART cuts short: nothing taken, EINTR; the connection goes on."""
    a, b = pair()
    trace = [ping_pong(a, b, 40)]
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    buffer = ctypes.create_string_buffer(8)
    trace.append(call("recv", b.fileno(), buffer, 8, 0))
    return trace + [ping_pong(a, b, 5)]


@case
def descriptor():
    """What the descriptor is, by all that can be asked of it."""
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    listening = listener()
    client = connect(listening.getsockname())
    server, _ = listening.accept()
    warm(client, server)
    state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return [listening.fileno() - free, client.fileno() - free, server.fileno() - free, state,
            client.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL), client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            os.readlink("/proc/self/fd/%d" % client.fileno()).split("[")[0], client.getpeername() == server.getsockname()]


@case
def bind_errors():
    """Every bind is TCP's, and so is its answer; a wildcard listener is reached by every address."""
    trace = []
    taken = listener()
    for address in (taken.getsockname(), ("192.0.2.1", 0), ("127.0.0.1", 70)):
        one = socket.socket()
        trace.append(outcome(one.bind, address))
        one.close()
    everywhere = listener("0.0.0.0")
    for host in ("127.0.0.1", "127.0.0.2"):
        client = connect((host, everywhere.getsockname()[1]))
        server, _ = everywhere.accept()
        warm(client, server)
        trace.append(ping_pong(client, server, 3))
    return trace


@case
def bound_only():
    """Sockets that neither listen nor connect."""
    for _ in range(3):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.bind(("127.0.0.1", 0))
    return ["bound"]


@case
def closes_everything():
    """A program that closes all descriptors that it does not know, and reads /proc for those it has."""
    a, b = cold_pair()
    warm(a, b)
    keep = sorted({0, 1, 2, a.fileno(), b.fileno()})
    for fd in range(3, 4096):
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass
    return [ping_pong(a, b, 20)]


@case
def threads():
    """How many threads the process has: with a socket, a listener, and ten switched connections."""
    count = lambda: len(os.listdir("/proc/self/task"))
    one = socket.socket()
    counts = [count()]
    one.bind(("127.0.0.1", 0))
    counts.append(count())
    one.listen()
    counts.append(count())
    pairs = []
    for _ in range(10):
        a = connect(one.getsockname())
        b, _ = one.accept()
        warm(a, b)
        pairs.append((a, b))
    counts.append(count())
    print("threads", *(number - counts[0] for number in counts), flush=True)
    return ["counted"]


@case
def two_networks():
    """One connection from an address of the provider's NIC, and one from another address."""
    listening = listener("0.0.0.0")
    ports = []
    for host in ("127.0.0.5", "127.0.0.9"):
        client = socket.socket()
        client.bind((host, 0))
        client.connect(("127.0.0.6", listening.getsockname()[1]))
        server, _ = listening.accept()
        warm(client, server)
        ports.append(client.getsockname()[1])
        KEEP.append((client, server))
    print("ports", *ports, flush=True)
    return [len(ports)]


@case
def provider_comes_and_goes():
    """Connections to one wildcard listener while a registration appears and disappears (under the switch only)."""
    directory, text = os.environ.get("CASE_REGISTRY"), os.environ.get("CASE_REGISTRATION", "")
    log = os.environ.get("SAN_LOG", "").partition(":")[2]
    listening = listener("0.0.0.0")
    rounds = []

    def connections_until(seen):
        for _ in range(200):
            a = connect(("127.0.0.1", listening.getsockname()[1]))
            b, _ = listening.accept()
            ping_pong(a, b, 20)
            KEEP.append((a, b))
            if not log or seen(open(log, errors="replace").read()):
                return
            select.select([], [], [], 0.05)
        raise AssertionError("not seen within 200 connections")

    connections_until(lambda lines: re.search(r"companion attached fd=\d+ 0 ", lines))
    path = os.path.join(directory, "example.conf") if directory else os.devnull
    open(path, "w").write(text)
    connections_until(lambda lines: re.search(r"companion attached fd=\d+ 1 ", lines))
    if directory:
        os.unlink(path)
    connections_until(lambda lines: re.search(r"no longer listed[^\n]*\n(.*\n)*.*companion attached fd=\d+ 0 ", lines))
    for a, b in KEEP:
        rounds.append(ping_pong(a, b, 3))
    return [set(rounds) == {3}]


if __name__ == "__main__":
    run()
