"""PostgreSQL over TCP: a server that forks for every connection, keeps its sockets non-blocking and waits in epoll."""
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

from support import MIXED, digest, free_port, need, until

USER = "postgres"


def binary(name):
    need("psql")
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name)) or [shutil.which(name)]
    if not found[-1]:
        pytest.skip("%s of PostgreSQL is not installed" % name)
    return found[-1]


@pytest.fixture(scope="session")
def cluster():
    """A data directory that every test copies: initdb takes longer than any of them."""
    initdb = binary("initdb")
    if os.geteuid() != 0:
        pytest.skip("needs root to start a server as user %s" % USER)
    directory = tempfile.mkdtemp(prefix="san-cluster-")
    shutil.chown(directory, USER, USER)
    subprocess.run([initdb, "-D", directory + "/data", "-A", "trust", "-U", USER, "--no-sync", "--locale=C"], user=USER,
                   group=USER, extra_groups=[], cwd=directory, check=True, capture_output=True, timeout=60)
    yield directory + "/data"
    shutil.rmtree(directory)


class Database:
    def __init__(self, stage, cluster):
        self.stage, self.port = stage, free_port()
        self.data = stage.path("data")
        subprocess.run(["cp", "-a", cluster, self.data], check=True)
        self.server = stage.server(
            binary("postgres"), "-D", self.data, "-p", self.port, "-h", "127.0.0.1", "-k", "", "-c", "fsync=off", user=USER,
            environment={"HOME": self.data}, port=self.port)
        until(lambda: "ready to accept connections" in self.server.errors, "the server to be ready", alive=self.server)

    def run(self, program, *arguments, user=USER):
        environment = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGDATABASE": USER, "HOME": self.stage.directory,
                       "PGCONNECT_TIMEOUT": "10"}
        return self.stage.run(binary(program), *arguments, environment=environment, user=user)

    def query(self, text):
        return self.run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text).output.strip()

    def stop(self):
        """A fast shutdown that ends well shows that no backend was left behind."""
        assert self.server.stop(signal.SIGINT, 10) == 0, self.server.describe()


@pytest.fixture
def database(stage, cluster):
    return Database(stage, cluster)


def transactions(output):
    assert re.search(r"number of failed transactions: 0 \(0\.000%\)", output), output
    return re.search(r"number of transactions actually processed: (\d+/\d+)", output)[1]


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_pgbench(database, stage):
    """Reads and then writes by two clients; the balances add up, so no transaction was lost or done twice."""
    database.run("pgbench", "-i", "-q", "-s", "1")
    assert transactions(database.run("pgbench", "-n", "-S", "-c", "2", "-t", "400").output) == "800/800"
    assert transactions(database.run("pgbench", "-n", "-c", "2", "-t", "50", "-M", "prepared").output) == "100/100"
    sums = database.query("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),"
                          " (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),"
                          " (SELECT count(*) FROM pgbench_history), (SELECT count(*) FROM pgbench_accounts)")
    assert sums == "t|t|100|100000"
    stage.same(sums)
    database.stop()
    if stage.mode.switches:
        assert sum(len(log.switch_overs()) for log in stage.logs()) >= 4, "no connection of pgbench switched over"


def test_connection_per_transaction(database, stage):
    """A fork, a few calls, and the end of the process, again and again."""
    database.run("pgbench", "-i", "-q", "-s", "1")
    assert transactions(database.run("pgbench", "-n", "-S", "-C", "-c", "2", "-t", "60").output) == "120/120"
    database.stop()


def test_copy_of_a_large_table(database, stage):
    """Some 20 MB out by COPY and in again: a forked backend that sends, and one that receives, in bulk."""
    database.query("CREATE TABLE source AS SELECT n, repeat(md5(n::text), 6) AS text FROM generate_series(1, 100000) n")
    for folder in ("out", "back"):
        os.makedirs(stage.path(folder))
        shutil.chown(stage.path(folder), USER)
    database.query("\\copy source TO '%s/out/table'" % stage.directory)
    database.query("CREATE TABLE target (LIKE source)")
    database.query("\\copy target FROM '%s/out/table'" % stage.directory)
    database.query("\\copy target TO '%s/back/table'" % stage.directory)
    size = os.path.getsize(stage.path("out/table"))
    assert size > 15 << 20
    assert digest(stage.path("out/table")) == digest(stage.path("back/table"))
    stage.same(digest(stage.path("out/table")))
    database.stop()
    stage.proves(3 * size)


def test_client_of_another_user(database, stage):
    """root speaks to a server of user postgres: the same answers, whichever path is allowed to carry them."""
    answer = database.run("psql", "-qAtX", "-c", "SELECT repeat('x', 100000) FROM generate_series(1, 50)", user=None).output
    assert answer == ("x" * 100000 + "\n") * 50
    database.stop()
