"""A thread asleep in epoll_wait, poll or select while something changes under it. Run by test_readiness.py."""
import os
import select
import socket
import threading

from endpoint import cold_pair, drain_all, fill, outcome, pair, poll_events, read_exactly, wait_asleep, wait_until, warm
from runner import case, run

IN, OUT, RDHUP, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLET, select.EPOLLONESHOT
LONG = 8
KNOWN = {}


class Sleeper:
    """Another thread inside one waiting call; `wake` tells what it returned, or that it sleeps on."""

    def __init__(self, call):
        self.seen = []
        self.thread = threading.Thread(target=lambda: self.seen.append(call()), daemon=True)
        self.thread.start()
        self.still()

    def still(self):
        try:
            wait_asleep(os.getpid(), self.thread.native_id)
        except FileNotFoundError:
            raise AssertionError("returned for nothing: %s" % self.seen) from None

    def wake(self):
        self.thread.join(3)
        return ["sleeps on" if self.thread.is_alive() else "awake", self.seen]


def waiting(*watched, timeout=LONG):
    """(socket, events)... in a fresh epoll set; the set, and a call that waits on it and gives indexes with events. KNOWN
    names sockets that are added later."""
    epoll = select.epoll()
    for sock, events in watched:
        epoll.register(sock, events)
    index = {sock.fileno(): number for number, (sock, _) in enumerate(watched)}
    return epoll, lambda: sorted([index.get(fd, KNOWN.get(fd, "unknown")), bits] for fd, bits in epoll.poll(timeout))


@case
def ready_descriptor_is_added():
    trace = []
    for flags in (0, ET, ONESHOT):
        a, b = pair()
        a.sendall(b"x")
        epoll, call = waiting()
        sleeper = Sleeper(call)
        KNOWN[b.fileno()] = "added"
        epoll.register(b, IN | flags)
        trace.append(sleeper.wake())
    return trace


@case
def ready_descriptor_is_added_to_a_set_in_use():
    a, b = pair()
    c, d = pair()
    c.sendall(b"x")
    epoll, call = waiting((b, IN))
    sleeper = Sleeper(call)
    KNOWN[d.fileno()] = "added"
    epoll.register(d, IN)
    return sleeper.wake()


@case
def descriptor_is_added_then_becomes_ready():
    a, b = pair()
    epoll, call = waiting()
    sleeper = Sleeper(call)
    KNOWN[b.fileno()] = "added"
    epoll.register(b, IN)
    sleeper.still()
    a.sendall(b"x")
    return sleeper.wake()


@case
def entry_is_changed():
    """MOD to what is ready already; re-arming of a fired one-shot."""
    a, b = pair()
    a.sendall(b"x")
    epoll, call = waiting((b, RDHUP))
    sleeper = Sleeper(call)
    epoll.modify(b, IN | ONESHOT)
    trace = [sleeper.wake()]
    sleeper = Sleeper(call)
    epoll.modify(b, IN | ONESHOT)
    trace.append(sleeper.wake())
    return trace


@case
def entry_is_taken_out():
    a, b = pair()
    epoll, call = waiting((b, IN), timeout=0.3)
    sleeper = Sleeper(call)
    epoll.unregister(b)
    a.sendall(b"x")
    return sleeper.wake()


@case
def switch_over_under_a_sleeper_in_epoll():
    """Both directions leave TCP while a thread waits for the end of one side; then for bytes, and each time it is told."""
    a, b = cold_pair()
    trace = []
    _, call = waiting((a, RDHUP))
    sleeper = Sleeper(call)
    warm(a, b)
    trace.append(sleeper.thread.is_alive())
    b.shutdown(socket.SHUT_WR)
    return trace + [sleeper.wake()]


@case
def switch_over_of_one_direction_under_a_sleeper_in_epoll():
    a, b = cold_pair()
    _, call = waiting((b, IN))
    for _ in range(12):
        a.sendall(b"p")
        assert call() == [[0, IN]]
        read_exactly(b, 1)
        sleeper = Sleeper(lambda: call())
        b.sendall(b"q")
        read_exactly(a, 1)
        a.sendall(b"r")
        assert sleeper.wake() == ["awake", [[[0, IN]]]], sleeper.seen
        read_exactly(b, 1)
    warm(a, b)
    return "told each time"


def by_poll(sock):
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLRDHUP)
    return [bits for _, bits in poller.poll(LONG * 1000)]


def by_select(sock):
    return [len(found) for found in select.select([sock], [], [sock], LONG)]


def talked_to(call):
    """The peer talks on, across the switch-over, to somebody who always sleeps first."""
    a, b = cold_pair()
    trace = []
    for number in range(12):
        sleeper = Sleeper(lambda: call(b))
        for _ in range(number % 3 + 1):
            a.sendall(b"x")
        trace += [sleeper.wake(), outcome(read_exactly, b, number % 3 + 1)]
        b.sendall(b"y")
        read_exactly(a, 1)
    warm(a, b)
    sleeper = Sleeper(lambda: call(b))
    a.sendall(b"x")
    trace += [sleeper.wake(), outcome(b.recv, 1)]
    sleeper = Sleeper(lambda: call(b))
    a.close()
    return trace + [sleeper.wake()]


@case
def switch_over_between_sleeps_in_poll():
    return talked_to(by_poll)


@case
def switch_over_between_sleeps_in_select():
    return talked_to(by_select)


@case
def two_sleepers_on_one_set():
    """Level-triggered: nobody may stay asleep while bytes remain unread, once the first has gone back to work."""
    a, b = pair()
    c, d = pair()
    epoll, call = waiting((b, IN | ONESHOT), (d, IN | ONESHOT))
    sleepers = [Sleeper(call), Sleeper(call)]
    a.sendall(b"x")
    wait_until(lambda: sum(len(each.seen) for each in sleepers) == 1, "the first")
    c.sendall(b"x")
    return sorted(each.wake() for each in sleepers)


@case
def two_sets_on_one_connection():
    a, b = pair()
    sleepers = [Sleeper(waiting((b, IN | flags))[1]) for flags in (0, ET)] + [Sleeper(lambda: by_poll(b))]
    a.sendall(b"x")
    return [each.wake() for each in sleepers]


@case
def sleeper_in_poll_and_another_in_epoll():
    """The one that is not interested in bytes sleeps on until the end."""
    a, b = pair()
    _, call = waiting((b, RDHUP | ET))
    patient = Sleeper(call)
    sleeper = Sleeper(lambda: by_poll(b))
    a.sendall(b"x")
    trace = [sleeper.wake(), patient.thread.is_alive(), outcome(b.recv, 1)]
    a.close()
    return trace + [patient.wake()]


@case
def sleeper_waits_for_space():
    trace = []
    for flags in (0, ET, ONESHOT):
        a, b = pair()
        a.setblocking(False)
        total = fill(a)
        sleeper = Sleeper(waiting((a, OUT | flags))[1])
        drain_all(b, total)
        trace += [sleeper.wake(), poll_events(a)]
    return trace


@case
def watched_connection_is_closed_under_a_sleeper():
    """epoll(7): it leaves the set; the sleeper goes on with the rest."""
    a, b = pair()
    c, d = pair()
    _, call = waiting((b, IN), (d, IN))
    sleeper = Sleeper(call)
    b.close()
    c.sendall(b"x")
    return sleeper.wake()


@case
def only_busy_session_of_a_set_is_closed():
    """The others have long been idle, so nothing is left to look at before the kernel is asked."""
    a, b = pair()
    c, d = pair()
    readable, writable = os.pipe()
    epoll, call = waiting((b, IN), (d, IN))
    trace = [len(epoll.poll(0)) for _ in range(200)]
    epoll.register(readable, IN)
    KNOWN[readable] = "pipe"
    sleeper = Sleeper(call)
    a.sendall(b"x")
    trace.append(sleeper.wake())
    b.close()
    sleeper = Sleeper(call)
    os.write(writable, b"x")
    return trace + [sleeper.wake()]


if __name__ == "__main__":
    run()
