"""Running real programs plain and under the library: processes, modes, and a stage for each test.

A `Stage` is one test's run: its mode says which side runs under the library, and whatever it started is stopped with it.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from log import Log
from machine import DEADLINE, MIB, digest, free_port, listens, need, random_file, threads, until  # noqa: F401, used by tests
from proofs import assert_all_on_tcp, assert_bulk_on_companion

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = os.environ.get("SAN_LIBRARY", os.path.join(ROOT, "build", "lib", "libsanswitch.so"))
TOOL = os.path.join(ROOT, "build", "bin", "sanswitch")
PEERS = os.path.join(HERE, "peers")
PYTHON = sys.executable


class Program:
    """One started program, with its output and its part of the library's log."""

    def __init__(self, stage, number, command, switched, environment=None, user=None, input=None, directory=None):
        self.name = os.path.basename(command[0])
        stem = os.path.join(stage.directory, "%02d-%s" % (number, self.name))
        self.output_path, self.errors_path, self.log = stem + ".out", stem + ".err", Log(stem + ".log")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SAN", "LD_PRELOAD"))}
        variables.update(environment or {})
        self.switched = switched
        if switched:
            variables["LD_PRELOAD"] = stage.library
            variables["SAN_LOG"] = "debug:" + self.log.path
            # Programs that change their user write to it too.
            open(self.log.path, "w").close()
            os.chmod(self.log.path, 0o666)
        with open(self.output_path, "wb") as output, open(self.errors_path, "wb") as errors:
            source = open(input, "rb") if input else subprocess.DEVNULL
            # In a process group of its own, so that what it forked can be stopped with it.
            self.process = subprocess.Popen(
                [str(part) for part in command], env=variables, stdin=source, stdout=output, stderr=errors, user=user,
                group=user, extra_groups=[] if user else None, cwd=directory or stage.directory, start_new_session=True)
            if input:
                source.close()

    def wait(self, expect=0, deadline=DEADLINE):
        """Waits for its end and returns its output; any other status than expected is a failure."""
        try:
            status = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            pytest.fail("%s still runs after %.0f s\n%s" % (self.name, deadline, self.describe()))
        if expect is not None and status != expect:
            pytest.fail("%s ended with status %d\n%s" % (self.name, status, self.describe()))
        return self.output

    @property
    def output(self):
        return self.output_bytes.decode(errors="replace")

    @property
    def output_bytes(self):
        with open(self.output_path, "rb") as file:
            return file.read()

    @property
    def errors(self):
        with open(self.errors_path, errors="replace") as file:
            return file.read()

    def stop(self, sign=signal.SIGTERM, deadline=5):
        """Asks it to end, then makes it, together with all it has forked; returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(deadline)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.process.wait()

    def describe(self):
        """For the report of a failure: what it and its children are doing, what they said."""
        return "--- %s (pid %d, %s)\n%s--- output (end)\n%s\n--- errors (end)\n%s\n--- log (end)\n%s" % (
            self.name, self.process.pid, "under the library" if self.switched else "plain", threads(self.process.pid),
            self.output[-1500:], self.errors[-1500:], self.log.tail())


class Mode:
    """Which side of a test runs under the library."""

    def __init__(self, name, server, client):
        self.name, self.server, self.client = name, server, client

    @property
    def switches(self):
        return self.server and self.client


PLAIN = Mode("plain", False, False)
SWITCHED = Mode("switched", True, True)
ONLY_SERVER = Mode("only_server", True, False)
ONLY_CLIENT = Mode("only_client", False, True)
BOTH = [PLAIN, SWITCHED]
MIXED = [PLAIN, SWITCHED, ONLY_SERVER, ONLY_CLIENT]


class Stage:
    """One test in one mode: starts its programs, stops them, and holds its results against the plain run's."""

    def __init__(self, mode, library, plain_result):
        self.mode, self.library, self.plain_result = mode, library, plain_result
        self.programs, self.servers, self.clients = [], [], []
        # Not pytest's own: programs that give up root must be able to enter it.
        self.directory = tempfile.mkdtemp(prefix="san-programs-")
        os.chmod(self.directory, 0o755)

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def server(self, *command, port=None, **options):
        """Starts a server; with `port`, returns once it listens there."""
        server = self.start(command, self.mode.server, **options)
        self.servers.append(server)
        if port:
            until(lambda: listens(port), "port %d" % port, alive=server)
        return server

    def client(self, *command, **options):
        client = self.start(command, self.mode.client, **options)
        self.clients.append(client)
        return client

    def run(self, *command, expect=0, deadline=DEADLINE, **options):
        """Runs a client to its end."""
        client = self.client(*command, **options)
        client.wait(expect, deadline)
        return client

    def start(self, command, switched, **options):
        program = Program(self, len(self.programs), command, switched, **options)
        self.programs.append(program)
        return program

    def close(self):
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def describe(self):
        return "\n".join(program.describe() for program in self.programs)

    # What must hold

    def same(self, result):
        """The result of this run equals the plain run's (which goes first)."""
        if self.mode is PLAIN:
            self.plain_result.append(result)
        elif self.plain_result:
            assert result == self.plain_result[0], "under the library: %s\nplain: %s" % (result, self.plain_result[0])

    def logs(self):
        return [program.log for program in self.programs if program.switched]

    def proves(self, total, share=0.25):
        """Where `total` bytes must have gone in this mode: over the companion with both sides aware, else over TCP."""
        # Either side's log accounts for every byte by itself; a side's programs are added up.
        sides = [[program.log for program in side if program.switched] for side in (self.servers, self.clients)]
        if self.mode.switches:
            assert_bulk_on_companion(sides, total, share)
        elif self.mode is not PLAIN:
            assert_all_on_tcp(sides, total)
        else:
            assert not self.logs()


def stat_json():
    """Every session that `sanswitch stat` shows; a skip where the tool is not built."""
    if not os.path.exists(TOOL):
        pytest.skip("build/bin/sanswitch is not built")
    done = subprocess.run([TOOL, "stat", "--json"], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
