"""Signals that arrive during blocking calls. Run by test_behaviour.py."""
import ctypes
import os
import select
import signal
import socket
import struct
import threading

import libc
from endpoint import outcome, pair, pattern, read_exactly, wait_asleep, wait_readable
from runner import case, run


def limit(sock, option, seconds):
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("qq", int(seconds), int(seconds % 1 * 1e6)))


def fill(sock):
    """Sends without blocking until nothing fits any more; what was sent."""
    sent = 0
    block = pattern(1 << 16)
    while True:
        try:
            sent += sock.send(block, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return sent


def drain(sock, count):
    while count:
        count -= len(sock.recv(min(count, 1 << 18)))


class Interruption:
    """Signals this thread some milliseconds into its blocking call, until it is taken back."""

    def __init__(self, restart, between=0.03):
        self.seen = 0
        signal.signal(signal.SIGUSR1, self.note)
        signal.siginterrupt(signal.SIGUSR1, not restart)
        self.stop = threading.Event()
        self.target, self.between = threading.get_native_id(), between

    def note(self, *_):
        self.seen += 1

    def __enter__(self):
        def work():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            wait_asleep(os.getpid(), self.target)
            while not self.stop.wait(self.between):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        self.thread = threading.Thread(target=work)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


@case
def signal_interrupts_receive():
    a, b = pair()
    buffer = ctypes.create_string_buffer(64)
    vector = libc.vectors(buffer)
    message = libc.message(vector)
    trace = []
    for name, arguments in (("recv", (buffer, 64, 0)), ("read", (buffer, 64)), ("readv", (vector, 1)),
                            ("recvmsg", (ctypes.byref(message), 0)), ("recvfrom", (buffer, 64, 0, None, None)),
                            ("recv", (buffer, 64, socket.MSG_WAITALL)), ("recv", (buffer, 64, socket.MSG_PEEK))):
        with Interruption(restart=False):
            trace.append([name, libc.call(name, b.fileno(), *arguments)])
    return trace


@case
def signal_restarts_receive():
    """With SA_RESTART the call goes on, and returns what arrives later."""
    a, b = pair()
    buffer = ctypes.create_string_buffer(64)
    with Interruption(restart=True) as signals:
        later = threading.Timer(0.25, a.sendall, (b"at last",))
        later.start()
        result = libc.call("recv", b.fileno(), buffer, 64, 0)
    later.join()
    return [result, buffer.raw[:7].decode(), signals.seen > 0]


@case
def signal_never_restarts_a_limited_receive():
    """signal(7): with SO_RCVTIMEO set, EINTR even with SA_RESTART."""
    a, b = pair()
    limit(b, socket.SO_RCVTIMEO, 5)
    buffer = ctypes.create_string_buffer(64)
    with Interruption(restart=True):
        return [libc.call("recv", b.fileno(), buffer, 64, 0)]


@case
def signal_interrupts_waits():
    """poll, select and epoll_wait: EINTR with and without SA_RESTART."""
    a, b = pair()
    trace = []
    for restart in (False, True):
        entry = libc.Pollfd(b.fileno(), select.POLLIN, 0)
        with Interruption(restart):
            trace.append(libc.call("poll", ctypes.byref(entry), 1, 5000))
        bits = (ctypes.c_ulong * 16)()
        bits[b.fileno() // 64] |= 1 << (b.fileno() % 64)
        with Interruption(restart):
            trace.append(libc.call("select", b.fileno() + 1, bits, None, None, None))
        with select.epoll() as epoll:
            epoll.register(b, select.EPOLLIN)
            events = (libc.EpollEvent * 4)()
            with Interruption(restart):
                trace.append(libc.call("epoll_wait", epoll.fileno(), events, 4, 5000))
    return trace


@case
def signal_interrupts_send():
    a, b = pair()
    fill(a)
    trace = []
    block = ctypes.create_string_buffer(400000)
    vector = libc.vectors(block)
    for name, arguments in (("send", (block, 400000, 0)), ("write", (block, 400000)), ("writev", (vector, 1))):
        with Interruption(restart=False):
            result = libc.call(name, a.fileno(), *arguments)
        # Room for a little more may appear: then the call returns what went in, as TCP does.
        trace.append(result if isinstance(result, str) else "partial")
    return ["EINTR" if "EINTR" in trace else trace, {"EINTR", "partial"}.issuperset(trace)]


@case
def signal_after_partial_send_returns_the_count():
    a, b = pair()
    size = 64 << 20
    block = ctypes.create_string_buffer(size)
    with Interruption(restart=False):
        sent = libc.call("send", a.fileno(), block, size, 0)
    trace = [isinstance(sent, int) and 0 < sent < size]
    drain(b, sent)
    return trace + [outcome(b.recv, 1, socket.MSG_DONTWAIT)]


@case
def signal_restarts_send():
    a, b = pair()
    filled = fill(a)
    block = ctypes.create_string_buffer(b"y" * 5000, 5000)
    with Interruption(restart=True) as signals:
        later = threading.Timer(0.25, drain, (b, filled))
        later.start()
        result = libc.call("send", a.fileno(), block, 5000, 0)
    later.join()
    return [result, outcome(read_exactly, b, 5000), signals.seen > 0]


@case
def signal_after_partial_waitall_returns_the_count():
    a, b = pair()
    a.sendall(b"12345")
    wait_readable(b, 5)
    buffer = ctypes.create_string_buffer(64)
    with Interruption(restart=False):
        return [libc.call("recv", b.fileno(), buffer, 64, socket.MSG_WAITALL), buffer.raw[:5].decode()]


if __name__ == "__main__":
    run()
