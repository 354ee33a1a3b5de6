"""Addresses, connecting, urgent bytes, and sockets as libc streams. Run by test_behaviour.py."""
import ctypes
import fcntl
import os
import select
import socket
import struct

import libc
from endpoint import accept, connect, listener, outcome, pair, pattern, poll_events, read_exactly, wait_readable, wait_until, warm
from libc import call
from runner import case, run


@case
def urgent_byte():
    a, b = pair()
    a.sendall(b"abc")
    trace = [outcome(a.send, b"!", socket.MSG_OOB)]
    a.sendall(b"def")
    wait_until(lambda: "POLLPRI" in poll_events(b), "the urgent byte")
    mark = lambda: struct.unpack("i", fcntl.ioctl(b, 0x8905, b"\0" * 4))[0]
    trace += [outcome(b.recv, 100), mark(), outcome(b.recv, 1, socket.MSG_OOB), outcome(b.recv, 1, socket.MSG_OOB)]
    trace += [outcome(read_exactly, b, 3), mark()]
    b.sendall(b"answer")
    return trace + [outcome(read_exactly, a, 6)]


@case
def urgent_byte_inline():
    a, b = pair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    a.sendall(b"abc")
    a.send(b"!", socket.MSG_OOB)
    a.sendall(b"def")
    return [outcome(read_exactly, b, 7)]


@case
def stdio_on_a_socket():
    a, b = pair()
    C = libc.C
    C.fdopen.restype = ctypes.c_void_p
    trace = [call("dprintf", a.fileno(), b"%s-%d;", b"text", ctypes.c_int(42))]
    stream = C.fdopen(os.dup(a.fileno()), b"w")
    trace += [call("fputs", b"through stdio\n", ctypes.c_void_p(stream)), call("fflush", ctypes.c_void_p(stream))]
    a.sendall(b"then direct\n")
    trace += [outcome(read_exactly, b, 8 + 14 + 12)]
    b.sendall(b"in\n")
    reader = C.fdopen(os.dup(a.fileno()), b"r")
    trace += [call("fgetc", ctypes.c_void_p(reader)) for _ in range(3)]
    C.fclose(ctypes.c_void_p(stream))
    C.fclose(ctypes.c_void_p(reader))
    a.sendall(b"end")
    return trace + [outcome(read_exactly, b, 3)]


@case
def stdio_with_bytes_waiting():
    """What was sent before fdopen, and not read yet, comes out of the stream."""
    a, b = pair()
    a.sendall(b"early bird\n")
    wait_readable(b, 11)
    libc.C.fdopen.restype = ctypes.c_void_p
    reader = libc.C.fdopen(b.fileno(), b"r")
    trace = []
    for _ in range(11):
        trace.append(chr(call("fgetc", ctypes.c_void_p(reader))))
    a.sendall(b"late\n")
    for _ in range(5):
        trace.append(chr(call("fgetc", ctypes.c_void_p(reader))))
    return ["".join(trace)]


@case
def names():
    trace = []
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        a, b = pair(host)
        trace += [a.getpeername() == b.getsockname(), b.getpeername() == a.getsockname(), a.getpeername()[0],
                  a.family.name, a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
        a.sendall(pattern(70000)[:10000])
        trace.append(outcome(read_exactly, b, 10000))
    return trace


@case
def mapped_addresses():
    """An IPv6 listener reached through IPv4: the two ends see different families."""
    listening = socket.socket(socket.AF_INET6)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.bind(("::", 0))
    listening.listen()
    a = connect(("127.0.0.1", listening.getsockname()[1]))
    b = accept(listening)
    warm(a, b)
    a.sendall(b"mapped")
    return [outcome(read_exactly, b, 6), b.getpeername()[0], a.getpeername()[0]]


@case
def wildcard_listener():
    listening = listener("0.0.0.0")
    trace = []
    for host in ("127.0.0.1", "127.3.2.1"):
        a = connect((host, listening.getsockname()[1]))
        b = accept(listening)
        warm(a, b)
        a.sendall(b"any")
        trace += [outcome(read_exactly, b, 3), b.getsockname()[0]]
    return trace


@case
def connection_bound_to_another_loopback_address():
    listening = listener("127.0.0.1")
    a = socket.socket()
    a.bind(("127.0.0.9", 0))
    a.connect(listening.getsockname())
    b = accept(listening)
    warm(a, b)
    b.sendall(b"bound")
    return [outcome(read_exactly, a, 5), b.getpeername()[0]]


@case
def non_blocking_connect():
    listening = listener()
    a = socket.socket()
    a.setblocking(False)
    trace = [outcome(a.connect, listening.getsockname())]
    select.select([], [a], [], 5)
    trace += [a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), outcome(a.connect, listening.getsockname())]
    b = accept(listening)
    a.setblocking(True)
    warm(a, b)
    return trace + [outcome(a.send, b"x"), outcome(b.recv, 1)]


@case(switches=False)
def refused_connect():
    a = socket.socket()
    listening = listener()
    address = listening.getsockname()
    listening.close()
    trace = [outcome(a.connect, address), outcome(a.send, b"x", socket.MSG_NOSIGNAL), outcome(a.recv, 1)]
    return trace + [poll_events(a), outcome(a.getpeername)]


if __name__ == "__main__":
    run()
