"""Blocking calls: time limits, partial progress, ends that come meanwhile. Run by test_behaviour.py."""
import fcntl
import os
import select
import socket
import struct
import threading
import time

from endpoint import outcome, pair, pattern, poll_events, read_exactly, wait_asleep, wait_readable
from runner import case, run


def limit(sock, option, seconds):
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("qq", int(seconds), int(seconds % 1 * 1e6)))


def timed(call, *arguments, least):
    """The outcome, and whether the call took at least as long as it had to and not forever."""
    begin = time.monotonic()
    result = outcome(call, *arguments)
    spent = time.monotonic() - begin
    return [result, least * 0.95 <= spent < least + 2]


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


@case
def receive_time_limit():
    a, b = pair()
    limit(b, socket.SO_RCVTIMEO, 0.08)
    trace = [timed(b.recv, 10, least=0.08), timed(b.recv, 10, socket.MSG_WAITALL, least=0.08)]
    trace += [timed(os.read, b.fileno(), 5, least=0.08), timed(b.recvmsg, 5, least=0.08)]
    a.sendall(b"abc")
    wait_readable(b, 3)
    trace += [timed(b.recv, 10, socket.MSG_WAITALL, least=0.08)]
    limit(b, socket.SO_RCVTIMEO, 0)
    a.sendall(b"def")
    return trace + [outcome(read_exactly, b, 3)]


@case
def receive_time_limit_set_before_the_switch_over():
    from endpoint import cold_pair, warm
    a, b = cold_pair()
    limit(b, socket.SO_RCVTIMEO, 0.08)
    warm(a, b)
    return [timed(b.recv, 10, least=0.08)]


@case
def receive_time_limit_does_not_apply_to_poll():
    a, b = pair()
    limit(b, socket.SO_RCVTIMEO, 0.02)
    return [timed(poll_events, b, select.POLLIN, 120, least=0.12)]


@case
def send_time_limit():
    a, b = pair()
    limit(a, socket.SO_SNDTIMEO, 0.08)
    fill(a)
    return [timed(a.send, b"x" * 200000, least=0.08), poll_events(a, select.POLLOUT)]


@case
def send_time_limit_after_partial_progress():
    a, b = pair()
    limit(a, socket.SO_SNDTIMEO, 0.1)
    begin = time.monotonic()
    sent = a.send(b"x" * (64 << 20))
    trace = [0 < sent < 64 << 20, time.monotonic() - begin >= 0.095]
    drain(b, sent)
    limit(a, socket.SO_SNDTIMEO, 0)
    a.sendall(b"end")
    return trace + [outcome(read_exactly, b, 3)]


@case
def options_read_back():
    a, b = pair()
    limit(a, socket.SO_RCVTIMEO, 1.5)
    limit(a, socket.SO_SNDTIMEO, 2.25)
    read = lambda option: list(struct.unpack("qq", a.getsockopt(socket.SOL_SOCKET, option, 16)))
    return [read(socket.SO_RCVTIMEO)[0], read(socket.SO_SNDTIMEO)[0], a.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), a.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)]


@case
def waitall_collects():
    a, b = pair()
    data = pattern(300000)

    def feed():
        for start in range(0, len(data), 30000):
            a.sendall(data[start:start + 30000])
    thread = threading.Thread(target=feed)
    thread.start()
    result = b.recv(len(data), socket.MSG_WAITALL)
    thread.join()
    a.sendall(b"rest")
    a.shutdown(socket.SHUT_WR)
    return [outcome(lambda: result), outcome(b.recv, 100, socket.MSG_WAITALL), outcome(b.recv, 100, socket.MSG_WAITALL)]


@case
def non_blocking_at_any_time():
    """O_NONBLOCK by fcntl and ioctl, on and off, seen through another descriptor of the same socket too."""
    import termios
    a, b = pair()
    other = socket.socket(fileno=os.dup(b.fileno()))
    trace = []
    for switch in (lambda on: os.set_blocking(b.fileno(), not on),
                   lambda on: fcntl.ioctl(b, termios.FIONBIO, struct.pack("i", on)),
                   lambda on: fcntl.fcntl(other, fcntl.F_SETFL, fcntl.fcntl(other, fcntl.F_GETFL) & ~os.O_NONBLOCK
                                          | (os.O_NONBLOCK if on else 0)),
                   lambda on: os.set_blocking(other.fileno(), not on)):
        switch(True)
        trace += [outcome(os.read, b.fileno(), 1), outcome(os.read, other.fileno(), 1), os.get_blocking(b.fileno())]
        switch(False)
        later = threading.Timer(0.02, a.sendall, (b"k",))
        later.start()
        trace += [outcome(os.read, b.fileno(), 1), os.get_blocking(other.fileno())]
        later.join()
    return trace


@case
def partial_writes_until_full_then_writable_again():
    a, b = pair()
    os.set_blocking(a.fileno(), False)
    data = pattern(32 << 20)
    sent = 0
    try:
        while True:
            sent += a.send(data[sent:sent + 70000])
    except BlockingIOError:
        pass
    trace = [sent > 0, poll_events(a), poll_events(b), outcome(a.send, b"x"), outcome(a.send, b"")]
    drain_ok = read_exactly(b, sent) == data[:sent]
    poller = select.poll()
    poller.register(a, select.POLLOUT)
    trace += [drain_ok, len(poller.poll(5000)), poll_events(a)]
    return trace + [outcome(a.send, b"more"), outcome(read_exactly, b, 4)]


@case
def blocked_sender_wakes_when_the_peer_reads():
    a, b = pair()
    filled = fill(a)
    thread = threading.Thread(target=a.sendall, args=(b"z" * 100000,))
    thread.start()
    wait_asleep(os.getpid(), thread.native_id)
    drain(b, filled + 100000)
    thread.join(10)
    return [thread.is_alive(), outcome(b.recv, 1, socket.MSG_DONTWAIT)]


@case
def blocked_sender_sees_the_peer_close():
    a, b = pair()
    fill(a)
    result = []
    thread = threading.Thread(target=lambda: result.append(outcome(a.send, b"z" * 4000000, socket.MSG_NOSIGNAL)))
    thread.start()
    wait_asleep(os.getpid(), thread.native_id)
    b.close()
    thread.join(10)
    # What fitted in before the sleep is a count; then the error.
    again = outcome(a.send, b"z", socket.MSG_NOSIGNAL)
    first = result[0] if isinstance(result[0], str) else "count"
    return [thread.is_alive(), {first, again} <= {"count", "ECONNRESET", "EPIPE"}, outcome(a.send, b"z", socket.MSG_NOSIGNAL)]


def blocked_receiver(ending):
    a, b = pair()
    result = []
    thread = threading.Thread(target=lambda: result.append(outcome(b.recv, 10)))
    thread.start()
    wait_asleep(os.getpid(), thread.native_id)
    ending(a, b)
    thread.join(10)
    return [thread.is_alive(), result]


@case
def blocked_receiver_sees_the_peer_close():
    return blocked_receiver(lambda a, b: a.close())


@case
def blocked_receiver_sees_the_peer_shut_down():
    return blocked_receiver(lambda a, b: a.shutdown(socket.SHUT_WR))


@case
def blocked_receiver_sees_its_own_shutdown():
    return blocked_receiver(lambda a, b: b.shutdown(socket.SHUT_RD))


@case
def blocked_receiver_sees_a_reset():
    def reset(a, b):
        a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        a.close()
    return blocked_receiver(reset)


@case
def blocked_receiver_survives_close_of_its_descriptor():
    """The kernel keeps the socket while a call is inside; data still arrives."""
    def close_then_send(a, b):
        os.close(b.detach())
        a.sendall(b"late")
    return blocked_receiver(close_then_send)


@case
def low_water_mark_delays_readiness():
    a, b = pair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    a.sendall(b"x" * 50)
    wait_readable(b, 50)
    trace = [poll_events(b, select.POLLIN), outcome(b.recv, 10, socket.MSG_DONTWAIT)]
    a.sendall(b"x" * 60)
    wait_readable(b, 100)
    trace += [poll_events(b, select.POLLIN, 1000), outcome(b.recv, 200)]
    later = threading.Timer(0.05, a.sendall, (b"y" * 120,))
    later.start()
    trace.append(outcome(b.recv, 200))
    later.join()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    a.sendall(b"z")
    return trace + [poll_events(b, select.POLLIN, 1000), outcome(b.recv, 200)]


if __name__ == "__main__":
    run()
