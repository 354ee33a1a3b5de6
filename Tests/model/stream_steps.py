"""The steps of the stream model, as one actor does them. `sender` is whether this actor writes the step's direction."""
import errno
import os
import select
import socket
import threading

from endpoint import outcome, poll_events, task_state, wait_until


def transfer(actor, step, sender):
    if sender:
        actor.send_chunks(step["send"], step["send_wait"], step["chunks"])
    else:
        actor.receive_chunks(step["receive"], step["receive_wait"], step["take"], step["count"])


def duplex(actor, step, sender):
    """Both directions at once: by two threads when blocking, by one loop otherwise."""
    sends, count = step["sends"][actor.role], step["takes"][1 - actor.role]
    if actor.is_blocking:
        failed = []

        def work():
            try:
                actor.send_chunks("send", "poll", sends)
            except BaseException as error:
                failed.append(error)
        thread = threading.Thread(target=work)
        thread.start()
        left = count
        while left:
            left -= actor.receive_once("recv", "poll", min(left, step["size"]))
        thread.join()
        if failed:
            raise failed[0]
    else:
        loop(actor, sum(sends), count, step["size"])
    actor.note("duplex", sum(sends), count)


def loop(actor, to_send, to_receive, size):
    poller = select.poll()
    while to_send or to_receive:
        poller.register(actor.sock, (select.POLLOUT if to_send else 0) | (select.POLLIN if to_receive else 0))
        events = poller.poll(10000)
        if not events:
            raise AssertionError("poll: nothing within 10 s, %d to send, %d to receive" % (to_send, to_receive))
        if events[0][1] & select.POLLIN and to_receive:
            to_receive -= actor.check_in(min(size, to_receive))
        if events[0][1] & select.POLLOUT and to_send:
            to_send -= actor.put_out(min(size, to_send))


def burst(actor, step, sender):
    if sender:
        actor.send_chunks(step["send"], step["send_wait"], step["chunks"])


def peek(actor, step, sender):
    """What MSG_PEEK shows is there, and stays there. With MSG_WAITALL it shows all it was asked for."""
    if sender:
        return
    actor.arrived(step["available"])
    flags = socket.MSG_PEEK | (socket.MSG_WAITALL if step["all"] else 0)
    shown = actor.check(actor.sock.recv(step["count"], flags))
    actor.note("peek", shown)
    actor.arrived(step["available"])


def exact(actor, step, sender):
    """All bytes in flight have arrived: one call takes all that fit."""
    if sender:
        return
    actor.arrived(step["available"])
    call, count, sock = step["call"], step["count"], actor.sock
    if call == "read":
        data = os.read(sock.fileno(), count)
    elif call == "recvmsg":
        data = sock.recvmsg(count)[0]
    else:
        data = sock.recv(count, socket.MSG_DONTWAIT if call == "dontwait" else 0)
    got = actor.check(data)
    actor.offset[1 - actor.role] += got
    actor.note("exact", got)
    # A short count is legal for a stream; the bytes themselves must follow.
    left = min(count, step["available"]) - got
    while left > 0:
        left -= actor.receive_once("recv", "poll", left)


def nothing(actor, step, sender):
    if sender:
        return
    how, sock = step["how"], actor.sock
    if how == "limited" and actor.is_blocking:
        actor.limit(0.002)
        result = [outcome(sock.recv, 5), outcome(os.read, sock.fileno(), 5), outcome(sock.recv, 5, socket.MSG_WAITALL)]
        actor.limit(0)
    elif how == "toggle":
        before = actor.is_blocking
        actor.set_blocking(False)
        result = [outcome(sock.recv, 5), outcome(sock.recvmsg, 5), outcome(os.read, sock.fileno(), 5)]
        actor.set_blocking(before, "ioctl")
    elif how == "peek":
        result = [outcome(sock.recv, 5, socket.MSG_PEEK | socket.MSG_DONTWAIT)]
    elif how == "waiters":
        result = [poll_events(sock), select.select([sock], [], [], 0)[0], bool(actor.waiters.happens("epoll_level", select.POLLIN, 0))]
    else:
        result = [outcome(sock.recv, 5, socket.MSG_DONTWAIT)]
    actor.note("nothing", result)


def toggle(actor, step, sender):
    if sender:
        actor.set_blocking(not step["on"], step["how"])


def dup(actor, step, sender):
    if sender:
        actor.replace_descriptor(step["how"])


def zero(actor, step, sender):
    if sender:
        sock = actor.sock
        call = {"send": lambda: sock.send(b""), "write": lambda: os.write(sock.fileno(), b""), "sendmsg": lambda: sock.sendmsg([])}
        actor.note("zero", call[step["style"]]())


def late(actor, step, sender):
    """The receiver is asleep, or about to be, when the bytes are sent."""
    if sender:
        for _ in range(50):
            os.sched_yield()
        return actor.send_chunks("send", "poll", [step["count"]])
    style = step["wait"] if step["wait"] in ("recv", "waitall") else None
    if style is None or not actor.is_blocking:
        actor.waiters.wait(step["wait"] if style is None else "poll", select.POLLIN)
    left = step["count"]
    while left:
        left -= actor.receive_once(style or "recv", "poll", left)
    actor.note("late", step["count"])


def queued(actor, step, sender):
    if not sender:
        actor.arrived(step["available"])


def ready(actor, step, sender):
    if sender:
        return
    wait = step["wait"] if step["wait"] != "epoll_edge" else "epoll_fresh"
    actor.waiters.wait(wait, select.POLLIN)
    actor.arrived_some()
    actor.note("ready", [flag for flag in poll_events(actor.sock) if flag != "POLLOUT"])


def names(actor, step, sender):
    actor.note("names", actor.sock.getpeername()[0], actor.sock.getsockname()[0], actor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


STEPS = {name: globals()[name] for name in
         ("transfer", "duplex", "burst", "peek", "exact", "nothing", "toggle", "dup", "zero", "late", "queued", "ready", "names")}


# The end of a connection has parts with a barrier between them: `part` returns once both actors have come there.

def end(actor, step, part):
    how, in_flight = step["how"], step["in_flight"]
    actor.set_blocking(True)
    actor.limit(10)
    client = actor.role == 0
    if how in ("client_shuts", "server_shuts", "client_closes", "server_closes"):
        one_sided_end(actor, how, in_flight, part)
    elif how == "read_shut":
        drain(actor, in_flight)
        part()
        actor.sock.shutdown(socket.SHUT_RD)
        actor.note("read_shut", outcome(actor.sock.recv, 5), "POLLIN" in poll_events(actor.sock))
        part()
    else:
        actor.sock.shutdown(socket.SHUT_WR)
        actor.note("both", outcome(actor.sock.send, b"x", socket.MSG_NOSIGNAL))
        drain(actor, in_flight)
        actor.note("end", outcome(actor.sock.recv, 5))
        part()
        actor.note("flags", poll_events(actor.sock))
        part()


def one_sided_end(actor, how, in_flight, part):
    first = (actor.role == 0) == how.startswith("client")
    if first:
        # Nothing may be left unread: closing would reset the connection.
        drain(actor, in_flight)
        part()
        if how.endswith("closes"):
            actor.close()
            return part()
        actor.sock.shutdown(socket.SHUT_WR)
        actor.note("shut", outcome(actor.sock.send, b"x", socket.MSG_NOSIGNAL))
        actor.receive_chunks("recv", "poll", [5000], 20000)
        actor.note("end", outcome(actor.sock.recv, 5))
        return part()
    part()
    drain(actor, in_flight)
    actor.note("end", outcome(actor.sock.recv, 5), outcome(actor.sock.recv, 5, socket.MSG_DONTWAIT))
    if how.endswith("shuts"):
        actor.send_chunks("send", "poll", [100, 19900])
        actor.sock.shutdown(socket.SHUT_WR)
    else:
        actor.note("flags", poll_events(actor.sock))
    part()


def drain(actor, in_flight):
    left = in_flight[1 - actor.role]
    while left:
        left -= actor.receive_once("recv", "poll", left)
