"""Connections and processes: fork, workers, daemons, and sudden death. Run by test_processes.py."""
import os
import signal
import socket
import sys

from endpoint import (accept, connect, listener, outcome, pair, pattern, poll_events, read_exactly,
                      wait_asleep, wait_readable, wait_until, warm_active, warm_passive)
from runner import case, run


def child(work, *arguments):
    """Runs `work` in a forked process; its pid. Status 0 means that it returned."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write("child: %r\n" % error)
            os._exit(1)
    return pid


def status_of(pid):
    return os.waitpid(pid, 0)[1]


def serve(sock):
    """A small echo server: records of a 4-byte length and that many bytes, until the end."""
    warm_passive(sock)
    while True:
        head = sock.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            return sock.close()
        sock.sendall(read_exactly(sock, int.from_bytes(head, "big"))[::-1])


def ask(sock, count):
    data = pattern(count, count)
    sock.sendall(count.to_bytes(4, "big") + data)
    return read_exactly(sock, count) == data[::-1]


def talk(address, sizes=(1, 5000, 70000, 3, 200000)):
    sock = connect(address)
    warm_active(sock)
    result = [ask(sock, size) for size in sizes]
    sock.shutdown(socket.SHUT_WR)
    return result + [outcome(sock.recv, 1)]


@case
def prefork_workers_on_an_inherited_listener():
    listening = listener()

    def worker():
        for _ in range(2):
            serve(accept(listening))
    workers = [child(worker) for _ in range(3)]
    trace = [talk(listening.getsockname()) for _ in range(6)]
    return trace + [status_of(pid) for pid in workers]


@case
def workers_with_their_own_listening_sockets():
    """SO_REUSEPORT: the kernel picks the worker; the one that serves the rendezvous need not be the one that accepts."""
    first = listener(reuse_port=True)
    address = first.getsockname()
    ready_read, ready_write = os.pipe()

    def worker():
        first.close()
        mine = listener(port=address[1], reuse_port=True)
        os.write(ready_write, b"r")
        while True:
            serve(accept(mine))
    workers = [child(worker) for _ in range(2)]
    for _ in workers:
        os.read(ready_read, 1)
    first.close()
    trace = [talk(address) for _ in range(6)]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    return trace + [status_of(pid) for pid in workers]


@case
def accept_then_fork():
    listening = listener()

    def master():
        for _ in range(4):
            sock = accept(listening)
            pid = child(serve, sock)
            sock.close()
            status_of(pid)
    pid = child(master)
    return [talk(listening.getsockname()) for _ in range(4)] + [status_of(pid)]


@case
def daemon_that_closes_everything():
    """Double fork, setsid, and the loop over all descriptors that daemons do, sparing the listener."""
    listening = listener()
    told_read, told_write = os.pipe()

    def daemonize():
        os.setsid()
        pid = os.fork()
        if pid:
            os._exit(0)
        for fd in range(3, 1024):
            if fd not in (listening.fileno(), told_write):
                try:
                    os.close(fd)
                except OSError:
                    pass
        os.write(told_write, b"%d\n" % os.getpid())
        os.close(told_write)
        for _ in range(2):
            serve(accept(listening))
    status_of(child(daemonize))
    os.read(told_read, 100)
    address = listening.getsockname()
    listening.close()
    return [talk(address), talk(address)]


@case
def closing_everything_keeps_kept_sessions_working():
    """close_range and close loops around a session must spare what the program cannot see."""
    a, b = pair()
    keep = sorted((a.fileno(), b.fileno()))
    os.closerange(keep[1] + 1, 65536)
    os.closerange(keep[0] + 1, keep[1])
    trace = []
    for _ in range(3):
        a.sendall(pattern(50000)[:9000])
        trace.append(outcome(read_exactly, b, 9000))
    b.shutdown(socket.SHUT_WR)
    trace.append(outcome(a.recv, 1))
    # close_range with flags, and over a session: its peer sees the end.
    import libc
    trace.append(libc.call("close_range", a.fileno(), a.fileno(), 0))
    a.detach()
    return trace + [outcome(b.recv, 1)]


@case
def child_uses_a_session_of_its_parent():
    a, b = pair()

    def work():
        for size in (1, 5000, 9000):
            a.sendall(pattern(size))
            read_exactly(a, size)
    pid = child(work)
    a.close()
    trace = []
    for size in (1, 5000, 9000):
        trace.append(read_exactly(b, size) == pattern(size))
        b.sendall(pattern(size))
    return trace + [status_of(pid), outcome(b.recv, 1)]


@case
def two_processes_alternate_on_one_session():
    a, b = pair()
    baton_read, baton_write = os.pipe()
    back_read, back_write = os.pipe()

    def partner():
        for index in range(20):
            os.read(baton_read, 1)
            a.sendall(b"child %02d" % index)
            assert read_exactly(a, 4) == b"r%03d" % index
            os.write(back_write, b"k")
    pid = child(partner)
    trace = []
    for index in range(20):
        a.sendall(b"paren %02d" % index)
        os.write(baton_write, b"g")
        trace.append(read_exactly(b, 16).decode())
        b.sendall(b"r%03d" % index)
        os.read(back_read, 1)
    a.close()
    return trace + [status_of(pid), outcome(b.recv, 1)]


@case
def both_processes_write_records_at_once():
    a, b = pair()
    record = lambda who, index: (b"%c%07d" % (who, index)) * 64

    def write(who):
        for index in range(300):
            a.sendall(record(who, index))
    pids = [child(write, who) for who in b"AB"]
    a.close()
    seen = {ord("A"): 0, ord("B"): 0}
    for _ in range(600):
        data = read_exactly(b, 512)
        assert data == record(data[0], seen[data[0]]), data[:16]
        seen[data[0]] += 1
    return [status_of(pid) for pid in pids] + [sorted(seen.values()), outcome(b.recv, 1)]


@case
def parent_sleeps_in_receive_while_its_child_sends():
    a, b = pair()
    pid = child(lambda: (wait_asleep(os.getppid()), a.sendall(b"from the child")))
    trace = [outcome(read_exactly, b, 14)]
    return trace + [status_of(pid)]


@case
def end_comes_when_the_last_process_has_closed():
    a, b = pair()
    gate_read, gate_write = os.pipe()

    def hold():
        os.close(gate_write)
        os.read(gate_read, 1)
    pid = child(hold)
    a.close()
    trace = [outcome(b.recv, 1, socket.MSG_DONTWAIT), poll_events(b)]
    os.close(gate_write)
    trace += [status_of(pid), outcome(b.recv, 1)]
    return trace


def survivor(dying_is_reader, unread_at_survivor):
    """The peer is killed; what TCP shows the survivor."""
    listening = listener()
    gate_read, gate_write = os.pipe()

    def victim():
        sock = connect(listening.getsockname())
        warm_active(sock)
        if unread_at_survivor:
            sock.sendall(pattern(9000))
        os.write(gate_write, b"k")
        signal.pause()
    pid = child(victim)
    b = accept(listening)
    warm_passive(b)
    os.read(gate_read, 1)
    if unread_at_survivor:
        wait_readable(b, 9000)
    if dying_is_reader:
        b.sendall(b"nobody will read this")
    os.kill(pid, signal.SIGKILL)
    trace = [status_of(pid)]
    wait_until(lambda: "POLLRDHUP" in poll_events(b) or "POLLERR" in poll_events(b), "the end")
    trace.append(poll_events(b))
    if unread_at_survivor:
        trace.append(outcome(read_exactly, b, 9000))
    return trace + [outcome(b.recv, 1), outcome(b.recv, 1)]


@case
def killed_peer_that_owed_nothing():
    return survivor(False, False)


@case
def killed_peer_whose_bytes_were_not_read_yet():
    return survivor(False, True)


@case
def killed_peer_that_had_not_read_everything():
    return survivor(True, False)


@case
def killed_peer_while_the_survivor_sleeps():
    listening = listener()

    def victim():
        sock = connect(listening.getsockname())
        warm_active(sock)
        sock.sendall(b"last")
        signal.pause()
    pid = child(victim)
    b = accept(listening)
    warm_passive(b)
    trace = [outcome(read_exactly, b, 4)]
    me = os.getpid()
    killer = child(lambda: (wait_asleep(me), os.kill(pid, signal.SIGKILL)))
    trace.append(outcome(b.recv, 1))
    return trace + [status_of(pid), status_of(killer)]


if __name__ == "__main__":
    run()
