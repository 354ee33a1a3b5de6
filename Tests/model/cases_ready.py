"""What epoll reports of one connection: level, edge, one-shot, exclusive, changes of the set. Run by test_readiness.py."""
import select
import socket
import struct

import libc
from endpoint import (EPOLL_NAMES, cold_pair, drain_all, fill, outcome, pair, pattern, poll_events,
                      queue_is_empty, read_exactly, wait_readable, wait_until, warm)
from runner import case, run

IN, OUT, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
ET, ONESHOT, EXCLUSIVE = select.EPOLLET, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE


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


@case
def level_triggered():
    a, b = pair()
    watch = Watch(a=a, b=b)
    trace = [watch.add("a", IN | OUT | RDHUP), watch.add("b", IN), watch.now(), watch.now()]
    give(a, b, 5)
    trace += [watch.now(), watch.now(), outcome(b.recv, 3), watch.now(), outcome(b.recv, 3), watch.now()]
    give(b, a, 5000)
    return trace + [watch.now(), outcome(read_exactly, a, 5000), watch.now()]


@case
def level_triggered_set_made_before_the_switch_over():
    a, b = cold_pair()
    watch = Watch(a=a, b=b)
    trace = [watch.add("a", IN | RDHUP), watch.add("b", IN | OUT), watch.now()]
    warm(a, b)
    trace.append(watch.now())
    for sender, receiver in ((a, b), (b, a)):
        give(sender, receiver, 7)
        trace += [watch.now(), watch.now(), outcome(receiver.recv, 7), watch.now()]
    return trace


@case
def edge_triggered_input():
    a, b = pair()
    watch = Watch(b=b)
    trace = [watch.add("b", IN | ET), watch.now()]
    give(a, b, 5)
    trace += [watch.now(), watch.now(), watch.now()]
    give(a, b, 5)  # arrives on top of unread bytes: a new edge
    trace += [watch.now(), watch.now(), outcome(b.recv, 4), watch.now(), outcome(b.recv, 100), watch.now()]
    give(a, b, 1)
    trace += [outcome(b.recv, 1), outcome(b.recv, 1, socket.MSG_DONTWAIT), watch.now()]
    give(a, b, 1)
    return trace + [watch.now(), watch.now()]


@case
def edge_triggered_when_added_with_bytes_waiting():
    a, b = pair()
    give(a, b, 5)
    watch = Watch(b=b)
    trace = [watch.add("b", IN | OUT | ET), watch.now(), watch.now(), watch.change("b", IN | ET), watch.now(), watch.now()]
    trace += [watch.remove("b"), watch.now(), watch.add("b", IN | ET), watch.now(), watch.now()]
    return trace + [outcome(b.recv, 5), watch.change("b", IN | ET), watch.now()]


@case
def edge_triggered_set_made_before_the_switch_over():
    """Edges that were not fetched before the switch-over are not lost; those fetched come once."""
    a, b = cold_pair()
    watch = Watch(a=a, b=b)
    trace = [watch.add("a", IN | ET), watch.add("b", IN | ET), watch.now()]
    warm(a, b)
    watch.now()
    trace.append(watch.now())
    give(a, b, 3)
    trace += [watch.now(), watch.now()]
    give(b, a, 3)
    return trace + [watch.now(), watch.now()]


@case
def one_shot_and_its_rearming():
    a, b = pair()
    watch = Watch(b=b)
    trace = [watch.add("b", IN | ONESHOT), watch.now()]
    give(a, b, 5)
    trace += [watch.now(), watch.now()]
    give(a, b, 5)
    trace += [watch.now(), watch.change("b", IN | ONESHOT), watch.now(), watch.now(), outcome(b.recv, 10)]
    trace += [watch.change("b", IN | ONESHOT), watch.now(), watch.change("b", IN | OUT | ET | ONESHOT), watch.now(), watch.now()]
    give(a, b, 1)
    a.close()
    # Not even the end is told while it is disarmed.
    wait_until(lambda: "POLLRDHUP" in poll_events(b), "the end")
    trace += [watch.now(), watch.change("b", RDHUP | ONESHOT), watch.now(), watch.now()]
    return trace


@case
def one_shot_fired_before_the_switch_over():
    a, b = cold_pair()
    watch = Watch(b=b)
    trace = [watch.add("b", IN | ONESHOT), watch.now()]
    give(a, b, 1)
    trace += [watch.now(), outcome(b.recv, 1)]
    warm(a, b)
    give(a, b, 2)
    return trace + [watch.now(), watch.change("b", IN | ONESHOT), watch.now(), watch.now()]


@case
def changes_of_the_set():
    a, b = pair()
    watch = Watch(b=b)
    trace = [watch.change("b", IN), watch.remove("b")]
    give(a, b, 5)
    for _ in range(3):
        trace += [watch.add("b", IN), watch.add("b", IN | OUT), watch.now(), watch.change("b", OUT), watch.now()]
        trace += [watch.change("b", 0), watch.now(), watch.change("b", IN | OUT), watch.now()]
        trace += [watch.remove("b"), watch.remove("b"), watch.change("b", IN), watch.now()]
    trace += [watch.add("b", RDHUP), watch.now()]
    return trace


@case
def bad_changes_of_the_set():
    a, b = pair()
    watch = Watch(b=b)
    epfd = watch.epoll.fileno()
    event = libc.EpollEvent(IN, 1)
    trace = [watch.add("b", IN)]
    for operation, fd, entry in ((0, b, event), (4, b, event), (99, b, event), (3, b, None), (1, a, None)):
        trace.append(libc.call("epoll_ctl", epfd, operation, fd.fileno(), libc.pointer(entry)))
    trace += [libc.call("epoll_ctl", a.fileno(), 1, b.fileno(), libc.pointer(event)),
              libc.call("epoll_ctl", epfd, 1, epfd, libc.pointer(event)),
              libc.call("epoll_ctl", 9999, 1, b.fileno(), libc.pointer(event)),
              libc.call("epoll_ctl", epfd, 1, 9999, libc.pointer(event)),
              libc.call("epoll_ctl", epfd, 2, a.fileno(), None), libc.call("epoll_ctl", epfd, 2, b.fileno(), None)]
    room = (libc.EpollEvent * 4)()
    trace += [libc.call("epoll_wait", epfd, room, count, 0) for count in (0, -1, 4)]
    return trace + [libc.call("epoll_wait", b.fileno(), room, 4, 0)]


@case
def exclusive():
    a, b = pair()
    watch, other = Watch(a=a, b=b), Watch(b=b)
    trace = [watch.add("b", IN | EXCLUSIVE), other.add("b", IN | EXCLUSIVE | ET), watch.now()]
    give(a, b, 5)
    trace += [watch.now(), other.now(), other.now(), watch.change("b", IN), watch.change("b", IN | EXCLUSIVE), watch.now()]
    trace += [watch.add("a", IN | EXCLUSIVE | ONESHOT), watch.add("a", IN | EXCLUSIVE | RDHUP), watch.add("a", IN)]
    trace += [watch.change("a", IN | EXCLUSIVE), watch.remove("b"), watch.now(), other.now(), watch.add("b", IN), watch.now()]
    return trace + [outcome(b.recv, 9), watch.now(), other.now()]


@case
def exclusive_before_the_switch_over():
    a, b = cold_pair()
    watch = Watch(b=b)
    trace = [watch.add("b", IN | EXCLUSIVE)]
    warm(a, b)
    trace += [watch.now(), watch.change("b", IN)]
    give(a, b, 5)
    return trace + [watch.now(), outcome(b.recv, 5), watch.now()]


def full_and_drained(flags):
    a, b = pair()
    a.setblocking(False)
    watch = Watch(a=a)
    trace = [watch.add("a", OUT | flags), watch.now(), watch.now()]
    total = fill(a)
    trace += [watch.now(), watch.now()]
    drain_all(b, total)
    queue_is_empty(a)
    trace += [watch.now(1), watch.now()]
    total = fill(a)
    trace.append(watch.now())
    drain_all(b, total)
    queue_is_empty(a)
    return trace + [watch.now(1), watch.now()]


@case
def writable_again_level():
    return full_and_drained(0)


@case
def writable_again_edge():
    return full_and_drained(ET)


@case
def writable_again_one_shot():
    return full_and_drained(ONESHOT)


@case
def data_of_any_value():
    """64 bits of the program's own come back as they were."""
    values = [0, 1, 2, 3, 1 << 63, (1 << 64) - 1] + list(struct.unpack("6Q", pattern(48)))
    pairs = [pair() if index % 2 else cold_pair() for index in range(len(values))]
    epfd = select.epoll()
    for (_, b), value in zip(pairs, values):
        assert libc.call("epoll_ctl", epfd.fileno(), 1, b.fileno(), libc.pointer(libc.EpollEvent(IN, value))) == 0
    for a, b in pairs[::2]:
        warm(a, b)
    room = (libc.EpollEvent * 32)()

    def now():
        count = libc.call("epoll_wait", epfd.fileno(), room, 32, 0)
        return sorted([event.events, event.data] for event in room[:count])
    trace = [now()]
    for a, b in pairs:
        give(a, b, 1)
    trace.append(now())
    for (_, b), value in zip(pairs, values):
        libc.call("epoll_ctl", epfd.fileno(), 3, b.fileno(), libc.pointer(libc.EpollEvent(IN | OUT, value ^ 0x5555)))
    return trace + [now()]


if __name__ == "__main__":
    run()
