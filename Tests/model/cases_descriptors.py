"""Numbers of descriptors: limits, exhaustion, and calls that name a number. Run by test_descriptors.py.

In the switched run the library has descriptors of its own; `hidden` finds them. In the plain run the same case uses numbers that
are free, so both see the same.
"""
import errno
import fcntl
import json
import os
import random
import resource
import select
import socket
import stat
import subprocess
import sys
import threading

import libc
from endpoint import (KEEP, SWITCHED, accept, connect, kernel_bytes, listener, outcome, pair, read_exactly, wait_asleep,
                      warm_active, warm_passive)
from libc import call
from runner import case, run

NULL = (stat.S_IFCHR, os.makedev(1, 3))


def limit(soft, hard=None):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or soft))


def open_numbers():
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.lexists("/proc/self/fd/%d" % fd)}


def is_null(fd):
    status = os.fstat(fd)
    return (stat.S_IFMT(status.st_mode), status.st_rdev) == NULL


BEFORE = open_numbers()


def hidden(*sockets):
    """Numbers to aim at: the library's own, or as good as any."""
    known = BEFORE | {sock.fileno() for sock in sockets} | {sock.fileno() for sock in KEEP}
    found = sorted(open_numbers() - known)
    assert not found or SWITCHED, found
    assert found or not SWITCHED
    return found or list(range(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 8, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def exchange(a, b, rounds=5):
    """Bytes there and back; whether they were right."""
    for number in range(rounds):
        text = b"%d to and fro" % number
        a.sendall(text)
        assert read_exactly(b, len(text)) == text
        b.sendall(text)
        assert read_exactly(a, len(text)) == text
    return True


def stays_switched(a, b):
    before = kernel_bytes(a)
    exchange(a, b)
    assert not SWITCHED or kernel_bytes(a) == before, "the bytes went by TCP"
    return True


def until_full(make):
    """Makes descriptors until there are no more: how many, and the error."""
    made = []
    while True:
        try:
            result = make()
        except OSError as error:
            return made, errno.errorcode[error.errno]
        made += result if isinstance(result, (list, tuple)) else [result]


def numbers(made):
    """What the program got, in order; a stream's number is libc's affair."""
    return [item if isinstance(item, int) else item.fileno() for item in made if not isinstance(item, Stream)]


def close_all(made):
    for item in made:
        os.close(item) if isinstance(item, int) else item.close()


def null():
    return os.open("/dev/null", os.O_RDONLY)


def stream():
    libc.C.fopen.restype = libc.ctypes.c_void_p
    result = libc.C.fopen(b"/dev/null", b"r")
    if not result:
        raise OSError(libc.ctypes.get_errno(), "fopen")
    return Stream(result)


class Stream:
    def __init__(self, address):
        self.address = address

    def close(self):
        libc.C.fclose(libc.ctypes.c_void_p(self.address))


def maker(kind, sock):
    return {"open": null, "socket": socket.socket, "dup": lambda: os.dup(sock.fileno()), "pipe": os.pipe,
            "fcntl": lambda: fcntl.fcntl(sock, fcntl.F_DUPFD, 0), "epoll": select.epoll, "fopen": stream,
            "socketpair": socket.socketpair, "memfd": lambda: os.memfd_create("x")}[kind]


def exhausted_by(kind, soft, hard=None):
    limit(soft, hard)
    a, b = pair()
    made, error = until_full(maker(kind, a))
    trace = [len(made), numbers(made), error, outcome(null), exchange(a, b), resource.getrlimit(resource.RLIMIT_NOFILE)]
    close_all(made)
    made, error = until_full(null)
    trace += [made, error, exchange(a, b)]
    close_all(made)
    return trace + [exchange(a, b)]


def exhaustion(kind, soft, hard=None):
    def body():
        return exhausted_by(kind, soft, hard)
    body.__name__ = "exhausted_by_%s_%s" % (kind, "hard" if hard is None else "soft")
    return case(body)


for kind in ("open", "socket", "dup", "pipe", "fcntl", "epoll", "fopen", "socketpair", "memfd"):
    exhaustion(kind, 64)
    exhaustion(kind, 64, 4096)


@case
def accept_at_the_limit():
    """The last number goes to a connection; the next accept fails, and works again when one is closed."""
    address_read, address_write = os.pipe()
    result_read, result_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end_write)
        limit(64)
        a, b = pair()
        server = listener(backlog=256)
        os.write(address_write, b"%5d" % server.getsockname()[1])
        made, error = until_full(lambda: accept(server))
        trace = [len(made), error]
        made.pop().close()
        made.append(accept(server))
        trace += [outcome(accept, server), exchange(a, b), sum(len(read_exactly(sock, 10)) for sock in made)]
        os.write(result_write, json.dumps(trace).encode())
        os.read(end_read, 1)
        os._exit(0)
    for fd in (address_write, result_write, end_read):
        os.close(fd)
    address = ("127.0.0.1", int(os.read(address_read, 5)))
    clients = [connect(address) for _ in range(80)]
    for sock in clients:
        sock.sendall(b"0123456789")
    trace = json.loads(os.read(result_read, 10000))
    os.close(end_write)
    return [trace, os.waitpid(pid, 0)[1]]


@case
def dup2_over_each():
    limit(256)
    a, b = pair()
    c, d = pair()
    poller = select.epoll()
    poller.register(b, select.EPOLLIN)
    a.sendall(b"x")
    trace = [len(poller.poll(5)), outcome(b.recv, 1)]
    spare = null()
    BEFORE.update({poller.fileno(), spare})
    for number in hidden(a, b, c, d):
        assert outcome(os.fstat, number) == "EBADF" or SWITCHED
        assert os.dup2(spare, number) == number
        assert is_null(number)
        stays_switched(a, b)
        stays_switched(c, d)
        a.sendall(b"y")
        assert len(poller.poll(5)) == 1
        b.recv(1)
        assert poller.poll(0) == []
        BEFORE.add(number)
        if number % 2:
            os.close(number)
            BEFORE.remove(number)
            assert outcome(os.fstat, number) == "EBADF" or SWITCHED
    # The rendezvous still works, under whatever number.
    e, f = pair()
    return trace + [stays_switched(a, b), stays_switched(e, f), stays_switched(c, d)]


def dup3(old, new, flags):
    return call("dup3", libc.ctypes.c_int(old), libc.ctypes.c_int(new), libc.ctypes.c_int(flags))


@case
def dup2_at_the_end_of_all_numbers():
    """No other number is left for what is in the way: it goes."""
    limit(64)
    a, b = pair()
    c, d = pair()
    poller = select.epoll()
    poller.register(d, select.EPOLLIN)
    spare = null()
    BEFORE.update({poller.fileno(), spare})
    exchange(c, d)
    targets = hidden(a, b, c, d)
    mine = BEFORE | {sock.fileno() for sock in (a, b, c, d, *KEEP)}
    for number in set(range(64)) - mine - set(targets):
        os.dup2(spare, number)
    for number in targets:
        assert os.dup2(spare, number) == number
    wrong = [number for number in set(range(64)) - mine if not is_null(number)]
    trace = [wrong, exchange(a, b), exchange(c, d), outcome(null), outcome(os.dup2, spare, 64)]
    c.sendall(b"x")
    return trace + [len(poller.poll(5)), outcome(d.recv, 2), poller.poll(0)]


@case
def dup3_and_its_errors():
    limit(256)
    a, b = pair()
    spare = null()
    BEFORE.add(spare)
    number = hidden(a, b)[0]
    trace = [dup3(spare, number, 12345), dup3(999, number, 0), dup3(number, number, 0)]
    trace += [call("dup2", libc.ctypes.c_int(number), libc.ctypes.c_int(spare)), outcome(os.dup2, spare, 256)]
    trace += [dup3(spare, number, os.O_CLOEXEC) == number, os.get_inheritable(number), is_null(number)]
    return trace + [stays_switched(a, b)]


@case
def lowest_number_from_a_given_one():
    limit(256)
    a, b = pair()
    spare = null()
    BEFORE.add(spare)
    number = hidden(a, b)[0]
    trace = [fcntl.fcntl(spare, fcntl.F_DUPFD, number) == number, is_null(number), os.get_inheritable(number)]
    os.close(number)
    trace += [fcntl.fcntl(spare, fcntl.F_DUPFD_CLOEXEC, number) == number, os.get_inheritable(number)]
    return trace + [stays_switched(a, b), outcome(fcntl.fcntl, spare, fcntl.F_DUPFD, 256)]


def under_sleeping_threads(work, soft, hard=None):
    """Threads asleep in recv, poll and epoll_wait while `work` takes the numbers of what they sleep on."""
    limit(soft, hard)
    pairs = [pair() for _ in range(3)]
    heard = []

    def receive(sock):
        heard.append(sock.recv(10))

    def poll(sock):
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.poll()
        heard.append(sock.recv(10))

    def epoll(sock):
        poller = select.epoll()
        BEFORE.add(poller.fileno())
        poller.register(sock, select.EPOLLIN)
        poller.poll()
        heard.append(sock.recv(10))
    threads = [threading.Thread(target=work, args=(b,), daemon=True) for work, (a, b) in zip((receive, poll, epoll), pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        wait_asleep(os.getpid(), thread.native_id)
    trace = [work([sock for pair_ in pairs for sock in pair_])]
    for a, b in pairs:
        a.sendall(b"wake")
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    return trace + [len(heard), heard.count(b"wake")], pairs


@case
def dup2_under_sleeping_threads():
    def work(sockets):
        spare = null()
        BEFORE.add(spare)
        for number in hidden(*sockets):
            assert os.dup2(spare, number) == number and is_null(number)
    trace, pairs = under_sleeping_threads(work, 256)
    return trace + [[stays_switched(a, b) for a, b in pairs]]


@case
def exhaustion_under_sleeping_threads():
    trace, pairs = under_sleeping_threads(lambda sockets: until_full(null), 64)
    return trace + [[exchange(a, b) for a, b in pairs]]


@case
def exhaustion_with_peers_asleep_elsewhere():
    """One end runs out of numbers while the other, in another process, sleeps on its connections."""
    listening = listener()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        sockets = [connect(listening.getsockname()) for _ in range(4)]
        for sock in sockets:
            warm_active(sock)

        def serve(sock, wait):
            while wait(sock) and (text := sock.recv(100)):
                sock.sendall(text[::-1])

        def poll(sock):
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            return poller.poll()

        def epoll(sock, poller=select.epoll()):
            if poller.fileno() not in BEFORE:
                BEFORE.add(poller.fileno())
                poller.register(sock, select.EPOLLIN)
            return poller.poll()
        waits = (lambda sock: True, poll, epoll, lambda sock: select.select([sock], [], [])[0])
        threads = [threading.Thread(target=serve, args=arguments) for arguments in zip(sockets, waits)]
        for thread in threads:
            thread.start()
        for thread in threads:
            wait_asleep(os.getpid(), thread.native_id)
        os.write(tell, b"asleep")
        for thread in threads:
            thread.join()
        os._exit(0)
    limit(64)
    sockets = [accept(listening) for _ in range(4)]
    for sock in sockets:
        warm_passive(sock)
    os.read(told, 6)
    made, error = until_full(null)
    trace = [numbers(made), error]
    for round in range(3):
        for number, sock in enumerate(sockets):
            sock.sendall(b"round %d, %d" % (round, number))
            trace.append(outcome(read_exactly, sock, 10))
    close_all(made)
    for sock in sockets:
        sock.shutdown(socket.SHUT_WR)
    return trace + [os.waitpid(pid, 0)[1]]


@case
def raised_limit_under_sleeping_threads():
    """What was beyond the limit is in the way after setrlimit, and goes beyond the new one."""
    def work(sockets):
        limit(96, 4096)
        return until_full(null)
    trace, pairs = under_sleeping_threads(work, 64, 4096)
    return trace + [[stays_switched(a, b) for a, b in pairs]]


@case
def close_range_over_everything():
    limit(256)
    a, b = pair()
    c, d = pair()
    keep = sorted({sock.fileno() for sock in (a, b, c, d)} | {sock.fileno() for sock in KEEP} | {0, 1, 2})
    spare = [null() for _ in range(5)]
    trace, start = [], 0
    for fd in keep + [0x7fffffff]:
        if fd > start:
            trace.append(call("close_range", libc.ctypes.c_uint(start), libc.ctypes.c_uint(fd - 1), libc.ctypes.c_int(0)))
        start = fd + 1
    trace += [outcome(os.fstat, fd) for fd in spare]
    trace += [stays_switched(a, b), stays_switched(c, d)]
    BEFORE.clear()
    BEFORE.update({0, 1, 2})
    trace += [call("close_range", libc.ctypes.c_uint(3), libc.ctypes.c_uint(0xffffffff), libc.ctypes.c_int(77))]
    trace += [stays_switched(a, b)]
    trace += [call("close_range", libc.ctypes.c_uint(3), libc.ctypes.c_uint(0xffffffff), libc.ctypes.c_int(0))]
    trace += [outcome(os.fstat, n) for n in keep if n > 2] + [null()]
    for sock in (a, b, c, d, *KEEP):
        sock.detach()
    KEEP.clear()
    e, f = pair()
    return trace + [stays_switched(e, f)]


@case
def loop_over_all_numbers():
    limit(1024)
    a, b = pair()
    keep = {a.fileno(), b.fileno()} | {sock.fileno() for sock in KEEP}
    BEFORE.clear()
    results = {}
    for fd in range(3, 1024):
        if fd not in keep:
            result = outcome(os.close, fd)
            results[str(result)] = results.get(str(result), 0) + 1
    assert set(results) <= {"EBADF", "None"}
    trace = [null(), stays_switched(a, b)]
    e, f = pair()
    return trace + [stays_switched(e, f)]


@case
def limit_raised_and_lowered():
    """What was beyond the limit is within it after setrlimit, and gives way there."""
    limit(64, 512)
    a, b = pair()
    limit(128, 512)
    spare = null()
    BEFORE.add(spare)
    trace = [os.dup2(spare, number) == number and stays_switched(a, b) for number in range(64, 80)]
    trace += [outcome(os.dup2, spare, 128)]
    close_all(range(64, 80))
    c, d = pair()
    made, error = until_full(null)
    trace += [len(made), error, max(made), stays_switched(a, b), stays_switched(c, d)]
    close_all(made)
    limit(32, 512)
    made, error = until_full(null)
    trace += [len(made), error, stays_switched(a, b), stays_switched(c, d)]
    close_all(made)
    limit(512)
    made, error = until_full(null)
    trace += [len(made), error, exchange(a, b), exchange(c, d)]
    return trace


@case
def numbers_reused_at_once():
    """Threads take and give back numbers everywhere while connections are busy: each file stays what it was."""
    limit(128)
    pairs = [pair() for _ in range(4)]
    mine = {sock.fileno() for pair_ in pairs for sock in pair_} | {sock.fileno() for sock in KEEP} | BEFORE
    spare = null()
    mine.add(spare)
    stop, failures, locks = threading.Event(), [], [threading.Lock() for _ in range(128)]

    def take(seed):
        choose = random.Random(seed)
        targets = [number for number in range(70 + 29 * seed, 99 + 29 * seed) if number not in mine]
        try:
            while not stop.is_set():
                number = choose.choice(targets)
                os.dup2(spare, number)
                if not is_null(number):
                    failures.append("number %d is not /dev/null" % number)
                if choose.random() < 0.7:
                    os.close(number)
        except OSError as error:
            failures.append(repr(error))
    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        for a, b in pairs:
            exchange(a, b, 3)
    stop.set()
    for thread in threads:
        thread.join()
    return [failures, [exchange(a, b) for a, b in pairs]]


def many(count):
    """`count` connections between two processes, all alive at once."""
    limit(1024, max(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    listening = listener(backlog=1024)
    pid = os.fork()
    if pid == 0:
        sockets = [connect(listening.getsockname()) for _ in range(count)]
        for sock in sockets:
            warm_active(sock)
        for sock in sockets:
            sock.sendall(b"all together")
        # The last word is the server's.
        os._exit(0 if all(read_exactly(sock, 12) == b"one and all!" for sock in sockets) else 1)
    sockets = [accept(listening) for _ in range(count)]
    for sock in sockets:
        warm_passive(sock)
    before = [kernel_bytes(sock) for sock in sockets]
    waiting, ready = {sock.fileno(): sock for sock in sockets}, 0
    poller = select.poll()
    for fd in waiting:
        poller.register(fd, select.POLLIN)
    while waiting:
        for fd, _ in poller.poll():
            ready += read_exactly(waiting.pop(fd), 12) == b"all together"
            poller.unregister(fd)
    chosen, _, _ = select.select([], sockets, [], 5)
    for sock in sockets:
        sock.sendall(b"one and all!")
    by_companion = sum(now == then for now, then in zip((kernel_bytes(sock) for sock in sockets), before))
    assert by_companion == count or not SWITCHED, "%d of %d by the companion" % (by_companion, count)
    return [ready, len(chosen), os.waitpid(pid, 0)[1]]


@case
def nine_hundred_connections():
    return many(900)


def asleep_on_most_numbers(wait):
    """poll(2) takes no more entries than the limit: doorbells must not be what exceeds it."""
    limit(128, 4096)
    listening = listener(backlog=128)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        sockets = [connect(listening.getsockname()) for _ in range(100)]
        for sock in sockets:
            warm_active(sock)
        for number in (7, 99, 0):
            wait_asleep(parent)
            sockets[number].sendall(b"wake")
            read_exactly(sockets[number], 1)
        wait_asleep(parent)
        sockets[50].close()
        # The other ends stay open until the server has seen this one.
        os._exit(sockets[51].recv(1) != b"!")
    sockets = [accept(listening) for _ in range(100)]
    for sock in sockets:
        warm_passive(sock)
    trace = []
    for _ in range(4):
        ready = wait(sockets)
        trace.append([(sockets.index(sock), outcome(sock.recv, 10)) for sock in ready])
        if trace[-1][0][1]:
            ready[0].sendall(b"k")
    sockets[51].sendall(b"!")
    return trace + [os.waitpid(pid, 0)[1]]


@case
def poll_asleep_on_most_numbers():
    def wait(sockets):
        poller, by_number = select.poll(), {sock.fileno(): sock for sock in sockets}
        for fd in by_number:
            poller.register(fd, select.POLLIN)
        return [by_number[fd] for fd, _ in poller.poll()]
    return asleep_on_most_numbers(wait)


@case
def select_asleep_on_most_numbers():
    return asleep_on_most_numbers(lambda sockets: select.select(sockets, [], [])[0])


@case
def children_with_and_without_descriptors():
    """subprocess closes every number itself, or leaves the inheritable ones: ours are neither."""
    limit(1024, 4096)
    a, b = pair()
    listing = "import os; print(sorted(n for n in map(int, os.listdir('/proc/self/fd')) if os.path.lexists('/proc/self/fd/%d' % n)))"
    os.set_inheritable(a.fileno(), True)
    trace = []
    for close in (True, False):
        done = subprocess.run([sys.executable, "-S", "-c", listing], close_fds=close, stdout=subprocess.PIPE, env={})
        trace += [done.stdout.decode(), exchange(a, b)]
    return trace


if __name__ == "__main__":
    run()
