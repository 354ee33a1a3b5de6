"""The stream model: what both ends of a connection do, step by step, made from a seed.

Both actors make the same script and keep in step by a barrier after each step, so that what a call must return is known from
the bytes in flight. Nothing random is decided while a case runs.
"""
import random

SEND_STYLES = ("send", "sendall", "sendmsg", "write", "writev", "dontwait", "more", "nosignal", "sendfile", "pwritev2")
RECEIVE_STYLES = ("recv", "recv_into", "recvmsg", "read", "readv", "waitall", "dontwait", "peek_first", "truncate", "preadv2", "limited")
WAITERS = ("poll", "select", "epoll_level", "epoll_edge", "epoll_oneshot", "epoll_fresh")
HOSTS = ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "::1")
ENDINGS = ("client_shuts", "server_shuts", "both_shut", "client_closes", "server_closes", "read_shut")
# Bytes that may lie in flight while nobody reads: far below what both TCP's buffers and the first ring hold.
IN_FLIGHT = 12000


class Script:
    """`steps`: (operation, arguments) pairs. Direction d is written by actor d: 0 the client, 1 the server."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.host = self.random.choice(HOSTS)
        self.in_flight = [0, 0]
        self.non_blocking = [False, False]
        self.forks = [0, 0]
        self.is_small = self.random.random() < 0.3
        self.steps = []
        for _ in range(self.random.randrange(4, 16)):
            self.add()
        self.end()

    def size(self, most=300000):
        """Mostly small: what goes wrong goes wrong at edges."""
        kind = self.random.random()
        if kind < 0.35 or self.is_small:
            return min(most, self.random.randrange(0, 40))
        if kind < 0.6:
            return min(most, self.random.randrange(1, 5000))
        if kind < 0.75:
            return min(most, self.random.choice((4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537)))
        return self.random.randrange(1, most)

    def chunks(self, total):
        """Sizes of the single calls that move `total` bytes; a zero-length call among them now and then."""
        result = []
        typical = self.random.choice((1, 7, 100, 1000, 4096, 16384, 65536, 300000))
        typical = max(typical, total // 60)
        while total > 0:
            piece = min(total, self.random.randrange(1, 2 * typical))
            if self.random.random() < 0.03:
                result.append(0)
            result.append(piece)
            total -= piece
        return result or [0]

    def styles(self):
        pick = self.random.choice
        return {"send": pick(SEND_STYLES), "receive": pick(RECEIVE_STYLES), "send_wait": pick(WAITERS), "receive_wait": pick(WAITERS)}

    def add(self):
        name = self.random.choices(
            ("transfer", "duplex", "burst", "peek", "exact", "nothing", "toggle", "dup", "zero", "late", "queued", "ready", "fork", "names"),
            (24, 8, 14, 8, 8, 8, 6, 4, 3, 6, 5, 6, 1.5, 1))[0]
        direction = self.random.randrange(2)
        step = getattr(self, "make_" + name)(direction)
        if step is not None:
            self.steps.append((name, dict(step, direction=direction)))

    def make_transfer(self, d):
        total = self.size()
        leave = min(total, IN_FLIGHT, self.random.choice((0, 0, 0, 1, 100, 5000)))
        take = self.in_flight[d] + total - leave
        self.in_flight[d] = leave
        return dict(self.styles(), chunks=self.chunks(total), take=self.chunks(take), count=take)

    def make_duplex(self, d):
        totals = [self.size(), self.size()]
        step = dict(sends=[self.chunks(t) for t in totals], takes=[self.in_flight[i] + totals[i] for i in (0, 1)],
                    wait=self.random.choice(WAITERS), size=self.random.choice((100, 5000, 70000)))
        self.in_flight = [0, 0]
        return step

    def make_burst(self, d):
        total = self.size(3000)
        if self.in_flight[d] + total > IN_FLIGHT:
            return None
        self.in_flight[d] += total
        return dict(self.styles(), chunks=self.chunks(total))

    def make_peek(self, d):
        if not self.in_flight[d]:
            return None
        return dict(count=self.random.randrange(1, self.in_flight[d] + 1), all=self.random.random() < 0.4, available=self.in_flight[d])

    def make_exact(self, d):
        """Everything in flight has arrived: what one receive returns is determined."""
        if not self.in_flight[d]:
            return None
        available = self.in_flight[d]
        count = self.random.choice((1, available, available + 100, self.random.randrange(1, available + 1)))
        self.in_flight[d] -= min(count, available)
        return dict(count=count, available=available, call=self.random.choice(("recv", "read", "recvmsg", "dontwait")))

    def make_nothing(self, d):
        """Nothing to receive: EAGAIN in all its forms, and no readiness."""
        if self.in_flight[d]:
            return None
        return dict(how=self.random.choice(("dontwait", "limited", "toggle", "peek", "waiters")))

    def make_toggle(self, d):
        self.non_blocking[d] = not self.non_blocking[d]
        return dict(on=self.non_blocking[d], how=self.random.choice(("fcntl", "ioctl")))

    def make_dup(self, d):
        return dict(how=self.random.choice(("dup", "dup2", "dup3", "fcntl")))

    def make_zero(self, d):
        return dict(style=self.random.choice(("send", "write", "sendmsg")))

    def make_late(self, d):
        """The receiver sleeps first, then the bytes come."""
        if self.in_flight[d]:
            return None
        return dict(count=self.random.choice((1, 10, 3000)), wait=self.random.choice(WAITERS + ("recv", "waitall")))

    def make_queued(self, d):
        return dict(available=self.in_flight[d])

    def make_ready(self, d):
        if not self.in_flight[d]:
            return None
        return dict(wait=self.random.choice(WAITERS))

    def make_fork(self, d):
        """Actor d forks; the child goes on for some steps while the parent waits for it."""
        return dict(steps=self.random.randrange(1, 5))

    def make_names(self, d):
        return dict()

    def end(self):
        self.steps.append(("end", dict(how=self.random.choice(ENDINGS), direction=0, in_flight=list(self.in_flight))))
