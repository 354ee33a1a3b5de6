"""redis-server with redis-benchmark and redis-cli: many small messages, large values, pushes, and a fork under load."""
import csv
import hashlib
import io

import pytest

from support import MIB, MIXED, digest, free_port, need, random_file, until


def redis(stage, *options):
    """A server of its own, its port."""
    need("redis-server")
    port = free_port()
    stage.server("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", stage.directory,
                 "--proto-max-bulk-len", "512mb", *options, port=port)
    return port


def cli(stage, port, *command, **options):
    return stage.run("redis-cli", "-p", port, *command, **options)


def statistics(stage, port):
    return dict(line.split(":", 1) for line in cli(stage, port, "INFO").output.split("\r\n") if ":" in line)


def benchmark(stage, port, requests, *options):
    """Runs SET and GET; returns the names of what it measured. It reports errors in its output only."""
    need("redis-benchmark")
    run = stage.run("redis-benchmark", "-p", port, "-t", "set,get", "-n", requests, "-d", "512", "-r", "1000", "--csv", *options)
    assert "rror" not in run.output + run.errors, run.output + run.errors
    rows = list(csv.reader(io.StringIO(run.output)))[1:]
    assert all(float(row[1]) > 0 for row in rows), rows
    return [row[0] for row in rows]


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_benchmark(stage):
    """One request at a time on each of 20 connections."""
    requests = 10000
    port = redis(stage)
    assert benchmark(stage, port, requests, "-c", "20") == ["SET", "GET"]
    assert int(statistics(stage, port)["total_commands_processed"]) >= 2 * requests
    stage.proves(2 * requests * 512)


@pytest.mark.parametrize("threads", [1, 2])
def test_benchmark_pipelined(stage, threads):
    """16 requests in flight on each connection; client threads that share nothing but the process."""
    requests = 40000
    port = redis(stage)
    assert benchmark(stage, port, requests, "-c", "10", "-P", "16", "--threads", threads) == ["SET", "GET"]
    assert int(statistics(stage, port)["total_commands_processed"]) >= 2 * requests
    stage.proves(2 * requests * 512)


def test_io_threads(stage):
    """Replies written by threads other than the one that waits in epoll."""
    requests = 20000
    port = redis(stage, "--io-threads", "2")
    assert benchmark(stage, port, requests, "-c", "20", "-P", "8") == ["SET", "GET"]
    stage.proves(2 * requests * 512)


def test_publish_subscribe(stage):
    """Pushes without a request: the subscriber only ever waits."""
    messages = 10000
    port = redis(stage)
    subscriber = stage.client("redis-cli", "-p", port, "SUBSCRIBE", "news")
    until(lambda: cli(stage, port, "PUBSUB", "NUMSUB", "news").output.split() == ["news", "1"], "the subscription", alive=subscriber)
    text = "".join("PUBLISH news message-%d-%s\n" % (number, "x" * 200) for number in range(messages))
    publisher = cli(stage, port, input=stage.write("commands", text))
    assert publisher.output.split() == ["1"] * messages
    last = "message-%d-%s" % (messages - 1, "x" * 200)
    until(lambda: last in subscriber.output, "the last message", alive=subscriber)
    lines = subscriber.output.split()
    assert lines[3:] == [word for number in range(messages) for word in ("message", "news", "message-%d-%s" % (number, "x" * 200))]
    subscriber.stop()
    stage.same(hashlib.sha256(" ".join(lines).encode()).hexdigest())
    stage.proves(messages * 200)


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_large_value(stage):
    """64 MiB in one value, there and back: far more than the ring in one write of either side."""
    port = redis(stage)
    value = random_file(stage.path("value"), 64 * MIB)
    assert cli(stage, port, "-x", "SET", "large", input=value).output == "OK\n"
    assert cli(stage, port, "STRLEN", "large").output.split() == [str(64 * MIB)]
    back = cli(stage, port, "GET", "large").output_bytes
    assert back[-1:] == b"\n"
    assert hashlib.sha256(back[:-1]).hexdigest() == digest(value)
    stage.same(hashlib.sha256(back).hexdigest())
    stage.proves(128 * MIB)


def test_saves_in_a_fork_under_load(stage):
    """BGSAVE forks while every connection is busy; the child holds the sessions and uses none of them."""
    need("redis-check-rdb")
    requests = 60000
    port = redis(stage, "--dbfilename", "saved.rdb", "--rdb-key-save-delay", "100")
    for number in range(3):
        cli(stage, port, "SET", "kept-%d" % number, "value-%d" % number)
    load = stage.client("redis-benchmark", "-p", port, "-t", "set,get", "-n", requests, "-d", "512", "-r", "3000", "-c", "20", "--csv")
    until(lambda: int(statistics(stage, port)["db0"].split(",")[0].split("=")[1]) > 1000, "keys", alive=load)
    for _ in range(2):
        assert "Background saving started" in cli(stage, port, "BGSAVE").output
        until(lambda: statistics(stage, port)["rdb_bgsave_in_progress"] == "0", "the end of BGSAVE")
        assert statistics(stage, port)["rdb_last_bgsave_status"] == "ok"
    load.wait()
    assert "rror" not in load.output + load.errors
    assert "RDB looks OK" in stage.start(["redis-check-rdb", stage.path("saved.rdb")], False).wait()
    assert cli(stage, port, "GET", "kept-2").output == "value-2\n"
    stage.proves(2 * requests * 512)


@pytest.mark.parametrize("hard", [4096, 232])
def test_clients_up_to_the_limit_of_descriptors(stage, hard):
    """As many clients as the server's descriptors allow, by its own count; one more is told so."""
    need("prlimit")
    requests, clients = 8000, 200
    port = free_port()
    stage.server("prlimit", "--nofile=232:%d" % hard, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
                 "--dir", stage.directory, "--maxclients", clients, port=port)
    assert benchmark(stage, port, requests, "-c", str(clients - 5)) == ["SET", "GET"]
    waiting = [stage.client("redis-cli", "-p", port, "BLPOP", "none", "0") for _ in range(20)]
    load = stage.client("redis-benchmark", "-p", port, "-c", str(clients + 10), "-n", requests, "-t", "get")
    load.wait(expect=None)
    assert "max number of clients" in load.output + load.errors, load.output + load.errors
    stage.same([client.process.poll() for client in waiting])
    # Within the hard limit there is room for some of the companions only.
    if hard > 232:
        stage.proves(2 * requests * 512)
