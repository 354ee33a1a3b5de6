"""Two processes open, use and close connections at random for a while; what they hold afterwards. Run by test_soak.py.

soak.py SECONDS CONNECTIONS: the server is forked; both print nothing until the end, then one JSON object.
"""
import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time

from endpoint import accept, connect, listener, pattern, read_exactly

THREADS = 4


def echo(sock):
    """Records of length and bytes, answered; ends as the client ends it, by close, shutdown or reset."""
    try:
        while head := sock.recv(4, socket.MSG_WAITALL):
            if len(head) < 4:
                break
            sock.sendall(read_exactly(sock, struct.unpack("I", head)[0])[::-1])
    except (OSError, EOFError):
        pass
    sock.close()


def serve(listening, told):
    """The server: threads for some connections, one epoll loop for none; told when to report and to end."""
    def take():
        while True:
            threading.Thread(target=echo, args=(accept(listening),), daemon=True).start()
    threading.Thread(target=take, daemon=True).start()
    while question := told.recv(1):
        wait_for(lambda: threading.active_count() <= 2)
        told.sendall(json.dumps(held()).ljust(200).encode())
    os._exit(0)


def wait_for(condition):
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def held():
    """Descriptors and resident KiB of this process."""
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"descriptors": len(os.listdir("/proc/self/fd")), "resident": resident}


def use(address, chance):
    """One connection's life; how many bytes it echoed."""
    sock = connect(address)
    moved = 0
    for _ in range(chance.choice((0, 1, 5, 12, 12, 40))):
        size = chance.choice((1, 20, 300, 4096, 5000, chance.randrange(100000), chance.randrange(400000) if chance.random() < 0.2 else 7))
        data = pattern(size, chance.randrange(4099))
        sock.sendall(struct.pack("I", size) + data)
        if read_exactly(sock, size) != data[::-1]:
            raise AssertionError("another echo")
        moved += size
    finish(sock, chance)
    return moved


def finish(sock, chance):
    how = chance.randrange(5)
    if how == 0:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    elif how == 1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == 2:
        sock.sendall(struct.pack("I", 50) + b"the rest never comes")
    elif how == 3:
        sock.sendall(struct.pack("I", 50) + bytes(50))
        select.select([sock], [], [], 5)  # the answer stays unread
    sock.close()


def round_of(address, seconds, connections, seed):
    """Several threads of clients, until both limits are passed; connections and bytes."""
    counts, failures = [], []
    end = time.monotonic() + seconds

    def work(number):
        chance, done, moved = random.Random(seed * 100 + number), 0, 0
        try:
            while time.monotonic() < end or done < connections / THREADS:
                moved += use(address, chance)
                done += 1
        except BaseException as error:
            failures.append(repr(error))
        counts.append((done, moved))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [sum(done for done, _ in counts), sum(moved for _, moved in counts), failures]


def main():
    seconds, connections = float(sys.argv[1]), int(sys.argv[2])
    listening = listener(backlog=512)
    near, far = socket.socketpair()
    if os.fork() == 0:
        near.close()
        serve(listening, far)
    far.close()
    result = {"rounds": [], "client": [], "server": []}
    for number, share in enumerate((0.2, 0.4, 0.4)):
        result["rounds"].append(round_of(listening.getsockname(), seconds * share, connections * share, number))
        time.sleep(1.5)  # what is kept a while for reuse is given back
        near.sendall(b"?")
        result["server"].append(json.loads(read_exactly(near, 200)))
        result["client"].append(held())
    near.close()
    os.wait()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
