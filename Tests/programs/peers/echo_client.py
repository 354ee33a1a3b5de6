"""Sends seeded random bytes on several connections, one thread each way, and checks that the echo is the same.

    echo_client.py PORT CONNECTIONS BYTES      prints one digest of all that came back
"""
import hashlib
import os
import random
import socket
import sys
import threading


def send(connection, number, length, state):
    source = random.Random(number)
    while length > 0:
        part = source.randbytes(min(length, source.choice([1, 10, 1000, 4096, 65536, 300000])))
        state.update(part)
        connection.sendall(part)
        length -= len(part)
    connection.shutdown(socket.SHUT_WR)


def receive(connection, number, state):
    source = random.Random(-number)
    while part := connection.recv(source.choice([1, 100, 4096, 65536, 1 << 20])):
        state.update(part)


def main():
    port, connections, length = map(int, sys.argv[1:])
    threads, states = [], []
    for number in range(connections):
        connection = socket.create_connection((os.environ.get("ECHO_HOST", "127.0.0.1"), port))
        sent, received = hashlib.sha256(), hashlib.sha256()
        states.append((sent, received))
        threads.append(threading.Thread(target=send, args=(connection, number, length, sent)))
        threads.append(threading.Thread(target=receive, args=(connection, number, received)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (sent, received) in enumerate(states):
        assert sent.digest() == received.digest(), "connection %d came back different" % number
    print(hashlib.sha256(b"".join(received.digest() for _, received in states)).hexdigest())


main()
