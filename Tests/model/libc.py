"""libc calls that Python's own modules do not make, or wrap too well: through ctypes, which finds a preloaded library's names.

Python restarts calls that a signal interrupted; these do not.
"""
import ctypes
import errno as codes
import os

C = ctypes.CDLL(None, use_errno=True)
PAGE = os.sysconf("SC_PAGE_SIZE")
UNMAPPED = 0x10000000000 - 0x5000  # below the mappings of a 64-bit process, above its heap


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vectors", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


class ManyMessage(ctypes.Structure):
    _fields_ = [("header", Message), ("length", ctypes.c_uint)]


class Pollfd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class EpollEvent(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


def call(name, *arguments):
    """The call's result, or the name of its errno. Integers are passed as 64-bit values, as pointers need."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    function = getattr(C, name)
    function.restype = ctypes.c_long if name not in INTS else ctypes.c_int
    result = function(*passed)
    if result == -1:
        return codes.errorcode[ctypes.get_errno()]
    return result


INTS = {"poll", "epoll_wait", "epoll_ctl", "recvmmsg", "sendmmsg", "select", "dprintf", "close_range", "fcntl", "ioctl",
        "setsockopt", "getsockopt", "getpeername", "getsockname", "fflush", "fclose", "fputs", "fputc", "fgetc",
        "connect", "listen", "shutdown", "ppoll", "dup2", "dup3"}


def vectors(*buffers):
    """An iovec array over ctypes buffers or (address, length) pairs."""
    array = (Vector * len(buffers))()
    for place, buffer in zip(array, buffers):
        place.base, place.length = buffer if isinstance(buffer, tuple) else (ctypes.addressof(buffer), ctypes.sizeof(buffer))
    return array


def message(array):
    result = Message()
    result.vectors, result.count = ctypes.addressof(array), len(array)
    return result


def map_pages(pages, protection):
    """Address of fresh anonymous memory."""
    C.mmap.restype = ctypes.c_void_p
    C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    return C.mmap(None, pages * PAGE, protection, 0x22, -1, 0)  # MAP_PRIVATE | MAP_ANONYMOUS


def protect(address, pages, protection):
    return C.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(pages * PAGE), protection)


def unmap(address, pages):
    return C.munmap(ctypes.c_void_p(address), ctypes.c_size_t(pages * PAGE))


def pointer(structure):
    """A structure's address as an argument; None is NULL."""
    return ctypes.c_void_p(None) if structure is None else ctypes.byref(structure)
