"""An echo server with blocking calls, one thread or one process per connection.      echo_server.py threads|forks PORT"""
import os
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while part := self.request.recv(100000):
            self.request.sendall(part)


class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


class Forks(socketserver.ForkingTCPServer):
    allow_reuse_address = True


kind = {"threads": Threads, "forks": Forks}[sys.argv[1]]
kind((os.environ.get("ECHO_HOST", "127.0.0.1"), int(sys.argv[2])), Echo).serve_forever()
