"""Programs that move files: netcat, socat, an rsync daemon, and OpenSSH."""
import filecmp
import getpass
import os
import re
import shutil

import pytest

from support import MIB, MIXED, digest, free_port, listens, need, random_file, until

mixed = pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)


@mixed
def test_netcat(stage):
    """One way: the sender's half-close is the end of the file, and the receiver's end."""
    netcat, port = need("nc"), free_port()
    source = random_file(stage.path("source"), 64 * MIB)
    receiver = stage.server(netcat, "-l", "-N", "127.0.0.1", port, port=port)
    stage.run(netcat, "-N", "127.0.0.1", port, input=source)
    receiver.wait()
    assert digest(receiver.output_path) == digest(source)
    stage.proves(64 * MIB)


def test_socat_both_ways(stage):
    """Each end sends a file and half-closes when it ends; both files arrive whole, the longer one after the half-close."""
    program, port = need("socat"), free_port()
    there, back = random_file(stage.path("there"), 32 * MIB, 1), random_file(stage.path("back"), 48 * MIB, 2)
    options = [program, "-b65536", "-t20", "STDIN!!STDOUT"]
    server = stage.server(*options, "TCP-LISTEN:%d,bind=127.0.0.1" % port, port=port, input=back)
    client = stage.run(*options, "TCP:127.0.0.1:%d" % port, input=there)
    server.wait()
    assert digest(server.output_path) == digest(there)
    assert digest(client.output_path) == digest(back)
    stage.proves(80 * MIB)


def test_socat_forks_and_executes(stage):
    """socat accepts, forks, and executes a program whose output it relays."""
    program, port = need("socat"), free_port()
    source = random_file(stage.path("source"), 64 * MIB)
    stage.server(program, "-b65536", "TCP-LISTEN:%d,bind=127.0.0.1,fork" % port, "EXEC:cat " + source, port=port)
    for name in ("first", "second"):
        client = stage.run(program, "-b65536", "-u", "TCP:127.0.0.1:%d" % port, "STDOUT")
        assert digest(client.output_path) == digest(source), name
    stage.proves(128 * MIB)


def tree(root):
    """Files of many sizes in a few folders, the same in every run."""
    for folder in ("a", "a/b", "c"):
        os.makedirs(os.path.join(root, folder))
    for number, size in enumerate([0, 1, 1000, 65536, 65537, 3 * MIB, 12 * MIB] + [20000] * 60):
        random_file(os.path.join(root, ("a", "a/b", "c")[number % 3], "file-%d" % number), size, number)
    return root


def same_tree(left, right):
    comparison = filecmp.dircmp(left, right)
    assert not comparison.left_only and not comparison.right_only and not comparison.funny_files
    for name in comparison.common_files:
        assert digest(os.path.join(left, name)) == digest(os.path.join(right, name)), name
    for name in comparison.common_dirs:
        same_tree(os.path.join(left, name), os.path.join(right, name))


def rsync(stage, *options):
    """A daemon with one writable module; returns the module's URL and folder."""
    program, port = need("rsync"), free_port()
    folder = stage.path("module")
    os.mkdir(folder)
    text = "use chroot = no\npid file = %s\nlock file = %s\n" % (stage.path("rsync.pid"), stage.path("rsync.lock"))
    text += "[files]\npath = %s\nread only = no\nuid = %d\ngid = %d\n" % (folder, os.getuid(), os.getgid())
    stage.server(program, "--daemon", *options, "--config", stage.write("rsyncd.conf", text), "--port", port, "--address", "127.0.0.1")
    return "rsync://127.0.0.1:%d/files/" % port, folder, port


@mixed
def test_rsync_daemon(stage):
    """A tree up and down again; both ends fork (receiver and generator share the connection) and use select(2)."""
    url, folder, port = rsync(stage, "--no-detach")
    until(lambda: listens(port), "the daemon", alive=stage.programs[0])
    source = tree(stage.path("source"))
    stage.run("rsync", "-a", "--whole-file", source + "/", url)
    same_tree(source, folder)
    stage.run("rsync", "-a", "--checksum", "--whole-file", url, stage.path("copy"))
    same_tree(source, stage.path("copy"))
    if stage.mode.switches:
        stage.proves(2 * 15 * MIB, 0.5)


def test_rsync_changes_only(stage):
    """The delta algorithm talks both ways at once; a changed block in a large file is all that moves."""
    url, folder, port = rsync(stage, "--no-detach")
    until(lambda: listens(port), "the daemon", alive=stage.programs[0])
    source = tree(stage.path("source"))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with open(os.path.join(source, "a", "file-6"), "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    statistics = stage.run("rsync", "-a", "--no-whole-file", "--checksum", "--stats", source + "/", url).output
    same_tree(source, folder)
    figures = [re.search(name + r": ([\d,]+)", statistics)[1] for name in ("regular files transferred", "Total file size", "Matched data")]
    stage.same(figures)


def test_rsync_daemonises(stage):
    """The daemon detaches by fork, closes what it inherited, and still serves."""
    url, folder, port = rsync(stage)
    stage.programs[0].wait()
    try:
        until(lambda: listens(port), "the daemon")
        source = tree(stage.path("source"))
        stage.run("rsync", "-a", "--whole-file", source + "/", url)
        same_tree(source, folder)
    finally:
        stop_daemon(stage.path("rsync.pid"))


def stop_daemon(path):
    """Ends a detached daemon by the process id that it has written."""
    def gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True

    pid = int(until(lambda: os.path.exists(path) and open(path).read(), "the daemon's pid file"))
    os.kill(pid, 15)
    until(gone, "the end of the daemon")


SSHD = """
Port %(port)d
ListenAddress 127.0.0.1
HostKey %(directory)s/host
AuthorizedKeysFile %(directory)s/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


@pytest.fixture
def ssh(stage):
    """An sshd of the test's own; returns the options with which ssh and scp reach it."""
    program, port = need("sshd"), free_port()
    need("scp")
    if os.geteuid() != 0:
        pytest.skip("needs root to start sshd")
    os.makedirs("/run/sshd", exist_ok=True)
    for name in ("host", "key"):
        stage.start(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stage.path(name)], False).wait()
    stage.server(program, "-D", "-e", "-f", stage.write("sshd_config", SSHD % {"port": port, "directory": stage.directory}), port=port)
    return ["-F", "none", "-i", stage.path("key"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
            "-o", "UserKnownHostsFile=" + stage.path("known"), "-o", "Port=%d" % port]


@mixed
def test_scp(stage, ssh):
    """Up and down again. sshd executes itself anew, forks, and confines a child with seccomp: all of it must still work."""
    source = random_file(stage.path("source"), 24 * MIB)
    target = "%s@127.0.0.1:" % getpass.getuser()
    stage.run("scp", "-q", *ssh, source, target + stage.path("there"))
    stage.run("scp", "-q", *ssh, target + stage.path("there"), stage.path("back"))
    assert digest(stage.path("there")) == digest(stage.path("back")) == digest(source)


def test_ssh_command(stage, ssh):
    """Standard input, output, error and status of a remote command."""
    source = random_file(stage.path("source"), 8 * MIB)
    run = stage.run("ssh", *ssh, "%s@127.0.0.1" % getpass.getuser(), "sha256sum; echo trouble >&2; exit 7", input=source, expect=7)
    assert run.output.split()[0] == digest(source)
    assert run.errors == "trouble\n"
