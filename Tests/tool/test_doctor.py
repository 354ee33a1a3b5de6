"""`sanswitch doctor` for a running program: the verdict, the evidence, and what mends it."""
import os
import subprocess
import sys
import time

import pytest

from toolbox import LIBRARY, TOOL, clean_environment


def until(condition):
    deadline = time.monotonic() + 30
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_switched_program(connect, tool):
    connection = connect()

    def switched():
        return "1 of 1 connections have switched" in tool("doctor", "--pid", connection.server.pid).stdout

    until(switched)
    lines = tool("doctor", "--pid", connection.client.pid).stdout.splitlines()
    assert lines[0].endswith("(pid %d) runs under sanswitch: 1 of 1 connections have switched." % connection.client.pid)
    assert any(line.startswith("  ok    ") and "libsanswitch.so is in process %d" % connection.client.pid in line for line in lines)


def test_a_program_without_the_library(connect, tool):
    connection = connect(server_switched=False)
    lines = tool("doctor", "--pid", connection.server.pid, expect=1).stdout.splitlines()
    assert lines[0].startswith("Process %d (" % connection.server.pid) and "libsanswitch.so is not in process" in lines[0]
    executable = os.readlink("/proc/%d/exe" % connection.server.pid)
    assert lines[-1] == "  - start it again: `sanswitch run -- %s ...`" % executable


def test_a_program_whose_peer_is_unaware(connect, tool):
    connection = connect(server_switched=False)
    def found():
        text = subprocess.run(words, env=clean_environment(), capture_output=True, text=True).stdout
        return text if "peerUnaware" in text else None

    words = [TOOL, "doctor", "--pid", str(connection.client.pid)]
    text = until(found)
    assert "is on TCP: 1 on TCP: peer does not run under sanswitch" in text.splitlines()[0]
    assert "  - start the program at the other end under the switch, too" in text


@pytest.mark.parametrize("more, text", [({"SAN": "off"}, "it was started with SAN=off"),
                                        ({"SAN_CONFIG": "/nowhere"}, "/nowhere: No such file")])
def test_a_program_that_is_kept_on_tcp(connect, tool, more, text):
    connection = connect(**more)
    assert text in tool("doctor", "--pid", connection.client.pid, expect=1).stdout.splitlines()[0]


def test_a_program_without_connections(tool):
    words = [sys.executable, "-c", "print(flush=True); input()"]
    process = subprocess.Popen(words, env=clean_environment(LD_PRELOAD=LIBRARY), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        assert "has no TCP connection that the switch knows" in tool("doctor", "--pid", process.pid).stdout
    finally:
        process.communicate("\n")


def test_no_such_process(tool):
    assert tool("doctor", "--pid", 2 ** 31 - 1, expect=1).stdout.startswith("Process 2147483647 is on TCP: there is no process")
    assert "not both" in tool("doctor", "--pid", 1, "localhost:80", expect=64).stderr


def test_a_server_that_a_rule_leaves_alone(connect, tool, tmp_path):
    connection = connect()
    path = tmp_path / "sanswitch.conf"
    path.write_text("allow program=psql\ndeny role=connect port=%d\n" % connection.port)
    server = "127.0.0.1:%d" % connection.port
    text = tool("doctor", "--library", LIBRARY, server, expect=1, SAN_CONFIG=path).stdout
    assert text.startswith("A connection to %s would stay on TCP: %s:2 keeps it on TCP" % (server, path))
