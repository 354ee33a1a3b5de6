"""What tests need of the machine: programs, ports, files, and waiting for something to become true."""
import hashlib
import os
import random
import shutil
import socket
import time

import pytest

MIB = 1 << 20

# The longest any single step may take. A hang is a failure with the state of the process, never a stuck test run.
DEADLINE = float(os.environ.get("SAN_TEST_DEADLINE", "30"))


def need(name):
    """The path of a program, or a skip that names it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        pytest.skip("%s is not installed" % name)
    return path


def free_port():
    """A port nobody listens on, below the range that outgoing connections take theirs from."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::", port))
                return port
            except OSError:
                continue


def listens(port):
    """Whether a TCP socket listens on the port. Asked of the kernel, since a probing connection would be served."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for line in lines.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    return True
    return False


def until(condition, what, deadline=DEADLINE, alive=None, otherwise=str):
    """Polls `condition` until it is true and returns what it returned; `alive` must not end meanwhile."""
    end = time.monotonic() + deadline
    while True:
        result = condition()
        if result:
            return result
        if alive and alive.process.poll() is not None:
            pytest.fail("%s ended before %s\n%s" % (alive.name, what, alive.describe()))
        if time.monotonic() > end:
            pytest.fail("waited %.0f s in vain for %s\n%s" % (deadline, what, alive.describe() if alive else otherwise()))
        time.sleep(0.01)


def digest(path):
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(MIB), b""):
            state.update(part)
    return state.hexdigest()


def random_file(path, size, seed=1):
    """A file of pseudo-random bytes that is the same in every run."""
    source = random.Random(seed)
    with open(path, "wb") as file:
        while size > 0:
            part = source.randbytes(min(size, MIB))
            file.write(part)
            size -= len(part)
    os.chmod(path, 0o644)
    return path


def threads(group):
    """Where every thread of a process group waits; a hang is half explained by it."""
    lines = ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(pid)) != group:
                continue
            for thread in sorted(os.listdir("/proc/%s/task" % pid)):
                where = [open("/proc/%s/task/%s/%s" % (pid, thread, name)).read().split()[0] for name in ("comm", "wchan", "syscall")]
                lines += "    pid %s thread %s %s in %s, system call %s\n" % (pid, thread, *where)
        except (OSError, IndexError):
            continue
    return lines
