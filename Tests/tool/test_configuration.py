"""The configuration's files: what the library makes of them with real traffic, and what the tool says of them."""
import json
import os
import subprocess
import sys
import time

import pytest

from toolbox import LIBRARY, ROOT, TOOL, clean_environment


@pytest.fixture
def configuration(tmp_path):
    """Writes a file; returns its path."""
    def write(text, name="sanswitch.conf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def sessions(connection):
    """What the tool sees of both ends, by role, once each has moved more than a few calls' bytes."""
    deadline = time.monotonic() + 30
    while True:
        words = [TOOL, "stat", "--json", str(connection.client.pid), str(connection.server.pid)]
        found = json.loads(subprocess.run(words, env=clean_environment(), capture_output=True, text=True, check=True).stdout)
        result = {session["role"]: session for session in found}
        if result and all(session["send"]["bytes"] > 100_000 for session in found):
            return result
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def paths(session):
    return session["send"]["path"], session["receive"]["path"]


SWITCHED, ON_TCP = ("companion", "companion"), ("kernel", "kernel")


def test_no_rule_allows(connect, configuration):
    found = sessions(connect(SAN_CONFIG=configuration("# nothing\nspin-us = 10\n")))
    assert paths(found["client"]) == paths(found["server"]) == SWITCHED


@pytest.mark.parametrize("rule", ["deny role=connect", "deny role=connect address=127.0.0.0/8 port=1-65535", "deny program=python*",
                                  "deny program=%s role=connect" % os.path.realpath(sys.executable)])
def test_denied_connect_stays_on_tcp(connect, configuration, rule):
    client = sessions(connect(SAN_CONFIG=configuration(rule + "\n")))["client"]
    assert paths(client) == ON_TCP
    assert client["reason"] == "ruledOut"


def test_denied_listen_is_an_unaware_server(connect, configuration):
    found = sessions(connect(SAN_CONFIG=configuration("deny role=listen address=127.0.0.1\n")))
    assert set(found) == {"client"}
    assert (paths(found["client"]), found["client"]["reason"]) == (ON_TCP, "peerUnaware")


@pytest.mark.parametrize("first", ["allow program=python*", "allow address=127.0.0.1", "allow port=1024-65535"])
def test_first_match_wins(connect, configuration, first):
    found = sessions(connect(SAN_CONFIG=configuration(first + "\ndeny\n")))
    assert paths(found["client"]) == paths(found["server"]) == SWITCHED


def test_rules_for_others_do_not_count(connect, configuration):
    text = "deny program=redis-server\ndeny address=10.0.0.0/8\ndeny address=::1\ndeny port=1-1023\n"
    assert paths(sessions(connect(SAN_CONFIG=configuration(text)))["client"]) == SWITCHED


def test_settings_have_their_effect_and_the_environment_the_last_word(connect, configuration):
    path = configuration("after-calls = 100000000\nafter-bytes = 100000000000\n")
    client = sessions(connect(SAN_CONFIG=path))["client"]
    assert (paths(client), client["reason"]) == (ON_TCP, "shortConnection")
    assert paths(sessions(connect(SAN_CONFIG=path, SAN_AFTER_CALLS=2))["client"]) == SWITCHED


@pytest.mark.parametrize("variable, name", [("XDG_CONFIG_HOME", "sanswitch/sanswitch.conf"), ("HOME", ".config/sanswitch/sanswitch.conf")])
def test_the_users_own_file(connect, configuration, tmp_path, tool, variable, name):
    path = configuration("deny role=connect\n", name)
    assert sessions(connect(**{variable: tmp_path}))["client"]["reason"] == "ruledOut"
    assert "read    %s" % path in tool("config", **{variable: tmp_path}).stdout


@pytest.mark.parametrize("text, line, expected", [
    ("spin-us = fast\n", 1, "a decimal number"), ("\n\nallow port=80-\n", 3, "a port from 1 to 65535"), ("hello\n", 1, "a setting that there is")])
def test_a_broken_file_leaves_everything_on_tcp(connect, configuration, tool, tmp_path, text, line, expected):
    path, log = configuration(text), tmp_path / "log"
    connection = connect(SAN_CONFIG=path, SAN_LOG="debug:%s" % log)
    deadline = time.monotonic() + 30
    while log.read_text().count("everything stays on TCP: line fd=-1 %d" % line) < 2:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    assert tool("stat", connection.client.pid, connection.server.pid).stdout == "no sessions\n"
    # The traffic goes on.
    assert connection.client.poll() is None and connection.server.poll() is None
    for words in (["config", "--check", path], ["config", "--check"], ["config"], ["doctor", "--library", LIBRARY]):
        done = tool(*words, expect=1, SAN_CONFIG=path)
        assert "%s:%d: expected %s" % (path, line, expected) in done.stdout + done.stderr


def test_a_missing_file_that_was_named_is_broken(configuration, tool, tmp_path):
    assert "No such file" in tool("config", "--check", expect=1, SAN_CONFIG=tmp_path / "none").stdout


def test_a_program_without_tcp_reads_nothing(configuration, tmp_path):
    log, socket = tmp_path / "log", "import socket; socket.socket()"
    more = {"LD_PRELOAD": LIBRARY, "SAN_CONFIG": configuration("wrong\n"), "SAN_LOG": "debug:%s" % log}
    subprocess.run([sys.executable, "-c", "pass"], env=clean_environment(**more), check=True)
    assert log.read_text() == ""
    subprocess.run([sys.executable, "-c", socket], env=clean_environment(**more), check=True)
    assert "configuration is wrong" in log.read_text()


def test_says_which_rule_decides(configuration, tool):
    path = configuration("allow program=psql port=5432\ndeny role=connect address=10.0.0.0/8\n")

    def decided(*words):
        return tool("config", *words, SAN_CONFIG=path).stdout

    assert decided("--connect", "10.0.0.1:5432", "--program", "psql").startswith("allowed by %s:1" % path)
    assert decided("--connect", "10.0.0.1:5432", "--program", "/usr/bin/redis-cli").startswith("stays on TCP by %s:2" % path)
    assert decided("--listen", "10.0.0.1:5432") == "allowed: no rule matches\n"


def test_shows_where_a_value_comes_from(configuration, tool):
    path = configuration("spin-us = 5\nafter-calls = 3\n")
    lines = [line.split() for line in tool("config", SAN_CONFIG=path, SAN_SPIN_US="7").stdout.splitlines()]
    assert ["spin-us", "7", "microseconds", "SAN_SPIN_US"] in lines
    assert ["after-calls", "3", "calls", "%s:2" % path] in lines
    assert ["after-bytes", "65536", "bytes", "default"] in lines


def test_explains_settings(tool):
    text = tool("config", "--explain", "spin-us").stdout
    assert "SAN_SPIN_US" in text and "microseconds" in text and "50, at most 10000" in text
    assert "there is no setting speed" in tool("config", "--explain", "speed", expect=64).stderr


def test_the_reference_pages_are_current():
    done = subprocess.run([os.path.join(ROOT, "Tests/checks/reference"), TOOL, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page, count", [("docs/configuration.md", 2), ("man/sanswitch.conf.5", 2)])
def test_the_examples_of_the_pages_are_fine(configuration, tool, page, count):
    """Indented blocks of rules, and literal displays of the manual."""
    with open(os.path.join(ROOT, page)) as file:
        text = file.read()
    if page.endswith(".5"):
        blocks = [part.split(".Ed")[0] for part in text.split(".Bd -literal -offset indent\n")[1:]]
    else:
        blocks = [block for block in text.split("\n\n") if block.startswith("    ") and "deny\n" in block + "\n" or "    deny p" in block]
    assert len(blocks) == count
    for block in blocks:
        tool("config", "--check", configuration(block))
