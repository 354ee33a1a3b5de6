"""Ways to wait for one socket. Each must return once the socket is ready, however the bytes come."""
import select

from endpoint import DEADLINE


class Waiters:
    """The epoll sets are made on first use and live as long as the descriptor, so they see the switch-over pass."""

    def __init__(self, sock):
        self.fd = sock.fileno()
        self.sets = {}

    def close(self):
        for one in self.sets.values():
            one.close()
        self.sets = {}

    def epoll(self, kind, events):
        """The set of this kind for one direction, and whether it has just been made."""
        key = kind, events
        if key in self.sets:
            return self.sets[key], False
        mode = {"level": 0, "edge": select.EPOLLET, "oneshot": select.EPOLLONESHOT}[kind]
        self.sets[key] = select.epoll()
        self.sets[key].register(self.fd, events | mode)
        return self.sets[key], True

    def wait(self, kind, events, timeout=DEADLINE):
        """Until the socket is ready for `events` (POLLIN or POLLOUT), or may be: edges tell of the past too."""
        if not self.happens(kind, events, timeout):
            raise AssertionError("%s: no %s within %d s" % (kind, "POLLIN" if events == select.POLLIN else "POLLOUT", timeout))

    def happens(self, kind, events, timeout):
        if kind == "poll":
            poller = select.poll()
            poller.register(self.fd, events)
            return poller.poll(timeout * 1000)
        if kind == "select":
            reads, writes = ([self.fd], []) if events == select.POLLIN else ([], [self.fd])
            return any(select.select(reads, writes, [], timeout))
        if kind == "epoll_fresh":
            with select.epoll() as fresh:
                fresh.register(self.fd, events | select.EPOLLET)
                return fresh.poll(timeout)
        kind = kind[len("epoll_"):]
        found, is_new = self.epoll(kind, events)
        if kind == "oneshot" and not is_new:
            found.modify(self.fd, events | select.EPOLLONESHOT)
        return found.poll(timeout)
