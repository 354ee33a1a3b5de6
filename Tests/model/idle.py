"""200 idle connections between two processes: the processor time that each uses while it waits. Run by test_readiness.py."""
import json
import os
import resource
import select
import sys
import time

from endpoint import accept, connect, listener, read_exactly, warm_active, warm_passive

CONNECTIONS, SECONDS = 200, 2.0


def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def waiter(call, sockets):
    """One wait on all sockets, of at most the given seconds."""
    if call == "select":
        return lambda left: select.select(sockets, [], [], left)[0]
    poller = select.epoll() if call == "epoll" else select.poll()
    for sock in sockets:
        poller.register(sock, select.POLLIN)
    return (lambda left: poller.poll(left)) if call == "epoll" else (lambda left: poller.poll(left * 1000))


def idle(call, sockets):
    wait = waiter(call, sockets)
    # The last steps of the switch-over and the first look at the set are not idleness.
    assert not wait(0.2)
    begin, end = used(), time.monotonic() + SECONDS
    while (left := end - time.monotonic()) > 0:
        assert not wait(left), "an idle connection became ready"
    return used() - begin


def main():
    call = sys.argv[1]
    if call == "select":
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    listening = listener()
    result_read, result_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        sockets = [connect(listening.getsockname()) for _ in range(CONNECTIONS)]
        for sock in sockets:
            warm_active(sock)
        os.write(result_write, b"%f" % idle(call, sockets))
        # The server has measured when it closes its ends.
        read_end(sockets[0])
        os._exit(0)
    sockets = []
    for _ in range(CONNECTIONS):
        sockets.append(accept(listening))
    for sock in sockets:
        warm_passive(sock)
    mine = idle(call, sockets)
    theirs = float(os.read(result_read, 100))
    sockets[0].close()
    os.waitpid(pid, 0)
    print(json.dumps({"connections": CONNECTIONS, "server": mine, "client": theirs}))


def read_end(sock):
    try:
        read_exactly(sock, 1)
    except EOFError:
        pass


if __name__ == "__main__":
    main()
