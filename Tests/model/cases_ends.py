"""EPOLLRDHUP, HUP, ERR and the rest at both ends, in each order of ending a connection. Run by test_readiness.py."""
import select
import socket
import struct
import time

from endpoint import EPOLL_NAMES, outcome, pair, pattern, read_exactly, wait_readable, wait_until
from runner import case, run

# What each letter does: to a, to b likewise in capitals.
#   s, S  shutdown for writing      c, C  close        l, L  close with a reset (SO_LINGER 0)
#   w, W  send 10 bytes             r, R  read all there is, to the end if it is there
#   d, D  shutdown for reading      b, B  shutdown of both directions
ORDERS = ["sS", "Ss", "sC", "Sc", "c", "C", "sRS", "SrS", "sRCr", "swScr", "WSr", "Wsr", "WsCr", "WCr", "WCrr", "wScR", "l", "L", "Wl",
          "WL", "WLr", "Wc", "Wsc", "wWc", "sl", "sL", "Sl", "WSL", "d", "D", "dW", "dWr", "dC", "dWC", "ds", "sd", "b", "B", "bB", "bC",
          "bc", "Wb", "WbS", "WBr", "wWsSrR", "sSRr", "cW", "cWW", "sSc", "SsC", "dDc", "wSRs", "swR"]
# Here TCP has an edge that changes nothing: its FIN is acknowledged late, together with bytes that the companion did not carry.
# Or the switch has one: a send after one's own shutdown returns the direction to TCP, and a change of path is told once more.
# Or the companion's end, which comes with a close, falls together with TCP's: one edge more or less that changes nothing.
INEXACT = ["WSr", "WBr", "swScr", "swR", "bc", "bC"]


class End:
    """One end of the connection, watched level-triggered and edge-triggered."""

    def __init__(self, sock, is_exact):
        self.sock, self.open, self.is_exact = sock, True, is_exact
        self.level, self.edge = select.epoll(), select.epoll()
        bits = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI
        self.level.register(sock, bits)
        self.edge.register(sock, bits | select.EPOLLET)
        self.edge.poll(0)
        self.last = self.named(self.level)

    def flags(self):
        """What both report now, the edge until it is used up. Where edges are not exact: the level, and what is wrong with the
        edge: a change must be told, with all flags, and fetching must use it up."""
        level, edges = self.named(self.level), [self.named(self.edge) for _ in range(3)]
        if self.is_exact:
            return [level] + edges
        if set(level) - set(self.last) and edges[0] != level:
            level.append("change told as %s" % edges[0])
        if edges[2]:
            level.append("edge told again and again")
        self.last = level
        return level

    @staticmethod
    def named(watch):
        found = watch.poll(0)
        return sorted(name for name, bit in EPOLL_NAMES.items() if found and found[0][1] & bit)

    def has(self, *names):
        found = self.level.poll(0)
        return bool(found) and any(found[0][1] & EPOLL_NAMES[name] for name in names)


def act(letter, near, far):
    """One step; returns what its call gave, once the other end has seen it."""
    sock = near.sock
    if letter == "r":
        return outcome(read_all, sock)
    if letter == "w":
        result = outcome(sock.send, pattern(10), socket.MSG_NOSIGNAL)
        if far.open and result == 10 and not far.has("EPOLLHUP", "EPOLLERR"):
            wait_readable(far.sock, 10)
        elif not far.open:
            wait_until(lambda: near.has("EPOLLERR", "EPOLLHUP"), "the reset")
        return result
    if letter in "sdb":
        how = {"s": socket.SHUT_WR, "d": socket.SHUT_RD, "b": socket.SHUT_RDWR}[letter]
        result = outcome(sock.shutdown, how)
        if letter == "d":
            return result
    else:
        if letter == "l":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        result, near.open = outcome(sock.close), False
    if far.open:
        wait_until(lambda: far.has("EPOLLRDHUP", "EPOLLERR", "EPOLLHUP"), "the end")
    if near.open and letter == "l":
        wait_until(lambda: near.has("EPOLLERR"), "the reset")
    return result


def read_all(sock):
    sock.setblocking(False)
    parts = []
    try:
        while True:
            part = sock.recv(100)
            parts.append(part.decode("latin-1"))
            if not part:
                return parts
    except BlockingIOError:
        return parts + ["more later"]


def ending(order):
    a, b = [End(sock, order not in INEXACT) for sock in pair()]
    trace = []
    for letter in order:
        near, far = (b, a) if letter.isupper() else (a, b)
        if not near.open:
            continue
        trace.append([letter, act(letter.lower(), near, far)])
        # TCP's own acknowledgements are edges as well: late ones would come by themselves, at a time that differs from run to run.
        time.sleep(0.002)
        for name, end in (("a", a), ("b", b)):
            trace.append([name, end.flags() if end.open else [bool(end.level.poll(0)), bool(end.edge.poll(0))]])
    return trace


def register(order):
    def body():
        return ending(order)
    body.__name__ = "order_" + "".join("b" + c.lower() if c.isupper() else "a" + c for c in order)
    case(body)


for each in ORDERS:
    register(each)


if __name__ == "__main__":
    run()
