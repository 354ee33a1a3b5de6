"""Pointers that are bad, or become so. Run by test_behaviour.py."""
import ctypes
import mmap
import select
import socket
import termios

import libc
from endpoint import outcome, pair, pattern, read_exactly, wait_readable
from libc import call
from runner import case, run

NONE, READ, BOTH = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


def bad_addresses():
    """NULL, never mapped, mapped without rights, and unmapped after use."""
    guarded = libc.map_pages(2, NONE)
    gone = libc.map_pages(4, BOTH)
    ctypes.memset(gone, 1, 4 * libc.PAGE)
    return {"null": None, "unmapped": libc.UNMAPPED, "guarded": guarded, "gone": gone}


def as_pointer(address):
    return ctypes.c_void_p(address)


@case
def bad_buffers_for_sending():
    a, b = pair()
    addresses = bad_addresses()
    fd = a.fileno()
    trace = [call("send", fd, as_pointer(addresses["gone"]), 100, 0)]
    libc.unmap(addresses["gone"], 4)
    for name, address in addresses.items():
        pointer = as_pointer(address)
        vector = libc.vectors((address, 100))
        message = libc.message(vector)
        trace.append([name, call("send", fd, pointer, 100, 0), call("write", fd, pointer, 100), call("writev", fd, vector, 1),
                      call("sendmsg", fd, ctypes.byref(message), 0), call("sendto", fd, pointer, 100, 0, None, 0)])
        trace.append([name, call("writev", fd, pointer, 1), call("sendmsg", fd, pointer, 0)])
    return trace + [outcome(read_exactly, b, 100), outcome(b.recv, 1, socket.MSG_DONTWAIT)]


@case
def bad_buffers_for_receiving():
    a, b = pair()
    addresses = bad_addresses()
    read_only = libc.map_pages(1, READ)
    a.sendall(pattern(1000))
    wait_readable(b, 1000)
    fd = b.fileno()
    trace = [call("recv", fd, as_pointer(addresses["gone"]), 100, 0)]
    libc.unmap(addresses["gone"], 4)
    for name, address in list(addresses.items()) + [("read only", read_only)]:
        pointer = as_pointer(address)
        vector = libc.vectors((address, 100))
        message = libc.message(vector)
        trace.append([name, call("recv", fd, pointer, 100, 0), call("read", fd, pointer, 100), call("readv", fd, vector, 1),
                      call("recvmsg", fd, ctypes.byref(message), 0), call("recvfrom", fd, pointer, 100, 0, None, None),
                      call("recv", fd, pointer, 100, socket.MSG_PEEK)])
        trace.append([name, call("readv", fd, pointer, 1), call("recvmsg", fd, pointer, 0)])
    return trace + [outcome(read_exactly, b, 900)]


@case
def bad_buffers_when_there_is_nothing_to_receive():
    """A bad buffer is an error only once bytes are copied: with none there, the call says EAGAIN or waits."""
    a, b = pair()
    return [call("recv", b.fileno(), None, 100, socket.MSG_DONTWAIT), call("recv", b.fileno(), as_pointer(libc.UNMAPPED), 100, socket.MSG_DONTWAIT)]


@case
def truncating_receive_needs_no_buffer():
    a, b = pair()
    a.sendall(pattern(5000))
    wait_readable(b, 5000)
    trace = [call("recv", b.fileno(), None, 1000, socket.MSG_TRUNC)]
    buffer = ctypes.create_string_buffer(b"untouched", 9)
    trace += [call("recv", b.fileno(), buffer, 9, socket.MSG_TRUNC), buffer.raw.decode()]
    return trace + [outcome(read_exactly, b, 5000 - 1009), outcome(b.recv, 1, socket.MSG_DONTWAIT)]


@case
def buffer_that_ends_at_a_bad_page():
    """What fits before the bad page may move; nothing else is lost, and nothing crashes."""
    a, b = pair()
    good = libc.map_pages(2, BOTH)
    libc.protect(good + libc.PAGE, 1, NONE)
    a.sendall(pattern(300))
    wait_readable(b, 300)
    got = call("recv", b.fileno(), as_pointer(good + libc.PAGE - 100), 300, 0)
    trace = [got == "EFAULT" or got == 100]
    rest = 300 if got == "EFAULT" else 200
    trace.append(read_exactly(b, rest) == pattern(rest, 300 - rest))
    sent = call("send", a.fileno(), as_pointer(good + libc.PAGE - 100), 300, 0)
    trace.append(sent == "EFAULT" or sent == 100)
    a.sendall(b"end")
    data = read_exactly(b, 3 if sent == "EFAULT" else 103)
    return trace + [data[-3:].decode()]


@case
def memory_protected_after_use():
    """A buffer that was good at the last call and is read-only, or gone, at the next."""
    a, b = pair()
    page = libc.map_pages(1, BOTH)
    a.sendall(pattern(400))
    wait_readable(b, 400)
    fd = b.fileno()
    trace = [call("recv", fd, as_pointer(page), 100, 0)]
    libc.protect(page, 1, READ)
    trace.append(call("recv", fd, as_pointer(page), 100, 0))
    libc.protect(page, 1, NONE)
    trace += [call("recv", fd, as_pointer(page), 100, 0), call("send", a.fileno(), as_pointer(page), 100, 0)]
    libc.protect(page, 1, BOTH)
    trace.append(call("recv", fd, as_pointer(page), 100, 0))
    libc.unmap(page, 1)
    trace += [call("recv", fd, as_pointer(page), 100, 0), call("send", a.fileno(), as_pointer(page), 100, 0)]
    return trace + [outcome(read_exactly, b, 200)]


@case
def memory_remapped_after_use():
    a, b = pair()
    page = libc.map_pages(1, BOTH)
    a.sendall(pattern(300))
    wait_readable(b, 300)
    trace = [call("recv", b.fileno(), as_pointer(page), 100, 0)]
    # mmap over it with MAP_FIXED: no munmap is called.
    libc.C.mmap(ctypes.c_void_p(page), libc.PAGE, NONE, 0x32, -1, 0)
    trace.append(call("recv", b.fileno(), as_pointer(page), 100, 0))
    other = libc.map_pages(2, BOTH)
    trace.append(call("recv", b.fileno(), as_pointer(other), 100, 0))
    libc.C.mremap.restype = ctypes.c_void_p
    libc.C.mremap(ctypes.c_void_p(other), ctypes.c_size_t(2 * libc.PAGE), ctypes.c_size_t(64 * libc.PAGE), 1)
    trace.append(call("recv", b.fileno(), as_pointer(libc.UNMAPPED), 100, 0))
    return trace + [outcome(read_exactly, b, 100)]


@case
def bad_pointers_for_waiting():
    a, b = pair()
    trace = []
    with select.epoll() as epoll:
        epoll.register(b, select.EPOLLIN)
        a.sendall(b"x")
        wait_readable(b, 1)
        for address in (None, libc.UNMAPPED, libc.map_pages(1, NONE)):
            pointer = as_pointer(address)
            trace.append([call("poll", pointer, 1, 0), call("epoll_wait", epoll.fileno(), pointer, 4, 0),
                          call("epoll_ctl", epoll.fileno(), 3, b.fileno(), pointer)])
        events = (libc.EpollEvent * 4)()
        trace += [call("epoll_wait", epoll.fileno(), events, 0, 0), call("epoll_wait", epoll.fileno(), events, -1, 0)]
        bits = as_pointer(libc.UNMAPPED)
        trace += [call("select", b.fileno() + 1, bits, None, None, None), call("select", -1, None, None, None, None)]
        trace += [len(epoll.poll(0)), call("epoll_wait", b.fileno(), events, 4, 0), call("epoll_ctl", epoll.fileno(), 9, b.fileno(), events)]
    return trace + [outcome(b.recv, 9)]


@case
def bad_pointers_for_options():
    a, b = pair()
    trace = []
    for address in (None, libc.UNMAPPED):
        pointer = as_pointer(address)
        size = ctypes.c_uint32(4)
        trace.append([call("ioctl", b.fileno(), termios.FIONREAD, pointer), call("ioctl", b.fileno(), 0x5421, pointer),
                      call("setsockopt", b.fileno(), socket.SOL_SOCKET, socket.SO_RCVTIMEO, pointer, 16),
                      call("setsockopt", b.fileno(), socket.SOL_SOCKET, socket.SO_RCVLOWAT, pointer, 4),
                      call("getsockopt", b.fileno(), socket.SOL_SOCKET, socket.SO_ERROR, pointer, ctypes.byref(size)),
                      call("getpeername", b.fileno(), pointer, pointer)])
    a.sendall(b"fine")
    return trace + [outcome(read_exactly, b, 4)]


@case
def bad_vector_counts():
    a, b = pair()
    buffer = ctypes.create_string_buffer(b"x", 1)
    many = libc.vectors(*[buffer] * 1025)
    trace = [call("writev", a.fileno(), many, n) for n in (-1, 1025)] + [call("readv", b.fileno(), many, n) for n in (-1, 1025)]
    huge = libc.vectors((ctypes.addressof(buffer), 1 << 63), (ctypes.addressof(buffer), 1))
    trace += [call("writev", a.fileno(), huge, 2), call("readv", b.fileno(), huge, 2)]
    message = libc.message(many)
    trace += [call("sendmsg", a.fileno(), ctypes.byref(message), 0), call("recvmsg", b.fileno(), ctypes.byref(message), socket.MSG_DONTWAIT)]
    trace += [call("writev", a.fileno(), many, 1024), outcome(read_exactly, b, 1024)]
    return trace


if __name__ == "__main__":
    run()
