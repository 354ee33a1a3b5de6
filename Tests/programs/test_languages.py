"""Echo servers and clients of several language runtimes; each client checks every byte that comes back."""
import os
import shutil
import subprocess
import tempfile

import pytest

from support import MIB, MIXED, ONLY_CLIENT, ONLY_SERVER, PEERS, PLAIN, PYTHON, free_port, need

# TCP carries what both socket buffers hold before a busy sender switches over, some megabytes: LENGTH is well above that.
CONNECTIONS, LENGTH = 3, 32 * MIB
TOTAL = 2 * CONNECTIONS * LENGTH

mixed = pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)


def echo(stage, server, client, total=TOTAL):
    """One server, one client with its connections; the digest is the plain run's, the path as the mode wants it."""
    port = free_port()
    stage.server(*[port if part == "PORT" else part for part in server], port=port)
    answer = stage.run(*[port if part == "PORT" else part for part in client]).output
    assert len(answer.split()) == 1
    stage.same(answer)
    stage.proves(total)


PYTHON_CLIENT = [PYTHON, PEERS + "/echo_client.py", "PORT", CONNECTIONS, LENGTH]


@mixed
def test_python_threads(stage):
    echo(stage, [PYTHON, PEERS + "/echo_server.py", "threads", "PORT"], PYTHON_CLIENT)


def test_python_forks(stage):
    """Accept, fork, and the parent closes: the child is the one who moves data."""
    echo(stage, [PYTHON, PEERS + "/echo_server.py", "forks", "PORT"], PYTHON_CLIENT)


@mixed
def test_python_asyncio(stage):
    echo(stage, [PYTHON, PEERS + "/echo_asyncio.py", "server", "PORT"],
         [PYTHON, PEERS + "/echo_asyncio.py", "client", "PORT", CONNECTIONS, LENGTH])


def test_python_asyncio_many_connections(stage):
    echo(stage, [PYTHON, PEERS + "/echo_asyncio.py", "server", "PORT"],
         [PYTHON, PEERS + "/echo_asyncio.py", "client", "PORT", 60, 4 * MIB], 480 * MIB)


@pytest.fixture(scope="session")
def java():
    """The command that runs the compiled example."""
    compiler, runtime = need("javac"), need("java")
    directory = tempfile.mkdtemp(prefix="san-java-")
    subprocess.run([compiler, "-d", directory, PEERS + "/Echo.java"], check=True, timeout=60)
    yield [runtime, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", directory, "Echo"]
    shutil.rmtree(directory)


@pytest.mark.parametrize("server", ["threads", "selector"])
def test_java(stage, java, server):
    echo(stage, java + [server, "PORT"], java + ["client", "PORT", CONNECTIONS, LENGTH])


def test_node(stage):
    node = need("node")
    echo(stage, [node, PEERS + "/echo.js", "server", "PORT"], [node, PEERS + "/echo.js", "client", "PORT", CONNECTIONS, LENGTH])


def test_mixed_languages(stage):
    """Node serves Python: nothing depends on both ends being the same program."""
    echo(stage, [need("node"), PEERS + "/echo.js", "server", "PORT"], PYTHON_CLIENT)


@pytest.fixture(scope="session")
def static():
    """A static program, which no LD_PRELOAD reaches."""
    directory = tempfile.mkdtemp(prefix="san-static-")
    program = os.path.join(directory, "static_echo")
    done = subprocess.run([need("gcc"), "-O1", "-static", "-o", program, PEERS + "/static_echo.c"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("cannot link a static program (is libc6-dev installed?): " + done.stderr[-200:])
    yield program
    shutil.rmtree(directory)


@pytest.mark.parametrize("stage", [PLAIN, ONLY_SERVER], indirect=True, ids=lambda mode: mode.name)
def test_static_client(stage, static):
    echo(stage, [PYTHON, PEERS + "/echo_server.py", "threads", "PORT"], [static, "client", "PORT", 16 * MIB], 32 * MIB)


@pytest.mark.parametrize("stage", [PLAIN, ONLY_CLIENT], indirect=True, ids=lambda mode: mode.name)
def test_static_server(stage, static):
    echo(stage, [static, "server", "PORT"], [PYTHON, PEERS + "/echo_client.py", "PORT", 1, 16 * MIB], 32 * MIB)
