"""Epoll sets within epoll sets: each level is told what the kernel would tell. Run by test_readiness.py."""
import os
import random
import select
import socket
import threading
import time

from endpoint import cold_pair, outcome, pair, pattern, poll_events, wait_asleep, wait_readable, wait_until, warm
from runner import case, run

IN, OUT, RDHUP, ET, ONESHOT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLET, select.EPOLLONESHOT
EXCLUSIVE = select.EPOLLEXCLUSIVE


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


def nested(call, *, sessions_first, warm_first, flags=0):
    a, b = cold_pair()
    if warm_first:
        warm(a, b)
    inner, outer = select.epoll(), select.epoll()
    look = lambda: len(outer.poll(0)) if call == "outer" else ready(inner.fileno(), call)
    if sessions_first:
        inner.register(b, IN | flags)
    outer.register(inner, IN)
    if not sessions_first:
        inner.register(b, IN | flags)
    if not warm_first:
        warm(a, b)
        inner.poll(0)
    trace = [look()]
    for _ in range(3):
        give(a, b, 5)
        trace += [look(), look(), len(inner.poll(0)), look(), outcome(b.recv, 9), look(), len(inner.poll(0)), look()]
    give(a, b, 5)
    trace += [look(), outcome(b.recv, 9), look()]
    a.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(select.select([b], [], [], 0)[0]), "the end")
    return trace + [look(), len(inner.poll(0)), look()]


for call_ in ("outer", "poll", "select"):
    for order_ in (True, False):
        for warm_ in (True, False):
            def body(call=call_, order=order_, warm_first=warm_):
                return nested(call, sessions_first=order, warm_first=warm_first)
            body.__name__ = "nested_%s_%s_%s" % (call_, "session_first" if order_ else "nested_first", "warm" if warm_ else "cold")
            case(body)


@case
def nested_edge_triggered():
    return nested("outer", sessions_first=True, warm_first=True, flags=ET)


def entry_of_the_inner_set(outer_flags, inner_flags):
    """The outer entry is told each edge once, whoever fetches what."""
    a, b = pair()
    read_end, write_end = os.pipe()
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN | inner_flags)
    inner.register(read_end, IN | inner_flags)
    outer.register(inner, IN | outer_flags)
    names = {b.fileno(): "session", read_end: "pipe", inner.fileno(): "inner"}
    look = lambda watch: sorted([names[fd], bits] for fd, bits in watch.poll(0))
    trace = [look(outer)]
    for _ in range(3):
        give(a, b)
        trace += [look(outer), look(outer)]
        os.write(write_end, b"x")
        trace += [look(outer), look(outer), look(inner), look(outer), look(inner)]
        if outer_flags & ONESHOT:
            outer.modify(inner, IN | outer_flags)
        trace += [look(outer), outcome(b.recv, 9), look(outer), look(inner), os.read(read_end, 9).decode(), look(outer), look(inner)]
        give(a, b)
        give(a, b, 2)
        trace += [look(outer), outcome(b.recv, 9), look(outer)]
        give(a, b)
        if outer_flags & ONESHOT:
            outer.modify(inner, IN | outer_flags)
        outcome(b.recv, 9)
        trace += [look(outer), look(inner)]
        if inner_flags & ONESHOT:
            inner.modify(b, IN | inner_flags)
            inner.modify(read_end, IN | inner_flags)
        trace += [look(outer), look(inner), look(outer)]
    return trace


for outer_ in (0, ET, ONESHOT, ET | ONESHOT):
    for inner_ in (0, ET, ONESHOT):
        def body(outer_flags=outer_, inner_flags=inner_):
            return entry_of_the_inner_set(outer_flags, inner_flags)
        named = {0: "level", ET: "edge", ONESHOT: "one_shot", ET | ONESHOT: "edge_one_shot"}
        body.__name__ = "outer_%s_inner_%s" % (named[outer_], named[inner_])
        case(body)


@case
def three_sets_deep():
    a, b = pair()
    sets = [select.epoll() for _ in range(3)]
    sets[1].register(sets[0], IN)
    sets[2].register(sets[1], IN)
    sets[0].register(b, IN)
    trace = [[len(each.poll(0)) for each in sets]]
    for _ in range(2):
        give(a, b)
        trace.append([len(each.poll(0)) for each in reversed(sets)])
        trace += [outcome(b.recv, 1), [len(each.poll(0)) for each in reversed(sets)]]
    return trace


@case
def as_deep_as_the_kernel_allows():
    """The sixth level and every loop are refused; the deepest session is told at the top."""
    a, b = pair()
    sets = [select.epoll() for _ in range(8)]
    sets[0].register(b, IN)
    trace = [[outcome(sets[number + 1].register, sets[number], IN) for number in range(7)]]
    trace += [outcome(sets[low].register, sets[high], IN) for low, high in ((0, 1), (0, 4), (2, 2))]
    looks = lambda: [len(each.poll(0)) for each in reversed(sets)]
    trace.append(looks())
    for _ in range(2):
        give(a, b)
        trace += [looks(), outcome(b.recv, 1), looks()]
    return trace


@case
def one_set_in_two_and_they_in_a_third():
    a, b = pair()
    c, d = pair()
    inner, left, right, top = [select.epoll() for _ in range(4)]
    for watch, entries in ((inner, [(b, IN)]), (left, [(inner, IN), (d, IN | ET)]), (right, [(inner, IN | ET)]), (top, [(left, IN), (right, IN)])):
        for entry, flags in entries:
            watch.register(entry, flags)
    looks = lambda: [len(each.poll(0)) for each in (top, left, right, inner)]
    trace = [looks()]
    for sender, receiver in ((a, b), (c, d), (a, b)):
        give(sender, receiver)
        trace += [looks(), looks(), outcome(receiver.recv, 1), looks()]
    return trace


@case
def closing_at_each_level():
    """A copy of the inner descriptor keeps its entry alive; the last one takes it away; the rest goes on."""
    trace = []
    for number in range(4):
        a, b = pair()
        inner, outer = select.epoll(), select.epoll()
        inner.register(b, IN)
        outer.register(inner, IN)
        give(a, b)
        look = lambda: len(outer.poll(0))
        trace.append(look())
        if number == 0:
            copy = os.dup(inner.fileno())
            inner.close()
            trace += [look(), outcome(b.recv, 1), look()]
            give(a, b)
            trace += [look(), ready(copy, "poll"), ready(copy, "select"), len(select.epoll.fromfd(os.dup(copy)).poll(0))]
            os.close(copy)
        elif number == 1:
            outer.unregister(inner)
            trace += [look(), len(inner.poll(0))]
            outer.register(inner, IN)
        elif number == 2:
            b.close()
            trace += [look(), len(inner.poll(0))]
            a, b = pair()
            inner.register(b, IN)
            give(a, b)
        else:
            outer.close()
            outer = select.epoll()
            trace += [len(inner.poll(0))]
            outer.register(inner, IN | ET)
        trace += [look(), look()]
    return trace


@case
def changes_of_entries_in_a_nested_set():
    a, b = pair()
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN)
    outer.register(inner, IN | ET)
    look = lambda: [len(outer.poll(0)), len(inner.poll(0)), len(outer.poll(0))]
    trace = [look()]
    give(a, b)
    trace.append(look())
    for change in (lambda: inner.modify(b, OUT), lambda: inner.modify(b, 0), lambda: inner.modify(b, IN | ONESHOT),
                   lambda: inner.modify(b, IN | ONESHOT), lambda: inner.unregister(b), lambda: inner.register(b, IN | ET),
                   lambda: inner.modify(b, IN | ET), lambda: outer.modify(inner, IN | ET), lambda: outer.modify(inner, IN)):
        trace += [outcome(change), look()]
    trace += [outcome(outer.register, inner, IN), outcome(inner.register, outer, IN), outcome(outer.modify, inner, IN | EXCLUSIVE)]
    trace += [outcome(outer.unregister, inner), look(), outcome(outer.unregister, inner), outcome(outer.register, inner, IN | EXCLUSIVE)]
    return trace


@case
def few_places():
    """One place for an inner set, a session of the outer one, and a pipe: each has its turn."""
    a, b = pair()
    c, d = pair()
    read_end, write_end = os.pipe()
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN)
    for entry in (inner, d, read_end):
        outer.register(entry, IN)
    give(a, b)
    give(c, d)
    os.write(write_end, b"x")
    seen = set()
    for _ in range(12):
        batch = outer.poll(0, maxevents=1)
        assert len(batch) == 1, batch
        seen.update(fd for fd, _ in batch)
    return len(seen)


def sleeper(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        wait_asleep(os.getpid(), thread.native_id)
    except FileNotFoundError:
        raise AssertionError("the thread did not sleep") from None
    return thread


def joined(thread):
    thread.join(5)
    return "asleep" if thread.is_alive() else "awake"


def asleep_on_nested(call):
    """A thread asleep on a set, or a plain poll, that watches the set with the session."""
    a, b = pair()
    inner = select.epoll()
    inner.register(b, IN)
    trace = []
    for _ in range(3):
        seen = []
        thread = sleeper(lambda: seen.append(ready(inner.fileno(), call, 8)))
        a.sendall(b"wake")
        trace += [joined(thread), seen, len(inner.poll(0)), outcome(b.recv, 4), len(inner.poll(0))]
    return trace


def asleep_while_it_begins(call):
    """Asleep before the inner set has a session, and before that session switches over."""
    trace = []
    for is_added in (False, True):
        a, b = cold_pair()
        inner = select.epoll()
        if is_added:
            inner.register(b, RDHUP)
        seen = []
        thread = sleeper(lambda: seen.append(ready(inner.fileno(), call, 8)))
        if not is_added:
            inner.register(b, RDHUP)
        warm(a, b)
        trace += [thread.is_alive(), list(seen)]
        inner.modify(b, IN)
        a.sendall(b"wake")
        trace += [joined(thread), seen, len(inner.poll(0)), outcome(b.recv, 4), len(inner.poll(0))]
    return trace


for call_ in ("epoll", "poll", "select"):
    def body(call=call_):
        return asleep_on_nested(call)
    body.__name__ = "asleep_on_nested_by_" + call_
    case(body)

    def body(call=call_):
        return asleep_while_it_begins(call)
    body.__name__ = "asleep_while_it_begins_by_" + call_
    case(body)


@case
def asleep_at_each_level():
    """Threads in epoll_wait on all three sets: while nobody reads, all are told."""
    a, b = pair()
    read_end, write_end = os.pipe()
    sets = [select.epoll() for _ in range(3)]
    sets[0].register(b, IN)
    sets[0].register(read_end, IN)
    sets[1].register(sets[0], IN)
    sets[2].register(sets[1], IN)
    trace = []
    for wake, take in ((lambda: a.sendall(b"x"), lambda: b.recv(1)), (lambda: os.write(write_end, b"x"), lambda: os.read(read_end, 1))) * 2:
        seen = [[] for _ in sets]
        threads = [sleeper(lambda number=number: seen[number].append(len(sets[number].poll(8)))) for number in range(3)]
        wake()
        trace += [[joined(thread) for thread in threads], seen]
        take()
        trace.append([len(each.poll(0)) for each in sets])
    return trace


@case
def asleep_while_the_inner_set_is_added():
    a, b = pair()
    a.sendall(b"x")
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN)
    seen = []
    thread = sleeper(lambda: seen.append(len(outer.poll(8))))
    outer.register(inner, IN)
    return [joined(thread), seen]


@case
def asleep_in_the_inner_set_while_it_is_watched():
    """It slept before anybody watched its set; the watcher is told nothing before there is something."""
    a, b = pair()
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN)
    seen = []
    thread = sleeper(lambda: seen.append(len(inner.poll(8))))
    outer.register(inner, IN | ET)
    trace = [len(outer.poll(0)), thread.is_alive()]
    a.sendall(b"x")
    return trace + [joined(thread), seen, len(outer.poll(0)), len(outer.poll(0))]


@case
def asleep_until_a_time():
    a, b = pair()
    inner, outer = select.epoll(), select.epoll()
    inner.register(b, IN)
    outer.register(inner, IN)
    return [len(outer.poll(0.05)), len(inner.poll(0.05)), ready(inner.fileno(), "poll", 0.05), ready(inner.fileno(), "select", 0.05)]


class Forest:
    """Sets that hold sessions, pipes and each other at random; every step says what all calls see."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        # The last one is the kernel's alone. None switches over on the way: that is an edge more (docs/limits.md).
        self.pairs = [pair() for _ in range(3)] + [socket.socketpair()]
        self.pipes = [os.pipe() for _ in range(2)]
        self.sets = [select.epoll() for _ in range(5)]
        self.names = {b.fileno(): "session %d" % number for number, (_, b) in enumerate(self.pairs)}
        self.names.update({read_end: "pipe %d" % number for number, (read_end, _) in enumerate(self.pipes)})
        self.names.update({each.fileno(): "set %d" % number for number, each in enumerate(self.sets)})
        self.held = {b: 0 for _, b in self.pairs}
        # Each set has a session from the start: its first one is an edge more as well.
        self.anchor = pair()
        for each in self.sets:
            each.register(self.anchor[1], 0)

    def events(self):
        bits = self.chance.choice([IN, IN, IN | RDHUP, IN | OUT, OUT, 0])
        return bits | self.chance.choice([0, 0, ET, ET, ONESHOT, ET | ONESHOT])

    def step(self):
        what = self.chance.randrange(12)
        number = self.chance.randrange(5)
        watch = self.sets[number]
        if what < 3:
            # Sets only within later ones, most of the time: the kernel refuses loops.
            target = self.chance.choice([b for _, b in self.pairs] + [read_end for read_end, _ in self.pipes] + self.sets[:number + 1] * 2)
            fd = target if isinstance(target, int) else target.fileno()
            call = self.chance.choice([watch.register, watch.register, watch.modify, watch.modify])
            return [call.__name__, number, self.names[fd], outcome(call, fd, self.events())]
        if what == 3 and self.chance.random() < 0.4:
            fd = self.chance.choice(list(self.names))
            return ["unregister", number, self.names[fd], outcome(watch.unregister, fd)]
        if what < 6:
            a, b = self.chance.choice(self.pairs)
            count = self.chance.randrange(1, 9)
            a.sendall(pattern(count))
            self.held[b] += count
            wait_readable(b, self.held[b])
            return ["send", self.names[b.fileno()]]
        if what == 6:
            a, b = self.chance.choice(self.pairs)
            if not self.held[b]:
                return []
            count = len(b.recv(self.chance.choice([1, 100])))
            self.held[b] -= count
            return ["receive", self.names[b.fileno()], count]
        if what == 7:
            read_end, write_end = self.chance.choice(self.pipes)
            if ready(read_end, "select"):
                return ["read", self.names[read_end], len(os.read(read_end, 100))]
            return ["write", self.names[read_end], os.write(write_end, b"x")]
        if what == 8:
            return ["poll", [ready(each.fileno(), "poll") for each in self.sets]]
        if what == 9:
            return ["select", len(select.select(self.sets, [], [], 0)[0])]
        # A busy set's other descriptors have their turn every 15 microseconds.
        time.sleep(0.00005)
        return ["wait", number, sorted([self.names[fd], bits] for fd, bits in watch.poll(0, 64))]


def forest(seed):
    model = Forest(seed)
    return [model.step() for _ in range(250)]


for seed_ in range(12):
    def body(seed=seed_):
        return forest(seed)
    body.__name__ = "forest_%d" % seed_
    case(body)


if __name__ == "__main__":
    run()
