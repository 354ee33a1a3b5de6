"""A server under the library and peers that mean harm: it neither crashes nor hangs, and serves honest clients on."""
import os
import subprocess
import sys
import tempfile
import time

import pytest

import attacks
import harness
import hostile
from endpoint import wait_until

MODES = ("threads", "epoll")
NOBODY = 65534


class Program:
    """victim.py under the library, from its first line of output to the end of its input."""

    def __init__(self, *arguments):
        self.log = tempfile.NamedTemporaryFile("r", prefix="san-log-", errors="replace")
        self.errors = tempfile.TemporaryFile("w+")
        command = [harness.PYTHON, os.path.join(harness.HERE, "victim.py")] + [str(each) for each in arguments]
        self.process = subprocess.Popen(command, env=harness.environment(True, self.log.name, SAN_AFTER_CALLS=2), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.first = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.log.close()
        self.errors.close()

    def finish(self):
        """Ends the program; its last line. It must have gone well."""
        output, _ = self.process.communicate("\n", timeout=10)
        self.errors.seek(0)
        assert self.process.returncode == 0, "status %d\n%s\n%s" % (self.process.returncode, self.errors.read(), self.log.read()[-3000:])
        return output.strip()

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    def seconds(self):
        """Processor time so far."""
        with open("/proc/%d/stat" % self.process.pid) as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load(self, seconds):
        """The share of a processor that it uses for a while."""
        before, begin = self.seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.seconds() - before) / (time.monotonic() - begin)


def honest(port):
    client = Program("use", port)
    assert client.first == "switched", "an honest client did not switch over"
    return client


def serves(port):
    """A fresh client switches over and is answered."""
    with honest(port) as client:
        assert int(client.finish()) >= 4


@pytest.fixture(params=MODES)
def victim(request):
    with Program("serve", request.param) as program:
        program.address = ("127.0.0.1", int(program.first))
        yield program


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_serves_on(victim, attack):
    port = victim.address[1]
    serves(port)
    wait_until(lambda: victim.load(0.05) < 0.2, "rest")
    before = victim.descriptors()
    with honest(port) as client:
        attacks.ATTACKS[attack](victim.address)
        assert victim.process.poll() is None, "the server has died"
        assert int(client.finish()) >= 4
    serves(port)
    wait_until(lambda: victim.descriptors() <= before + 1, "descriptors: %d before, %d now" % (before, victim.descriptors()))
    assert victim.load(0.3) < 0.2, "the server has no rest afterwards"
    victim.finish()


@pytest.mark.parametrize("sent", [1, 143, 145, 287])
def test_half_a_message_costs_nothing(victim, sent):
    """A visitor that stops in the middle of a message, or goes on after it, must not keep the switch's thread busy."""
    connection = hostile.Connection(victim.address)
    connection.companion = hostile.visit(victim.address)
    text = hostile.message(hostile.PROPOSAL, connection.local, victim.address)
    connection.companion.sendall((text + text)[:sent])
    assert victim.load(0.5) < 0.2
    connection.close()
    victim.finish()


def as_nobody(work, *arguments):
    """Runs `work` in a child that has become another user; it must succeed."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work(*arguments)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write("as nobody: %r\n" % error)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@needs_root
@pytest.mark.parametrize("kind", [hostile.PROPOSAL, hostile.CLAIM])
def test_another_user_gets_no_session(victim, kind):
    """Nobody proposes, or claims, for a connection of root's: refused, and the connection stays on TCP."""
    connection = hostile.Connection(victim.address)
    for _ in range(4):
        connection.echo()

    def steal():
        sock = hostile.visit(victim.address)
        fd = hostile.memory()
        ends = (connection.local, victim.address) if kind == hostile.PROPOSAL else (victim.address, connection.local)
        ring = hostile.LARGE if kind == hostile.PROPOSAL else 0
        hostile.socket.send_fds(sock, [hostile.message(kind, *ends, ring=ring)], [fd])
        assert attacks.is_sent_away(sock)
    as_nobody(steal)
    for _ in range(50):
        connection.echo()
    connection.close()
    assert "companion attached" not in victim.log.read()
    serves(victim.address[1])
    victim.finish()


@needs_root
def test_another_users_rendezvous_is_not_used():
    """Nobody holds the abstract name of root's port: clients and server of root stay on TCP."""
    port = hostile.socket.create_server(("127.0.0.1", 0))
    address = port.getsockname()
    squatter = hostile.socket.socket(hostile.socket.AF_UNIX, hostile.socket.SOCK_STREAM)

    def squat():
        squatter.bind(hostile.name(address))
        squatter.listen(100)
    as_nobody(squat)
    port.close()
    result = harness.run("stays.py", address[1], switched=True, SAN_AFTER_CALLS=2)
    squatter.close()
    assert result.status == 0 and result.trace == "stayed", result.describe()
    assert result.events("no companion proposed, reason"), result.describe()
    assert not result.events("companion attached"), result.describe()
