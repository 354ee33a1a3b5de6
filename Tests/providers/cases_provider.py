"""What a program sees of its connections, whatever the provider below does. Run by test_faults.py and test_m.py."""
import ctypes
import fcntl
import os
import select
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "model"))
from endpoint import cold_pair, connect, listener, outcome, pair, pattern, poll_events, read_exactly, wait_until  # noqa: E402
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
    datagram.connect(("127.0.0.1", port))
    one, other = socket.socketpair()
    raw = outcome(socket.socket, socket.AF_INET, socket.SOCK_RAW, 253)
    for _ in range(40):
        datagram.send(b"d")
        one.send(b"l")
        other.recv(1)
    return [ping_pong(client, server, 40), isinstance(raw, str)]


@case
def closed_while_connecting():
    """The program goes on, and away, though its companion never connects."""
    a, b = cold_pair()
    trace = [ping_pong(a, b, 40)]
    a.close()
    trace.append(outcome(b.recv, 1))
    b.close()
    sys.stdout.flush()
    return trace


@case
def interrupted():
    """A blocking call that a signal without SA_RESTART cuts short: nothing taken, EINTR; the connection goes on."""
    import signal
    a, b = cold_pair()
    trace = [ping_pong(a, b, 40)]
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    buffer = ctypes.create_string_buffer(8)
    trace.append(call("recv", b.fileno(), buffer, 8, 0))
    return trace + [ping_pong(a, b, 5)]


if __name__ == "__main__":
    run()
