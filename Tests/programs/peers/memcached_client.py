"""A memcached client over bare sockets: each thread sets, gets and deletes its own keys, and prints one digest of all answers.

    memcached_client.py PORT THREADS KEYS
"""
import hashlib
import random
import socket
import sys
import threading


def value(thread, key):
    source = random.Random(thread * 100003 + key)
    return source.randbytes(source.choice([0, 1, 100, 4096, 20000, 300000]))


def expect(stream, line):
    answer = stream.readline()
    if answer != line:
        raise SystemExit("expected %r, got %r" % (line, answer))


def work(port, thread, keys, answers):
    state = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rwb") as stream:
        for key in range(keys):
            data = value(thread, key)
            stream.write(b"set %d-%d 0 0 %d\r\n%b\r\n" % (thread, key, len(data), data))
            stream.flush()
            expect(stream, b"STORED\r\n")
        # All requests at once, then all answers: both directions are busy.
        for key in range(keys):
            stream.write(b"get %d-%d\r\n" % (thread, key))
        stream.flush()
        for key in range(keys):
            data = value(thread, key)
            expect(stream, b"VALUE %d-%d 0 %d\r\n" % (thread, key, len(data)))
            state.update(stream.read(len(data) + 2))
            expect(stream, b"END\r\n")
            if key % 2:
                stream.write(b"delete %d-%d\r\n" % (thread, key))
        stream.flush()
        for key in range(1, keys, 2):
            expect(stream, b"DELETED\r\n")
        stream.write(b"quit\r\n")
        stream.flush()
        assert stream.read() == b""
    answers[thread] = state.hexdigest()


def main():
    port, threads, keys = map(int, sys.argv[1:])
    answers = {}
    workers = [threading.Thread(target=work, args=(port, thread, keys, answers)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(answers) == threads, "a thread failed"
    sent = sum(len(value(thread, key)) for thread in range(threads) for key in range(keys))
    print(sent, hashlib.sha256("".join(answers[thread] for thread in range(threads)).encode()).hexdigest())


main()
