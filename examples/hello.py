#!/usr/bin/python3
"""A client and a server, the plainest there are: nothing in here knows of the switch.

    $ examples/hello.py
    1000 questions, 1000 right answers
    TCP carried every byte
    $ build/bin/sanswitch run -- examples/hello.py
    1000 questions, 1000 right answers
    TCP carried the beginning, the companion the rest
"""
import multiprocessing
import socket
import struct

QUESTIONS, SIZE = 1000, 64


def read_all(connection):
    data = b""
    while len(data) < SIZE:
        got = connection.recv(SIZE - len(data))
        if not got:
            return None
        data += got
    return data


def serve(listener):
    """Gives every message back."""
    connection, _ = listener.accept()
    with connection:
        while data := read_all(connection):
            connection.sendall(data)


def sent_by_tcp(connection):
    """The kernel's own count of what its TCP has sent: the 26th number of struct tcp_info (Linux 4.19)."""
    return struct.unpack_from("Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 25 * 8)[0]


def ask(address):
    right = 0
    with socket.create_connection(address) as connection:
        for i in range(QUESTIONS):
            question = f"question {i}".encode().ljust(SIZE, b"\0")
            connection.sendall(question)
            right += read_all(connection) == question
        print(f"{QUESTIONS} questions, {right} right answers")
        all_on_tcp = sent_by_tcp(connection) == QUESTIONS * SIZE
        print("TCP carried every byte" if all_on_tcp else "TCP carried the beginning, the companion the rest")


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = multiprocessing.Process(target=serve, args=(listener,))
        server.start()
        ask(listener.getsockname())
        server.join()
