"""One end of a connection in the stream model: does its part of each step of a script and checks what the calls return."""
import fcntl
import os
import select
import socket
import struct
import tempfile
import termios

from endpoint import kernel_bytes, wait_until, waiting_bytes
from stream_wait import Waiters

PERIOD = 1048573  # prime: a byte out of place is seen whatever the ring size
BLOCK = memoryview(__import__("random").Random(1).randbytes(PERIOD) * 2)
FILE = tempfile.TemporaryFile()
FILE.write(BLOCK)
FILE.flush()


def expected(direction, offset, count):
    """The bytes of a direction from a stream offset on."""
    start = (offset + 500009 * direction) % PERIOD
    return BLOCK[start:start + count]


class Actor:
    def __init__(self, sock, role, trace):
        self.sock, self.role, self.trace = sock, role, trace
        self.offset = [0, 0]  # of both directions, as far as this end has moved them
        self.is_blocking = True
        self.waiters = Waiters(sock)

    def note(self, *items):
        self.trace.append(items)

    def close(self):
        self.waiters.close()
        self.sock.close()

    # Sending

    def send_chunks(self, style, wait, chunks):
        total = sum(chunks)
        for index, chunk in enumerate(chunks):
            is_last = index == len(chunks) - 1
            self.send_all(style, wait, chunk, is_last)
        self.note("sent", total)

    def send_all(self, style, wait, count, is_last):
        done = 0
        while True:
            try:
                sent = self.send_once(style, count - done, is_last)
            except BlockingIOError:
                if self.is_blocking and style != "dontwait":
                    raise AssertionError("EAGAIN from a blocking send")
                self.waiters.wait(wait, select.POLLOUT)
                continue
            if not 0 <= sent <= count - done or (sent == 0 and count):
                raise AssertionError("sent %d of %d" % (sent, count - done))
            # A blocking send returns short only when a signal came in between.
            if self.is_blocking and style != "dontwait" and sent != count - done:
                raise AssertionError("blocking %s: %d of %d" % (style, sent, count - done))
            self.offset[self.role] += sent
            done += sent
            if done == count:
                return

    def send_once(self, style, count, is_last):
        offset = self.offset[self.role]
        data = expected(self.role, offset, count)
        if style == "sendall" and not self.is_blocking:
            style = "send"
        if style == "sendall":
            self.sock.sendall(data)
            return count
        if style == "send":
            return self.sock.send(data)
        if style == "nosignal":
            return self.sock.send(data, socket.MSG_NOSIGNAL)
        if style == "dontwait":
            return self.sock.send(data, socket.MSG_DONTWAIT)
        if style == "more":
            return self.sock.send(data, 0 if is_last else socket.MSG_MORE)
        if style == "write":
            return os.write(self.sock.fileno(), data)
        if style == "sendfile":
            if count == 0:
                return 0
            return os.sendfile(self.sock.fileno(), FILE.fileno(), (offset + 500009 * self.role) % PERIOD, count)
        third = count // 3
        pieces = [data[:third], b"", data[third:third + 1], data[third + 1:]]
        if style == "sendmsg":
            return self.sock.sendmsg(pieces)
        if style == "writev":
            return os.writev(self.sock.fileno(), pieces)
        assert style == "pwritev2"
        return os.pwritev(self.sock.fileno(), pieces, -1)

    # Receiving

    def receive_chunks(self, style, wait, sizes, total):
        left = total
        index = 0
        while left > 0:
            size = min(max(1, sizes[index % len(sizes)]), left)
            left -= self.receive_once(style, wait, size)
            index += 1
        self.note("received", total)

    def receive_once(self, style, wait, size):
        """One receive of up to `size` bytes that are certain to come; waits as its style says."""
        while True:
            try:
                got = self.receive_call(style, size)
                break
            except BlockingIOError:
                if self.is_blocking and style != "dontwait":
                    raise AssertionError("EAGAIN from a blocking receive")
                self.waiters.wait(wait, select.POLLIN)
        if not 0 < got <= size:
            raise AssertionError("%s: %d of %d" % (style, got, size))
        if style == "waitall" and self.is_blocking and got != size:
            raise AssertionError("MSG_WAITALL: %d of %d" % (got, size))
        self.offset[1 - self.role] += got
        return got

    def limit(self, seconds):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", int(seconds), int(seconds % 1 * 1e6)))

    def check(self, data):
        offset = self.offset[1 - self.role]
        if data != expected(1 - self.role, offset, len(data)):
            raise AssertionError("wrong bytes at offset %d, %d bytes" % (offset, len(data)))
        return len(data)

    def receive_call(self, style, size):
        sock = self.sock
        if style == "peek_first":
            self.check(sock.recv(size, socket.MSG_PEEK))
            style = "recv"
        if style == "recv":
            return self.check(sock.recv(size))
        if style == "limited":
            self.limit(5)
            try:
                return self.check(sock.recv(size))
            finally:
                self.limit(0)
        if style == "waitall":
            return self.check(sock.recv(size, socket.MSG_WAITALL))
        if style == "dontwait":
            return self.check(sock.recv(size, socket.MSG_DONTWAIT))
        if style == "read":
            return self.check(os.read(sock.fileno(), size))
        if style == "truncate":
            buffer = bytearray(size)
            got = sock.recv_into(buffer, size, socket.MSG_TRUNC)
            if any(buffer[:64]):
                raise AssertionError("MSG_TRUNC has copied")
            return got
        if style == "recv_into":
            buffer = bytearray(size)
            got = sock.recv_into(buffer)
            return self.check(memoryview(buffer)[:got])
        pieces = [bytearray(size // 3), bytearray(0), bytearray(1), bytearray(size - size // 3 - 1)] if size > 1 else [bytearray(1)]
        if style == "recvmsg":
            got, _, flags, _ = sock.recvmsg_into(pieces)
            if flags:
                raise AssertionError("msg_flags %#x" % flags)
        else:
            got = os.readv(sock.fileno(), pieces) if style == "readv" else os.preadv(sock.fileno(), pieces, -1)
        return self.check(memoryview(b"".join(pieces))[:got])

    def check_in(self, size):
        """One non-blocking receive after readiness: there is something."""
        data = self.sock.recv(size)
        if not data:
            raise EOFError("the stream ended early")
        self.offset[1 - self.role] += self.check(data)
        return len(data)

    def put_out(self, size):
        """One non-blocking send after readiness. Another's use of the room is impossible here, so something goes in."""
        sent = self.sock.send(expected(self.role, self.offset[self.role], size))
        self.offset[self.role] += sent
        return sent

    def arrived_some(self):
        if waiting_bytes(self.sock) <= 0:
            raise AssertionError("readable, and FIONREAD says there is nothing")

    # Descriptor

    def set_blocking(self, is_blocking, how="fcntl"):
        if how == "ioctl":
            fcntl.ioctl(self.sock, termios.FIONBIO, struct.pack("i", not is_blocking))
        else:
            flags = fcntl.fcntl(self.sock, fcntl.F_GETFL)
            fcntl.fcntl(self.sock, fcntl.F_SETFL, flags & ~os.O_NONBLOCK | (0 if is_blocking else os.O_NONBLOCK))
        self.is_blocking = is_blocking

    def replace_descriptor(self, how):
        """From here on through another descriptor of the same socket; the first is closed."""
        old = self.sock.fileno()
        if how == "dup":
            new = os.dup(old)
        elif how == "fcntl":
            new = fcntl.fcntl(old, fcntl.F_DUPFD_CLOEXEC, 50)
        else:
            # Over a descriptor in use: it is closed on the way.
            target = os.open("/dev/null", os.O_RDONLY)
            new = os.dup2(old, target, inheritable=how == "dup2")
        self.waiters.close()
        family = self.sock.family
        self.sock.close()
        self.sock = socket.socket(family, socket.SOCK_STREAM, 0, fileno=new)
        self.waiters = Waiters(self.sock)

    def arrived(self, count):
        wait_until(lambda: waiting_bytes(self.sock) >= count, "%d bytes, now %d" % (count, waiting_bytes(self.sock)))
        if waiting_bytes(self.sock) != count:
            raise AssertionError("FIONREAD: %d, not %d" % (waiting_bytes(self.sock), count))

    def bypassed(self):
        """Bytes that this end has sent past TCP."""
        return self.offset[self.role] - kernel_bytes(self.sock)[0]
