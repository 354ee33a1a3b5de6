"""`sanswitch top` with real traffic: as text, and on a terminal made by pty."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from toolbox import TOOL, clean_environment

DEADLINE = 30


def blocks(text):
    return [block.splitlines() for block in text.strip().split("\n\n")]


def row(block, pid):
    found = [line.split() for line in block if line.split()[1:2] == [str(pid)]]
    assert len(found) == 1, block
    return found[0]


def number(text):
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)


def test_plain_text_shows_rates(connect, tool):
    connection = connect()
    text = tool("top", "--port", connection.port, "--every", 0.5, "--count", 4).stdout
    found = blocks(text)
    assert len(found) == 4
    assert "2 sessions of 2 processes, 2 on the companion" in found[-1][0], text
    client, server = row(found[-1], connection.client.pid), row(found[-1], connection.server.pid)
    assert client[2] == "c" and server[2] == "s"
    assert client[3] == server[3] == "127.0.0.1:%d" % connection.port
    assert client[4:6] == server[4:6] == ["c", "c"]
    # A thousand bytes each way for each question, about a thousand questions in a second at most.
    assert 1e4 < number(client[6]) < 1.5e6 and 1e4 < number(server[7]) < 1.5e6


def test_says_why_on_tcp(connect, tool):
    connection = connect(server_switched=False)
    text = tool("top", "--port", connection.port, "--every", 0.5, "--count", 2).stdout
    last = blocks(text)[-1]
    assert "1 session of 1 process, 0 on the companion" in last[0]
    assert last[2].endswith("on TCP: peerUnaware 1")
    assert row(last, connection.client.pid)[-1] == "peerUnaware"


def test_tells_switch_overs(connect):
    """Of a connection that switches over while it is watched."""
    top = subprocess.Popen([TOOL, "top", "--program", "python", "--every", "0.2"], env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        # Its first look is over when it says something.
        assert top.stdout.readline().startswith("sanswitch top")
        connection = connect()
        deadline = time.monotonic() + DEADLINE
        seen = set()
        while len(seen) < 4 and time.monotonic() < deadline:
            found = re.search(r"python\S* (\d+) (send|receive): companion from byte \d+, 127", top.stdout.readline())
            if found and int(found[1]) in (connection.client.pid, connection.server.pid):
                seen.add((int(found[1]), found[2]))
        assert len(seen) == 4, seen
    finally:
        top.kill()
        top.communicate()


def test_rejects_what_it_does_not_know(tool):
    assert "--sort takes one of" in tool("top", "--sort", "beauty", expect=64).stderr
    assert "--every takes" in tool("top", "--every", "0", expect=64).stderr


class Screen:
    """The tool on a terminal of 80 by 24."""

    def __init__(self, *words):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(TOOL, [TOOL, *map(str, words)], clean_environment(TERM="xterm"))
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.raw = ""
        self.status = None

    def until(self, condition, what):
        deadline = time.monotonic() + DEADLINE
        while not condition(self.lines()):
            assert time.monotonic() < deadline, "%s: %r" % (what, self.lines())
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.raw += os.read(self.master, 65536).decode()
                except OSError:
                    break

    def lines(self):
        """The last whole picture."""
        pictures = self.raw.split("\x1b[H")[1:]
        whole = [picture for picture in pictures if "\x1b[J" in picture]
        return [re.sub(r"\x1b\[\??[0-9]*[A-Za-z]", "", line).rstrip() for line in whole[-1].split("\r\n")] if whole else []

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        """Its exit status, and what it wrote after the last picture."""
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.raw += data.decode()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return status


def test_on_a_terminal_of_80_columns(connect):
    first, second = connect(), connect()
    screen = Screen("top", "--every", "0.3", "--program", "python")
    pids = [str(process.pid) for connection in (first, second) for process in (connection.client, connection.server)]

    def shown(lines):
        return [line.split()[1] for line in lines if line.startswith("python")]

    screen.until(lambda lines: set(pids) <= set(shown(lines)), "all four rows")
    assert all(len(line) <= 80 for line in screen.lines())
    assert len(screen.lines()) <= 24
    # Rates come with the second look.
    screen.until(lambda lines: any(re.search(r"sent [\d.]+[kM]?B/s", line) and "sent 0B/s" not in line for line in lines), "rates")
    screen.press("<")
    screen.until(lambda lines: "sort: port" in lines[-1], "the next key to sort by")
    screen.press("<")
    screen.until(lambda lines: "sort: pid" in lines[-1], "sorting by pid")
    screen.until(lambda lines: [pid for pid in shown(lines) if pid in pids] == sorted(pids, key=int), "rows by pid")
    screen.press("r")
    screen.until(lambda lines: [pid for pid in shown(lines) if pid in pids] == sorted(pids, key=int, reverse=True), "rows reversed")
    screen.press("/%d\r" % second.port)
    screen.until(lambda lines: set(shown(lines)) == set(pids[2:]), "the rows of one port")
    screen.press("q")
    assert screen.end() == 0
    # The screen and the cursor are given back.
    assert screen.raw.endswith("\x1b[?25h\x1b[?1049l")


def test_gives_the_terminal_back_when_told_to_end(connect):
    connect()
    screen = Screen("top", "--every", "5")
    screen.until(lambda lines: lines and lines[0].startswith("sanswitch top"), "the first picture")
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.end() == 0
    assert screen.raw.endswith("\x1b[?25h\x1b[?1049l")
