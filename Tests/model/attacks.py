"""What test_hostile.py does to a server: each attack takes the server's address and asserts what the attacker may get."""
import contextlib
import os
import random
import socket
import tempfile
import time

import hostile
from hostile import (ACCEPTANCE, ACCEPTED, BACK, CLAIM, CONSUMED, EXPOSED, FINISHED, GRANT, LARGE, OVER, PRODUCED, PROPOSAL,
                     RECEIVER_ASLEEP, SENDER_ASLEEP, SHAPE, SIZE, WISH, Connection, memory, message, turn, visit)

ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def is_sent_away(sock):
    """The server closes this visit by itself."""
    try:
        return sock.recv(SIZE) == b""
    except ConnectionResetError:
        return True


@attack
def garbage(address):
    chance = random.Random(1)
    here = ("127.0.0.1", 9)
    wrong = [chance.randbytes(SIZE) for _ in range(20)] + [b"\0" * SIZE, b"\xff" * SIZE]
    wrong += [message(kind, here, address) for kind in (0, GRANT, ACCEPTANCE, 5, 255)]
    wrong += [message(PROPOSAL, here, address, magic=1), message(PROPOSAL, here, address, version=2), message(PROPOSAL, here, address, length=33)]
    wrong += [message(PROPOSAL, here, address, ring=ring) for ring in (0, 1, 4095, 4097, 3 << 18, LARGE * 2, 1 << 40, 1 << 63)]
    wrong.append(message(CLAIM, here, address))  # a claim has no ring
    for text in wrong:
        sock = visit(address)
        sock.sendall(text)
        assert is_sent_away(sock), "not refused: %r" % text[:16]


@attack
def cut_messages(address):
    for length in (0, 1, 7, 64, 143):
        sock = visit(address)
        sock.sendall(message(PROPOSAL, ("127.0.0.1", 9), address)[:length])
        sock.close()
    fd = memory()
    sock = visit(address)
    socket.send_fds(sock, [b"cut"], [fd, fd, fd])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # sent away already
        socket.send_fds(sock, [b"x" * (SIZE - 3)], [fd, fd])
    assert is_sent_away(sock)
    os.close(fd)


@attack
def messages_in_pieces(address):
    """A message comes by one call or not at all: whoever sends pieces is sent away, and the connection goes on by TCP."""
    connection = Connection(address)
    for _ in range(4):
        connection.echo()
    connection.companion = visit(address)
    fd = memory()
    text = message(PROPOSAL, connection.local, address)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for place in range(0, SIZE, 48):
            connection.companion.sendall(text[place:place + 48])
            time.sleep(0.01)
    assert is_sent_away(connection.companion)
    connection.echo()
    connection.close()
    os.close(fd)


@attack
def visitors_that_stay(address):
    visitors = [visit(address) for _ in range(500)]
    for number, sock in enumerate(visitors):
        sock.send(message(PROPOSAL, ("127.0.0.1", 1 + number), address)[:144 if number % 2 else 1])
    connection = Connection(address)
    for _ in range(50):
        connection.echo()
    for sock in visitors:
        sock.close()
    connection.close()


@attack
def flood_of_messages(address):
    connection = Connection(address)
    fd = memory()
    connection.propose(fd)
    connection.companion.setblocking(False)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            socket.send_fds(connection.companion, [message(PROPOSAL, connection.local, address)], [fd, fd])
        except OSError:
            connection.companion.close()
            connection.companion = visit(address)
            connection.companion.setblocking(False)
    connection.close()
    os.close(fd)


def refuse(address, *fds, **fields):
    connection = Connection(address)
    connection.propose(*fds, **fields)
    assert connection.refused(), "accepted: %s %s" % (fds, fields)
    connection.echo()
    connection.close()
    for fd in fds:
        os.close(fd)


@attack
def wrong_memory(address):
    refuse(address)
    refuse(address, memory(seals=0))
    refuse(address, memory(seals=hostile.USUAL_SEALS | hostile.F_SEAL_WRITE))
    refuse(address, memory(seals=hostile.USUAL_SEALS | hostile.F_SEAL_FUTURE_WRITE))
    refuse(address, memory(size=EXPOSED - 1))
    refuse(address, memory(), length=0)
    refuse(address, os.open("/dev/zero", os.O_RDWR))
    refuse(address, os.eventfd(0))
    with tempfile.TemporaryFile() as file:
        file.truncate(EXPOSED)
        refuse(address, os.dup(file.fileno()))
    refuse(address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(), os.eventfd(0))


@attack
def more_descriptors_than_asked_for(address):
    for count in (2, 3, 4, 5, 50, 250):
        connection = Connection(address)
        fd = memory()
        connection.propose(*[fd] * count)
        connection.refused()
        connection.echo()
        connection.close()
        os.close(fd)


@attack
def wrong_connections(address):
    """Proposals and claims that name other connections than the attacker's: nobody answers."""
    for change in (lambda c: (("127.0.0.1", c.local[1] ^ 1), address), lambda c: (address, c.local), lambda c: (c.local, c.local),
                   lambda c: (("127.0.0.2", c.local[1]), address), lambda c: (c.local, ("127.0.0.1", address[1] ^ 1))):
        connection = Connection(address)
        for _ in range(4):
            connection.echo()
        connection.companion = visit(address)
        fd = memory()
        local, peer = change(connection)
        socket.send_fds(connection.companion, [message(PROPOSAL, local, peer)], [fd])
        for _ in range(50):
            connection.echo()
        connection.companion.setblocking(False)
        try:
            assert connection.companion.recv(SIZE) == b"", "somebody answered"
        except BlockingIOError:
            pass
        connection.close()
        os.close(fd)


# (where, offset, form, values): `s` and `r` are the true stream offsets of the attacker's two directions.
WORDS = [
    ("theirs", PRODUCED, "Q", lambda s, r: [s + LARGE * 2, s + (1 << 62), s - 1, 0, 1 << 63, (1 << 64) - 1, s + 8192 + LARGE]),
    ("theirs", CONSUMED, "Q", lambda s, r: [r + 1, r + (1 << 40), 0, (1 << 64) - 1, 1 << 63]),
    ("theirs", SHAPE, "Q", lambda s, r: [(1 << 64) - 1, 1, (s + 5) << 1, (s + 5) << 1 | 1, (s - 5) << 1 | 1]),
    ("theirs", OVER, "Q", lambda s, r: [0, 1, turn(s - 1, 3), turn(s + 6, 2), turn(s, 9), (1 << 64) - 1, turn(s + (1 << 47), 1), turn(s + (1 << 40), 1)]),
    ("theirs", BACK, "Q", lambda s, r: [1, turn(s, 1), turn(s - 9, 1), turn(s + 900, 1), turn(s + (1 << 46), 1), turn(s, 2), (1 << 64) - 1]),
    ("theirs", ACCEPTED, "Q", lambda s, r: [0, 1, turn(r, 1), turn(r + 6, 1), turn(r, 2), (1 << 64) - 1]),
    ("theirs", WISH, "Q", lambda s, r: [1, turn(r, 1), turn(r - 3, 1), turn(r + 3, 1), turn(r + (1 << 46), 1), turn(r, 2), (1 << 64) - 1]),
    ("mine", OVER, "Q", lambda s, r: [0, turn(r + 1, 1), (1 << 64) - 2]),
    ("mine", BACK, "Q", lambda s, r: [turn(r, 1), (1 << 64) - 2]),
    ("mine", PRODUCED, "Q", lambda s, r: [0, r - 1, r + 1, (1 << 64) - 1]),
    ("mine", SHAPE, "Q", lambda s, r: [(1 << 64) - 1]),
    ("theirs", FINISHED, "I", lambda s, r: [1, 0xffffffff]),
    ("theirs", RECEIVER_ASLEEP, "I", lambda s, r: [0xffffffff]),
    ("theirs", SENDER_ASLEEP, "I", lambda s, r: [0xffffffff]),
    ("mine", RECEIVER_ASLEEP, "I", lambda s, r: [0xffffffff]),
]


def impossible_words(address, switched):
    for where, offset, form, values in WORDS:
        for number in range(len(values(0, 0))):
            connection = Connection(address).attach()
            if switched:
                connection.switch()
            value = values(connection.sent, connection.received)[number]
            connection.put(getattr(connection, where), offset, value, form)
            connection.ring()
            # Both paths are used on, as if nothing had happened; what comes back does not matter.
            connection.tcp.settimeout(0.02)
            for _ in range(3):
                try:
                    connection.ring_say(b"more") if switched and where != "theirs" else connection.ring()
                    connection.tcp.sendall(b"more by TCP")
                    connection.tcp.recv(100)
                except OSError:
                    pass
            connection.close()


@attack
def impossible_words_before_the_switch_over(address):
    impossible_words(address, False)


@attack
def impossible_words_after_the_switch_over(address):
    impossible_words(address, True)


def flood_doorbells(address, switched):
    connection = Connection(address).attach()
    if switched:
        connection.switch()
    connection.companion.setblocking(False)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            connection.companion.send(b"\1" * 64)
        except BlockingIOError:
            time.sleep(0.0005)
    # Switched, the flood may leave the server's bell full, and then this peer's next ring is lost: by its own doing, as an honest
    # one rings once for each time it is asked to. That others are served is what test_hostile.py looks at.
    if not switched:
        connection.echo(b"still")
    connection.close()


@attack
def flood_of_doorbells(address):
    flood_doorbells(address, False)
    flood_doorbells(address, True)


@attack
def doorbells_with_descriptors(address):
    connection = Connection(address).attach().switch()
    fd = memory()
    for _ in range(100):
        socket.send_fds(connection.companion, [b"\1"], [fd] * 10)
        connection.ring_echo(b"on")
    connection.close()
    os.close(fd)


@attack
def companion_closed_midway(address):
    for step in range(8):
        connection = Connection(address).attach()
        if step % 2:
            connection.switch()
        if step & 4:
            connection.tcp.sendall(b"unread") if step % 2 == 0 else connection.ring_say(b"unread")
        if step & 2:
            connection.companion.shutdown(socket.SHUT_WR)
        else:
            connection.companion.close()
        connection.tcp.settimeout(0.1)
        try:
            connection.tcp.sendall(b"and on")
            connection.tcp.recv(100)
        except OSError:
            pass
        connection.close()


@attack
def acceptance_never_read(address):
    connections = []
    for _ in range(20):
        connection = Connection(address)
        fd = memory()
        connection.propose(fd)
        for _ in range(4):
            connection.echo()
        os.close(fd)
        connections.append(connection)
    for connection in connections:
        connection.echo()
        connection.close()


def scribbling(address, switched):
    for seed in range(6):
        connection = Connection(address).attach()
        if switched:
            connection.switch()
        hostile.scribble(connection, 0.4, seed)
        connection.close()


@attack
def scribbling_before_the_switch_over(address):
    scribbling(address, False)


@attack
def scribbling_after_the_switch_over(address):
    scribbling(address, True)
