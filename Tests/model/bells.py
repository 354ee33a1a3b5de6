"""A question and its answer over and over, both ends asleep in epoll_wait each time: every message needs a doorbell, and none may be lost.
Run by test_readiness.py; prints how many answers came."""
import json
import os
import select
import socket
import sys


def wait(epoll, sock):
    epoll.poll()
    return sock.recv(64)


def main(rounds):
    listener = socket.create_server(("127.0.0.1", 0))
    server = os.fork()
    if server == 0:
        peer, _ = listener.accept()
        listener.close()
        epoll = select.epoll()
        epoll.register(peer, select.EPOLLIN)
        while data := wait(epoll, peer):
            peer.sendall(data)
        os._exit(0)
    sock = socket.create_connection(listener.getsockname())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN)
    answers = 0
    for _ in range(rounds):
        sock.sendall(b"x" * 64)
        answers += wait(epoll, sock) == b"x" * 64
    sock.close()
    os.waitpid(server, 0)
    print(json.dumps({"answers": answers}))


main(int(sys.argv[1]))
