"""Sets that hold more than one thing: nested sets, other kinds of descriptors, many sessions, and threads asleep in them.
Run by test_readiness.py."""
import ctypes
import os
import select
import signal
import socket
import struct
import time

import libc
from endpoint import (POLL_NAMES, cold_pair, flags_of, outcome, pair, pattern, read_exactly, wait_asleep, wait_readable, wait_until, warm)
from runner import case, run

IN, OUT, RDHUP, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLET, select.EPOLLONESHOT


def give(sender, receiver, count=1):
    sender.sendall(pattern(count))
    wait_readable(receiver, count)


def ready(fd, call, timeout=0):
    """Whether a descriptor reads as readable by one of the three calls."""
    if call == "select":
        return len(select.select([fd], [], [], timeout)[0])
    if call == "poll":
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return len(poller.poll(timeout * 1000))
    outer = select.epoll()
    outer.register(fd, IN)
    return len(outer.poll(timeout))


def every_kind(close):
    """name -> (descriptor, make it readable, take it back)"""
    read_end, write_end = os.pipe()
    event = os.eventfd(0)
    timer = libc.C.timerfd_create(1, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    mask = ctypes.create_string_buffer(struct.pack("Q", 1 << signal.SIGUSR1 - 1).ljust(128, b"\0"))
    signals = libc.C.signalfd(-1, mask, 0)
    udp, sender = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    udp.bind(("127.0.0.1", 0))
    listening = socket.create_server(("127.0.0.1", 0))
    clients = []
    close += [udp, sender, listening, clients]
    soon = ctypes.create_string_buffer(struct.pack("4q", 0, 0, 0, 1))
    return {
        "pipe": (read_end, lambda: os.write(write_end, b"x"), lambda: os.read(read_end, 1)),
        "eventfd": (event, lambda: os.eventfd_write(event, 1), lambda: os.eventfd_read(event)),
        "timerfd": (timer, lambda: libc.C.timerfd_settime(timer, 0, soon, None), lambda: os.read(timer, 8)),
        "signalfd": (signals, lambda: os.kill(os.getpid(), signal.SIGUSR1), lambda: os.read(signals, 128)),
        "udp": (udp.fileno(), lambda: sender.sendto(b"x", udp.getsockname()), lambda: udp.recv(1)),
        "listener": (listening.fileno(), lambda: clients.append(socket.create_connection(listening.getsockname())),
                     lambda: clients.append(listening.accept())),
    }


def mixture(collect):
    """Everything in one set: each kind ready alone, all at once, and all but each."""
    pairs = [pair(), pair(), cold_pair()]
    close = []
    kinds = every_kind(close)
    for index, (a, b) in enumerate(pairs):
        kinds["session %d" % index] = (b.fileno(), lambda a=a: a.sendall(b"x"), lambda b=b: b.recv(1))
    names = {fd: name for name, (fd, _, _) in kinds.items()}
    now = collect(list(names))

    def found():
        # A busy set asks the kernel for its other descriptors every 15 microseconds, not in each call.
        time.sleep(0.00005)
        return sorted(names[fd] for fd in now())
    trace = [found()]
    for name, (fd, make, take) in kinds.items():
        make()
        wait_until(lambda: ready(fd, "select"), name)
        trace.append([name, found(), found()])
        take()
        trace.append(found())
    for fd, make, _ in kinds.values():
        make()
        wait_until(lambda: ready(fd, "select"), "readiness")
    trace.append(found())
    for name, (_, _, take) in kinds.items():
        take()
        trace.append(found())
    return trace


@case
def mixture_in_epoll():
    def collect(descriptors):
        epoll = select.epoll()
        for fd in descriptors:
            epoll.register(fd, IN)
        return lambda: [fd for fd, _ in epoll.poll(0)]
    return mixture(collect)


@case
def mixture_in_poll():
    def collect(descriptors):
        poller = select.poll()
        for fd in descriptors:
            poller.register(fd, select.POLLIN)
        return lambda: [fd for fd, _ in poller.poll(0)]
    return mixture(collect)


@case
def mixture_in_select():
    return mixture(lambda descriptors: lambda: select.select(descriptors, [], [], 0)[0])


@case
def small_batches_reach_everyone():
    """epoll_wait with few places: those left out come in the next calls, pipes among them."""
    pairs = [pair() for _ in range(12)]
    read_end, write_end = os.pipe()
    epoll = select.epoll()
    for _, b in pairs:
        epoll.register(b, IN)
    epoll.register(read_end, IN)
    os.write(write_end, b"x")
    for a, b in pairs:
        give(a, b)
    seen = set()
    for _ in range(8):
        batch = epoll.poll(0, maxevents=2)
        assert len(batch) == 2, batch
        seen.update(fd for fd, _ in batch)
    return [len(seen), read_end in seen]


def many(collect):
    """60 pairs, both ends watched; any few of them ready."""
    pairs = [pair() for _ in range(60)]
    index_of = {sock.fileno(): number for number, ends in enumerate(pairs) for sock in ends}
    watched = {b.fileno() for _, b in pairs}
    trace = []
    for round_ in range(6):
        chosen = [number for number in range(60) if pattern(1, number * 31 + round_ * 7)[0] % (round_ + 2) == 0]
        for number in chosen:
            give(*pairs[number], 1 + number)
        found = sorted([index_of[fd], fd in watched, flags] for fd, flags in collect(pairs))
        trace.append(found)
        for number in chosen:
            read_exactly(pairs[number][1], 1 + number)
    return trace


@case
def many_in_poll():
    def collect(pairs):
        poller = select.poll()
        for a, b in pairs:
            poller.register(a, select.POLLIN | select.POLLRDHUP)
            poller.register(b, select.POLLIN | select.POLLPRI)
        return [(fd, flags_of([(fd, bits)], POLL_NAMES)) for fd, bits in poller.poll(0)]
    return many(collect)


@case
def many_in_select():
    def collect(pairs):
        readable, writable, _ = select.select([s for ends in pairs for s in ends], [a for a, _ in pairs], [], 0)
        return [(s.fileno(), "readable") for s in readable] + [(s.fileno(), "writable") for s in writable]
    return many(collect)


@case
def many_in_epoll():
    epoll = select.epoll()
    known = set()

    def collect(pairs):
        for _, b in pairs:
            if b not in known:
                epoll.register(b, IN)
                known.add(b)
        return [(fd, bits) for fd, bits in epoll.poll(0)]
    return many(collect)


if __name__ == "__main__":
    run()
