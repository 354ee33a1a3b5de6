"""The session protocol spoken by hand, without the library: what a peer that means harm can send. Used by attacks.py.

docs/protocol.md, Sources/Wire/Message.swift and Sources/Switch/Session/Inbox.swift describe what is built here.
"""
import fcntl
import mmap
import os
import random
import socket
import struct
import time

from endpoint import read_exactly, wait_until

MAGIC, VERSION, SIZE = 0x53575301, 1, 144
PROPOSAL, CLAIM, GRANT, ACCEPTANCE = 1, 2, 3, 4
HEADER, SMALL, LARGE = 4096, 4096, 1 << 20
EXPOSED = HEADER + SMALL + LARGE
# Offsets in an inbox.
PRODUCED, OVER, BACK, SHAPE, FINISHED, PROCESSOR = 0, 8, 16, 24, 32, 36
CONSUMED, ACCEPTED, WISH, RECEIVER_ASLEEP, SENDER_ASLEEP = 128, 136, 144, 152, 256
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16
USUAL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL


def mapped(address):
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address[0])


def name(address):
    return b"\0sanswitch/tcp/%04x" % address[1] + mapped(address).hex().encode()


def turn(offset, epoch):
    """The word for a place where a direction changes its path."""
    return (offset & (1 << 48) - 1) << 16 | epoch


def message(kind, local, peer, nonce=b"n" * 16, ring=LARGE, exposed=EXPOSED, length=8, magic=MAGIC, version=VERSION):
    """One negotiation message; every field may be made wrong."""
    text = struct.pack("<IBBBxHHxxxx", magic, version, kind, length, local[1], peer[1])
    text += mapped(local) + mapped(peer) + nonce + struct.pack("<QQ", ring, exposed)
    return text.ljust(SIZE, b"\0")


def memory(size=EXPOSED, seals=USUAL_SEALS):
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def visit(address):
    """A connection to the rendezvous of a TCP address."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(name(address))
    return sock


class Connection:
    """A TCP connection to an echo server under the library, whose client end is this file."""

    def __init__(self, address):
        self.address = address
        self.tcp = socket.create_connection(address, 10)
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.received = 0
        self.companion = None

    @property
    def local(self):
        return self.tcp.getsockname()

    def say(self, data):
        self.tcp.sendall(data)
        self.sent += len(data)

    def hear(self, count):
        self.received += count
        return read_exactly(self.tcp, count)

    def echo(self, data=b"by TCP"):
        self.say(data)
        got = self.hear(len(data))
        assert got == data, got

    def propose(self, *fds, **fields):
        """A proposal, with these descriptors beside it, after enough echoes for the server to look for one."""
        for _ in range(4):
            self.echo()
        self.companion = visit(self.address)
        socket.send_fds(self.companion, [message(PROPOSAL, self.local, self.address, **fields)], fds)

    def refused(self):
        """Echoes on TCP until the companion is closed, or was accepted: then False."""
        self.companion.setblocking(False)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            self.echo()
            try:
                if not self.companion.recv(SIZE, socket.MSG_PEEK):
                    return True
                return False
            except BlockingIOError:
                time.sleep(0.001)
            except ConnectionResetError:
                return True
        return False

    def attach(self):
        """Becomes a peer: `mine` is what the victim writes, `theirs` what this end writes."""
        fd = memory()
        self.mine = mmap.mmap(fd, EXPOSED)
        self.propose(fd)
        assert not self.refused(), "an honest proposal was refused"
        text, fds, _, _ = socket.recv_fds(self.companion, SIZE, 1)
        assert len(text) == SIZE and text[5] == ACCEPTANCE and len(fds) == 1, text
        self.theirs = mmap.mmap(fds[0], EXPOSED)
        os.close(fd)
        os.close(fds[0])
        return self

    # Words, as the machine has them.
    def put(self, where, offset, value, form="Q"):
        struct.pack_into(form, where, offset, value & (1 << 8 * struct.calcsize(form)) - 1)

    def get(self, where, offset, form="Q"):
        return struct.unpack_from(form, where, offset)[0]

    def ring(self):
        try:
            self.companion.send(b"\1", socket.MSG_DONTWAIT)
        except OSError:
            pass

    def switch(self):
        """Both directions leave TCP, as honest peers do it."""
        self.go_over()
        self.follow()
        self.ring_echo(b"by the ring")
        return self

    def go_over(self):
        """What this end sends travels in the ring from now on."""
        for self.epoch in range(1, 200):
            over = turn(self.sent + 6, self.epoch)
            self.put(self.theirs, OVER, over)
            self.echo()
            if self.get(self.mine, ACCEPTED) == over:
                break
            self.put(self.theirs, BACK, over)
        else:
            raise AssertionError("not accepted")
        self.put(self.theirs, SHAPE, self.sent << 1)
        self.put(self.theirs, PRODUCED, self.sent)

    def follow(self):
        """What the victim sends travels in the ring from its next announcement on."""
        for _ in range(200):
            self.ring_say(b"a word")
            self.hear(6)
            over = self.get(self.mine, OVER)
            if over == turn(self.received, over & 0xffff):
                self.put(self.theirs, CONSUMED, self.received)
                self.put(self.theirs, ACCEPTED, over)
                return
        raise AssertionError("nothing announced")

    def ring_say(self, data):
        for place, byte in enumerate(data):
            self.theirs[HEADER + (self.sent + place) % SMALL] = byte
        self.sent += len(data)
        self.put(self.theirs, PRODUCED, self.sent)
        self.ring()

    def ring_hear(self, count):
        wait_until(lambda: self.get(self.mine, PRODUCED) - self.received >= count, "an answer in the ring")
        data = bytes(self.mine[HEADER + (self.received + place) % SMALL] for place in range(count))
        self.received += count
        self.put(self.theirs, CONSUMED, self.received)
        return data

    def ring_echo(self, data):
        self.ring_say(data)
        got = self.ring_hear(len(data))
        assert got == data, got

    def close(self):
        for each in (self.tcp, self.companion):
            if each:
                each.close()


def scribble(connection, seconds, seed):
    """Random words all over both memories, mostly where the cursors are, with doorbells."""
    chance = random.Random(seed)
    places = [PRODUCED, OVER, BACK, SHAPE, FINISHED, CONSUMED, ACCEPTED, WISH, RECEIVER_ASLEEP, SENDER_ASLEEP]
    # A reader is only as hostile as its guesses are good: near the true cursors, at the limits, and anywhere.
    values = [lambda: chance.getrandbits(64), lambda: connection.sent + chance.randrange(-9000, 9000), lambda: chance.randrange(4),
              lambda: connection.received + chance.randrange(-9000, 9000), lambda: turn(connection.sent + chance.randrange(-9, 9), chance.randrange(4)), lambda: connection.get(connection.mine, OVER),
              lambda: turn(connection.received + chance.randrange(-9, 9), connection.get(connection.mine, OVER) & 0xffff), lambda: (1 << 64) - 1]
    # Never waits: a time limit would be Python's own poll before the call, in spite of MSG_DONTWAIT.
    connection.tcp.setblocking(False)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(50):
            where = connection.theirs if chance.random() < 0.7 else connection.mine
            if chance.random() < 0.8:
                connection.put(where, chance.choice(places), chance.choice(values)())
            else:
                connection.put(where, chance.randrange(EXPOSED - 8), chance.getrandbits(64))
        connection.ring()
        try:
            connection.tcp.send(b"noise", socket.MSG_DONTWAIT)
            connection.tcp.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            return  # the victim has had enough of it
