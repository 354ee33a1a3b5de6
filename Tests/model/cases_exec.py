"""Connections handed to other programs and processes: exec, inherited, hidden and passed descriptors. Run by test_processes.py."""
import os
import socket
import subprocess
import sys

from endpoint import outcome, pair, pattern, read_exactly, wait_readable, warm
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


def spawn(command, sock, **names):
    """A helper program that has the socket as its standard input and output, as inetd starts them."""
    return subprocess.Popen(command, stdin=sock.fileno(), stdout=sock.fileno(), **names)


@case
def helper_program_on_a_session():
    a, b = pair()
    helper = spawn(["/bin/cat"], b)
    b.close()
    trace = []
    for size in (5, 4000, 100000):
        sent = pattern(size, size)
        pid = child(a.sendall, sent)
        trace += [read_exactly(a, size) == sent, status_of(pid)]
    a.shutdown(socket.SHUT_WR)
    return trace + [outcome(a.recv, 1), helper.wait()]


@case
def helper_program_replaces_the_process():
    """exec in the process that has used the session, without a fork in between."""
    a, b = pair()

    def become():
        os.dup2(b.fileno(), 0)
        os.dup2(b.fileno(), 1)
        a.close()
        b.sendall(b"before ")
        os.execv("/bin/sh", ["sh", "-c", "read line; echo \"got $line\"; read line; echo \"and $line\""])
    pid = child(become)
    b.close()
    trace = [outcome(read_exactly, a, 7)]
    a.sendall(b"one\n")
    trace.append(outcome(read_exactly, a, 8))
    a.sendall(b"two\n")
    return trace + [outcome(read_exactly, a, 8), outcome(a.recv, 1), status_of(pid)]


@case
def helper_program_gets_bytes_that_were_waiting():
    """Sent before the exec, not read by the program that exec'ed: they belong to the helper."""
    a, b = pair()
    a.sendall(b"waiting\n")
    wait_readable(b, 8)
    helper = spawn(["/bin/cat"], b)
    b.close()
    a.sendall(b"later\n")
    trace = [outcome(read_exactly, a, 14)]
    a.shutdown(socket.SHUT_WR)
    return trace + [outcome(a.recv, 1), helper.wait()]


@case
def close_on_exec_closes():
    a, b = pair()
    helper = subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE)
    b.close()
    trace = [outcome(a.recv, 1)]
    helper.communicate(b"\n")
    return trace


@case
def exec_of_another_program_leaves_the_parents_session_alone():
    a, b = pair()
    trace = []
    for _ in range(3):
        subprocess.run(["/bin/true"], check=True)
        a.sendall(pattern(3000))
        trace.append(outcome(read_exactly, b, 3000))
    return trace


@case
def descriptor_passed_to_another_process():
    """SCM_RIGHTS over a Unix socket, then used at the other end and here no more."""
    a, b = pair()
    near, far = socket.socketpair()

    def receiver():
        a.close()
        b.close()
        near.close()
        _, fds, _, _ = socket.recv_fds(far, 10, 1)
        got = socket.socket(fileno=fds[0])
        got.sendall(b"passed ")
        got.sendall(read_exactly(got, 5)[::-1])
    # Forked before the pair is warm would be simpler for the switch; this is the hard order.
    pid = child(receiver)
    socket.send_fds(near, [b"x"], [b.fileno()])
    b.close()
    a.sendall(b"abcde")
    trace = [outcome(read_exactly, a, 12), status_of(pid)]
    return trace + [outcome(a.recv, 1)]


@case
def hidden_descriptors_are_not_there():
    a, b = pair()
    before = set(map(int, os.listdir("/proc/self/fd")))
    open_ones = [fd for fd in range(0, 1024) if outcome(os.fstat, fd) != "EBADF"]
    spare = os.open("/dev/null", os.O_RDONLY)
    os.close(spare)
    return [len([fd for fd in open_ones if fd < 64]), spare]


if __name__ == "__main__":
    run()
