"""What the test programs share: connected pairs, forcing a switch-over, and the kernel's own byte counts.

The programs are ordinary socket programs. They learn only one thing from their environment: MODEL_SWITCHED=1 says that a
switch-over is expected, so that a connection which stays on TCP makes the test fail instead of passing for nothing.
"""
import errno
import fcntl
import hashlib
import os
import select
import socket
import struct
import termios
import time

SWITCHED = os.environ.get("MODEL_SWITCHED") == "1"
DEADLINE = 30.0

# Offsets in struct tcp_info, linux/tcp.h.
TCP_INFO_RECEIVED, TCP_INFO_NOT_SENT, TCP_INFO_SENT = 128, 144, 200


def kernel_bytes(sock):
    """Bytes that TCP itself was given to send, and has received, on this socket."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    (received,) = struct.unpack_from("Q", info, TCP_INFO_RECEIVED)
    (waiting,) = struct.unpack_from("I", info, TCP_INFO_NOT_SENT)
    sent, again = struct.unpack_from("QQ", info, TCP_INFO_SENT)
    return sent - again + waiting, received


def listener(host="127.0.0.1", backlog=128, port=0, reuse_port=False):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen(backlog)
    return sock


def connect(address, no_delay=True):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.connect(address)
    if no_delay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def accept(listening, no_delay=True):
    sock, _ = listening.accept()
    if no_delay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def cold_pair(host="127.0.0.1"):
    """A connected pair (client, server) in this process, with nothing sent yet."""
    listening = listener(host)
    client = connect(listening.getsockname())
    server = accept(listening)
    # The listener stays open as long as its sockets: closing it would close its rendezvous.
    KEEP.append(listening)
    return client, server


KEEP = []


def pair(host="127.0.0.1"):
    """A connected pair in this process that has switched over in both directions."""
    client, server = cold_pair(host)
    warm(client, server)
    return client, server


def read_exactly(sock, count):
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 20))
        if not part:
            raise EOFError("the stream ended early")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class Standstill:
    """Sees when ping-pongs have stopped to move the kernel's counters of a socket."""

    def __init__(self, sock):
        self.sock, self.last, self.still, self.rounds = sock, None, 0, 0
        self.end = time.monotonic() + DEADLINE

    def reached(self):
        now = kernel_bytes(self.sock)
        self.still = self.still + 1 if now == self.last else 0
        self.last = now
        self.rounds += 1
        if not SWITCHED:
            return self.rounds >= 12
        if time.monotonic() > self.end:
            raise AssertionError("no switch-over within %d ping-pongs" % self.rounds)
        return self.still >= 2


def warm(one, other):
    """Ping-pongs between two sockets of this process until both directions have left TCP."""
    progress = Standstill(one)
    while not progress.reached():
        one.sendall(b"p")
        read_exactly(other, 1)
        other.sendall(b"q")
        read_exactly(one, 1)


def warm_active(sock):
    """The side that decides when a pair in two processes is warm; the peer runs warm_passive."""
    progress = Standstill(sock)
    while not progress.reached():
        sock.sendall(b"p")
        read_exactly(sock, 1)
    sock.sendall(b"!")
    read_exactly(sock, 1)


def warm_passive(sock):
    while True:
        byte = read_exactly(sock, 1)
        sock.sendall(byte)
        if byte == b"!":
            return


def outcome(call, *arguments):
    """What a call gave, in a form that two runs can compare: its value, or the name of its errno."""
    try:
        return show(call(*arguments))
    except OSError as error:
        return errno.errorcode.get(error.errno, "timed out" if isinstance(error, TimeoutError) else str(error))


def show(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        if len(value) <= 32:
            return value.decode("latin-1")
        return "%d bytes, %s" % (len(value), hashlib.sha256(value).hexdigest()[:12])
    if isinstance(value, (tuple, list)):
        return [show(item) for item in value]
    return value


def pattern(count, start=0):
    """Bytes that depend on their position, with a period prime to every ring size."""
    block = bytes((i * 7 + (i >> 5)) % 251 for i in range(4099))
    start %= len(block)
    return (block * ((start + count) // len(block) + 1))[start:start + count]


def wait_until(condition, what="the condition"):
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain for " + what)
        time.sleep(0.0005)


def waiting_bytes(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))[0]


def wait_readable(sock, count):
    """Until `count` bytes can be read: data on loopback may take a moment."""
    wait_until(lambda: waiting_bytes(sock) >= count, "%d readable bytes" % count)


def poll_events(sock, events=0xffff, timeout=0):
    """revents of one descriptor, all flags asked for that sockets have."""
    poller = select.poll()
    poller.register(sock, POLL_ALL & events)
    return flags_of(poller.poll(timeout), POLL_NAMES)


POLL_NAMES = {name: getattr(select, name) for name in ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLRDHUP")}
POLL_ALL = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP
EPOLL_NAMES = {name: getattr(select, name) for name in
               ("EPOLLIN", "EPOLLPRI", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP")}


def flags_of(events, names):
    value = 0
    for _, bits in events:
        value |= bits
    return sorted(name for name, bit in names.items() if value & bit)


def task_state(pid, tid=None):
    """The one-letter scheduler state of a thread, and the system call it is in (-1: none)."""
    with open("/proc/%d/task/%d/stat" % (pid, tid or pid)) as stat:
        return stat.read().rpartition(")")[2].split()[0]


def wait_asleep(pid, tid=None):
    """Until a thread sleeps for some time without waking: it is inside its blocking call."""
    seen = 0
    end = time.monotonic() + DEADLINE
    while seen < 5:
        seen = seen + 1 if task_state(pid, tid) == "S" else 0
        if time.monotonic() > end:
            raise AssertionError("thread does not sleep")
        time.sleep(0.001)


def fill(sock):
    """Sends to a non-blocking socket until it takes no more; how many bytes it took."""
    total, still = 0, 0
    while still < 3:  # TCP goes on taking a little while the receiver's window opens
        try:
            total += sock.send(pattern(65536, total))
            still = 0
        except BlockingIOError:
            still += 1
            time.sleep(0.002)
    return total


def drain_all(sock, count):
    while count:
        count -= len(read_exactly(sock, min(count, 1 << 18)))


def queue_is_empty(sock):
    """Until everything sent is taken, and acknowledged."""
    wait_until(lambda: struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0] == 0, "an empty send queue")
