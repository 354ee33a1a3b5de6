"""Several descriptors of one connection in an epoll set, some of them closed. Run by test_readiness.py."""
import os
import select
import socket

from endpoint import EPOLL_NAMES, outcome, pair, pattern, poll_events, wait_readable
from runner import case, run

IN, OUT, ET = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET


class Watch:
    """An epoll instance that names its descriptors and bits, so that two runs compare."""

    def __init__(self, **sockets):
        self.epoll, self.names = select.epoll(), {}
        self.sockets = sockets

    def add(self, name, events, descriptor=None):
        fd = self.sockets[name].fileno() if descriptor is None else descriptor
        self.names[fd] = name
        return outcome(self.epoll.register, fd, events)

    def change(self, name, events):
        return outcome(self.epoll.modify, self.sockets[name].fileno(), events)

    def remove(self, name):
        return outcome(self.epoll.unregister, self.sockets[name].fileno())

    def now(self, timeout=0):
        found = self.epoll.poll(timeout)
        return sorted([self.names[fd]] + [flag for flag, bit in EPOLL_NAMES.items() if bits & bit] for fd, bits in found)


def give(sender, receiver, count):
    before = len(receiver.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)) if "POLLIN" in poll_events(receiver) else 0
    sender.sendall(pattern(count))
    wait_readable(receiver, before + count)


def duplicated(close_first, watch_first):
    """epoll(7): an entry lives as long as its open file description, not as the number that named it."""
    a, b = pair()
    copy = os.dup(b.fileno())
    watch = Watch(b=b)
    trace = []
    if watch_first:
        trace.append(watch.add("b", IN))
    else:
        trace.append(watch.add("copy", IN, copy))
    give(a, b, 2)
    trace.append(watch.now())
    reader = b
    if close_first:
        b.close()
        reader = socket.socket(fileno=copy)
    else:
        os.close(copy)
    trace += [watch.now(), outcome(reader.recv, 2), watch.now()]
    give(a, reader, 3)
    trace += [watch.now(), outcome(reader.recv, 3)]
    reader.close()
    return trace + [watch.now()]


@case
def duplicate_closed_original_watched():
    return duplicated(False, True)


@case
def original_closed_duplicate_watched():
    return duplicated(True, False)


@case
def watched_duplicate_closed():
    return duplicated(False, False)


@case
def watched_original_closed():
    return duplicated(True, True)


@case
def both_descriptors_watched():
    a, b = pair()
    copy = os.dup(b.fileno())
    watch = Watch(b=b)
    trace = [watch.add("b", IN), watch.add("copy", IN | OUT, copy), watch.now()]
    give(a, b, 2)
    trace += [watch.now(), watch.remove("b"), watch.now(), outcome(b.recv, 2), watch.now()]
    give(a, b, 2)
    return trace + [watch.now(), watch.add("b", IN | ET), watch.now(), watch.now()]


if __name__ == "__main__":
    run()
