"""Two programs for test_hostile.py, both run under the library.

victim.py serve threads|epoll     an echo server on a free port, which it prints; ends with its standard input
victim.py use PORT                an honest client: switches over, checks its echoes until its standard input ends
"""
import os
import select
import socket
import sys
import threading

from endpoint import connect, listener, pattern, read_exactly, warm_active


def echo(sock):
    try:
        while data := sock.recv(1 << 16):
            sock.sendall(data)
    except OSError:
        pass
    sock.close()


def by_threads(listening):
    while True:
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=echo, args=(sock,), daemon=True).start()


class Guest:
    """A connection of the epoll server: what it has yet to be sent."""

    def __init__(self, sock):
        self.sock, self.owed = sock, b""

    def serve(self):
        """Answers what is there; the events to wait for, None when it is over."""
        try:
            while len(self.owed) < 1 << 20:
                data = self.sock.recv(1 << 16)
                if not data:
                    return None
                self.owed += data
        except BlockingIOError:
            pass
        except OSError:
            return None
        try:
            while self.owed:
                self.owed = self.owed[self.sock.send(self.owed):]
        except BlockingIOError:
            return select.EPOLLIN | select.EPOLLOUT
        except OSError:
            return None
        return select.EPOLLIN


def by_epoll(listening):
    epoll, guests = select.epoll(), {}
    epoll.register(listening, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == listening.fileno():
                sock, _ = listening.accept()
                sock.setblocking(False)
                guests[sock.fileno()] = Guest(sock)
                epoll.register(sock, select.EPOLLIN)
                continue
            events = guests[fd].serve()
            if events is None:
                guests.pop(fd).sock.close()
            else:
                epoll.modify(fd, events)


def use(port):
    sock = connect(("127.0.0.1", port))
    warm_active(sock)
    print("switched", flush=True)
    rounds = 0
    while True:
        for size in (1, 300, 5000, 70000):
            data = pattern(size, rounds)
            sock.sendall(data)
            assert read_exactly(sock, size) == data, "another echo"
            rounds += 1
        if select.select([0], [], [], 0.001)[0]:
            break
    print(rounds, flush=True)


def main():
    if sys.argv[1] == "use":
        return use(int(sys.argv[2]))
    listening = listener()
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
    (by_threads if sys.argv[2] == "threads" else by_epoll)(listening)


if __name__ == "__main__":
    main()
