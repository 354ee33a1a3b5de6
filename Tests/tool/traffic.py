"""A client and a server of a connection that never rests: `traffic.py serve` prints its port, `traffic.py ask PORT` keeps asking.

With a second argument the client waits so many seconds between questions."""
import socket
import sys
import time


def serve():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


def ask(port, gap):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            connection.sendall(bytes(1000))
            left = 1000
            while left:
                left -= len(connection.recv(left))
            time.sleep(gap)


if sys.argv[1] == "serve":
    serve()
else:
    ask(int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.001)
