"""Every call that moves or counts stream bytes, in its odd forms too. Run by test_behaviour.py."""
import ctypes
import fcntl
import os
import socket
import struct
import tempfile
import threading

import libc
from endpoint import outcome, pair, pattern, poll_events, read_exactly, wait_readable, wait_until, waiting_bytes
from libc import call
from runner import case, run


@case
def zero_length_sends():
    a, b = pair()
    empty = ctypes.create_string_buffer(1)
    vector = libc.vectors((None, 0), (None, 0))
    message = libc.message(vector)
    nothing = libc.Message()
    fd = a.fileno()
    trace = [call("send", fd, empty, 0, 0), call("send", fd, None, 0, 0), call("write", fd, None, 0), call("writev", fd, vector, 2),
             call("writev", fd, None, 0), call("sendmsg", fd, ctypes.byref(message), 0), call("sendmsg", fd, ctypes.byref(nothing), 0),
             call("sendto", fd, None, 0, 0, None, 0)]
    return trace + [outcome(b.recv, 1, socket.MSG_DONTWAIT), poll_events(b)]


@case
def zero_length_receives_with_data():
    a, b = pair()
    a.sendall(b"abc")
    wait_readable(b, 3)
    vector = libc.vectors((None, 0))
    message = libc.message(vector)
    fd = b.fileno()
    trace = [call("recv", fd, None, 0, 0), call("read", fd, None, 0), call("readv", fd, vector, 1), call("recvmsg", fd, ctypes.byref(message), 0),
             call("recv", fd, None, 0, socket.MSG_PEEK), call("recv", fd, None, 0, socket.MSG_DONTWAIT), call("readv", fd, None, 0)]
    return trace + [outcome(b.recv, 9)]


@case
def zero_length_receives_without_data():
    """read and readv of nothing return at once; recv of nothing waits for something, or says EAGAIN."""
    a, b = pair()
    vector = libc.vectors((None, 0))
    message = libc.message(vector)
    fd = b.fileno()
    trace = [call("read", fd, None, 0), call("readv", fd, vector, 1), call("recv", fd, None, 0, socket.MSG_DONTWAIT),
             call("recvmsg", fd, ctypes.byref(message), socket.MSG_DONTWAIT)]
    later = threading.Timer(0.05, a.sendall, (b"abc",))
    later.start()
    trace += [call("recv", fd, None, 0, 0), waiting_bytes(b)]
    later.join()
    os.set_blocking(fd, False)
    trace += [outcome(b.recv, 9), call("read", fd, None, 0), call("recv", fd, None, 0, 0)]
    a.shutdown(socket.SHUT_WR)
    wait_until(lambda: "POLLRDHUP" in poll_events(b))
    return trace + [call("recv", fd, None, 0, 0), call("read", fd, None, 0)]


@case
def scattered_buffers():
    """Empty and tiny buffers among large ones, in every vector call."""
    a, b = pair()
    data = pattern(9000)
    pieces = [data[:1], b"", data[1:3000], b"", data[3000:3001], data[3001:]]
    trace = [a.sendmsg(pieces), os.writev(a.fileno(), pieces)]
    wait_readable(b, 18000)
    into = [bytearray(n) for n in (5, 0, 4000, 1, 4994)]
    trace += [b.recvmsg_into(into)[0], outcome(lambda: b"".join(into))]
    into = [bytearray(n) for n in (0, 8999, 1, 7)]
    trace += [os.readv(b.fileno(), into), outcome(lambda: b"".join(into)[:9000])]
    return trace


@case
def message_header_fields():
    """recvmsg and recvfrom on a connected stream: what they say about names, control data and flags."""
    a, b = pair()
    a.sendall(b"abcdef")
    wait_readable(b, 6)
    buffer = ctypes.create_string_buffer(2)
    vector = libc.vectors(buffer)
    name = ctypes.create_string_buffer(b"\x55" * 32, 32)
    message = libc.message(vector)
    message.name, message.name_length, message.flags = ctypes.addressof(name), 32, 0x7777
    control = ctypes.create_string_buffer(128)
    message.control, message.control_length = ctypes.addressof(control), 128
    trace = [call("recvmsg", b.fileno(), ctypes.byref(message), 0), message.name_length, message.control_length, message.flags]
    size = ctypes.c_uint32(32)
    trace += [call("recvfrom", b.fileno(), buffer, 2, 0, name, ctypes.byref(size)), size.value, name.raw[:4] == b"\x55" * 4]
    trace += [outcome(b.recvfrom, 2), outcome(b.recvmsg, 4, 0, socket.MSG_DONTWAIT)]
    return trace


@case
def send_with_an_address():
    """sendto with an address on a connected stream: EISCONN or ignored, as TCP does."""
    a, b = pair()
    trace = [outcome(a.sendto, b"x", b.getsockname()), outcome(a.sendto, b"y", ("127.0.0.1", 9)), outcome(a.sendmsg, [b"z"], [], 0, b.getsockname())]
    a.sendall(b"end")
    return trace + [outcome(lambda: read_exactly(b, 3 + sum(isinstance(t, int) for t in trace)))]


@case
def peeking():
    a, b = pair()
    a.sendall(pattern(2000))
    wait_readable(b, 2000)
    trace = [outcome(b.recv, 10, socket.MSG_PEEK), outcome(b.recv, 3000, socket.MSG_PEEK), outcome(b.recv, 5),
             outcome(b.recv, 10, socket.MSG_PEEK | socket.MSG_DONTWAIT), outcome(b.recv, 1995, socket.MSG_PEEK | socket.MSG_WAITALL),
             waiting_bytes(b), outcome(b.recv, 1995, socket.MSG_WAITALL), outcome(b.recv, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)]
    a.shutdown(socket.SHUT_WR)
    return trace + [outcome(b.recv, 1, socket.MSG_PEEK), outcome(b.recv, 1)]


@case
def queue_lengths():
    """FIONREAD counts what can be read; SIOCOUTQ falls to nothing once the peer has read."""
    a, b = pair()
    out = lambda s: struct.unpack("i", fcntl.ioctl(s, 0x5411, b"\0" * 4))[0]  # SIOCOUTQ
    trace = [waiting_bytes(b)]
    for size in (1, 999, 4000):
        a.sendall(pattern(size))
        wait_readable(b, 1)
    wait_readable(b, 5000)
    trace.append(waiting_bytes(b))
    b.recv(1234)
    trace.append(waiting_bytes(b))
    read_exactly(b, 5000 - 1234)
    trace.append(waiting_bytes(b))
    wait_until(lambda: out(a) == 0, "an empty send queue")
    at_mark = struct.unpack("i", fcntl.ioctl(b, 0x8905, b"\0" * 4))[0]  # SIOCATMARK
    return trace + [at_mark]


@case
def more_to_come():
    a, b = pair()
    trace = [a.send(b"one ", socket.MSG_MORE), a.send(b"two ", socket.MSG_MORE), a.send(b"three")]
    trace.append(outcome(read_exactly, b, 13))
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    a.send(b"corked ")
    a.send(b"bottle")
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return trace + [outcome(read_exactly, b, 13)]


@case
def offset_vector_calls():
    """preadv2 and pwritev2 with offset -1 are readv and writev; other offsets and flags fail as on any socket."""
    a, b = pair()
    text = ctypes.create_string_buffer(b"hello", 5)
    vector = libc.vectors(text)
    trace = [call("pwritev2", a.fileno(), vector, 1, -1, 0), call("pwritev2", a.fileno(), vector, 1, 0, 0), call("pwritev", a.fileno(), vector, 1, 0),
             call("pwrite", a.fileno(), text, 5, 0)]
    wait_readable(b, 5)
    into = ctypes.create_string_buffer(5)
    vector = libc.vectors(into)
    trace += [call("preadv2", b.fileno(), vector, 1, 0, 0), call("preadv2", b.fileno(), vector, 1, -1, 0), into.raw.decode()]
    trace += [call("preadv2", b.fileno(), vector, 1, -1, os.RWF_NOWAIT), call("pread", b.fileno(), into, 5, 0), call("lseek", b.fileno(), 0, 1)]
    return trace


@case
def many_messages_at_once():
    a, b = pair()
    texts = [ctypes.create_string_buffer(t, len(t)) for t in (b"alpha", b"be", b"gamma!")]
    arrays = [libc.vectors(t) for t in texts]
    many = (libc.ManyMessage * 3)()
    for place, array in zip(many, arrays):
        place.header = libc.message(array)
    trace = [call("sendmmsg", a.fileno(), many, 3, 0), [m.length for m in many], call("sendmmsg", a.fileno(), many, 0, 0)]
    wait_readable(b, 13)
    into = [ctypes.create_string_buffer(n) for n in (4, 4, 50)]
    arrays = [libc.vectors(t) for t in into]
    for place, array in zip(many, arrays):
        place.header = libc.message(array)
    trace += [call("recvmmsg", b.fileno(), many, 3, 0x10000, None), [m.length for m in many], [t.raw.rstrip(b"\0").decode() for t in into]]
    trace += [call("recvmmsg", b.fileno(), many, 3, socket.MSG_DONTWAIT, None)]
    a.sendall(b"z")
    trace += [call("recvmmsg", b.fileno(), many, 3, 0x10000, None), many[0].length]
    return trace


@case
def files_into_the_stream():
    a, b = pair()
    data = pattern(700000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(100)
        received = []
        thread = threading.Thread(target=lambda: received.append(read_exactly(b, 699900 + 5000 + 3)))
        thread.start()
        sent = 0
        while sent < 699900:
            sent += os.sendfile(a.fileno(), file.fileno(), None, 699900 - sent)
        trace = [sent, file.seek(0, os.SEEK_CUR), outcome(os.sendfile, a.fileno(), file.fileno(), None, 10)]
        trace += [outcome(os.sendfile, a.fileno(), file.fileno(), 1000, 5000), file.seek(0, os.SEEK_CUR)]
        a.sendall(b"end")
        thread.join()
    return trace + [received[0] == data[100:] + data[1000:6000] + b"end", outcome(os.sendfile, a.fileno(), 9999, 0, 10)]


@case
def pipes_into_and_out_of_the_stream():
    a, b = pair()
    out_read, out_write = os.pipe()
    back_read, back_write = os.pipe()
    data = pattern(30000)
    os.write(out_write, data)
    trace = [os.splice(out_read, a.fileno(), 30000)]
    wait_readable(b, 30000)
    moved = 0
    while moved < 30000:
        moved += os.splice(b.fileno(), back_write, 30000 - moved)
    os.set_blocking(b.fileno(), False)
    trace += [os.read(back_read, 30000) == data, outcome(os.splice, b.fileno(), back_write, 10)]
    os.set_blocking(b.fileno(), True)
    # The stream goes on as before, in both directions.
    a.sendall(b"after")
    b.sendall(b"answer")
    trace += [outcome(read_exactly, b, 5), outcome(read_exactly, a, 6)]
    os.close(out_write)
    return trace + [outcome(os.splice, out_read, a.fileno(), 10)]


if __name__ == "__main__":
    run()
