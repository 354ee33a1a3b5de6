"""Reading the library's debug log: which sessions there were, what each path carried, and the kernel's word for TCP's share."""
import os
import re

LINE = re.compile(r"sanswitch\[(\d+)\]: (.+) fd=(-?\d+) (\d+) (\d+)$", re.MULTILINE)


class Closed:
    """One session at its close: bytes by path, this end's point of view. `kernel_*` are TCP_INFO's own counters."""

    def __init__(self, pid, fd, companion, kernel):
        self.pid, self.fd = pid, fd
        self.companion_sent, self.companion_received = companion
        self.kernel_sent, self.kernel_received = kernel

    @property
    def companion(self):
        return self.companion_sent + self.companion_received

    @property
    def kernel(self):
        return self.kernel_sent + self.kernel_received

    def __repr__(self):
        return "pid %d fd %d: companion sent %d received %d, TCP sent %d received %d" % (
            self.pid, self.fd, self.companion_sent, self.companion_received, self.kernel_sent, self.kernel_received)


class Log:
    """The log of one started program and of all processes it has forked."""

    def __init__(self, path):
        self.path = path

    @property
    def text(self):
        if not os.path.exists(self.path):
            return ""
        with open(self.path, errors="replace") as file:
            return file.read()

    def lines(self):
        """(pid, event, fd, first, second) of every line, in the order written."""
        return [(int(pid), event, int(fd), int(first), int(second))
                for pid, event, fd, first, second in LINE.findall(self.text)]

    def events(self, event):
        return [line for line in self.lines() if line[1] == event]

    def switch_overs(self):
        return self.events("sending switched over at") + self.events("receiving switched over at")

    def closed(self):
        """Every session closed so far. Two lines of one process belong together: companion first, TCP_INFO next."""
        sessions, halves = [], {}
        for pid, event, fd, first, second in self.lines():
            if event == "closed, companion bytes sent received":
                halves[pid, fd] = (first, second)
            elif event == "closed, TCP_INFO bytes sent received" and (pid, fd) in halves:
                sessions.append(Closed(pid, fd, halves.pop((pid, fd)), (first, second)))
        return sessions

    def tail(self, count=25):
        return "\n".join(self.text.splitlines()[-count:])
