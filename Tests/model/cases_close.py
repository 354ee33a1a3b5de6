"""How a connection ends: shutdown, close, reset, and what each end is told. Run by test_behaviour.py."""
import os
import signal
import socket
import struct

from endpoint import (cold_pair, outcome, pair, pattern, poll_events, read_exactly, wait_readable, wait_until)
from runner import case, run


def ended(sock):
    """TCP has seen the end of the other side: only then are the following results determined."""
    wait_until(lambda: "POLLRDHUP" in poll_events(sock) or "POLLERR" in poll_events(sock), "the end")


@case
def send_after_shutdown_is_epipe():
    a, b = pair()
    seen = []
    signal.signal(signal.SIGPIPE, lambda *_: seen.append("SIGPIPE"))
    a.shutdown(socket.SHUT_WR)
    trace = [outcome(a.send, b"x"), list(seen)]
    trace += [outcome(a.send, b"x", socket.MSG_NOSIGNAL), list(seen)]
    trace += [outcome(os.write, a.fileno(), b"x"), list(seen)]
    trace += [outcome(a.sendmsg, [b"x"], [], socket.MSG_NOSIGNAL), list(seen)]
    trace += [outcome(a.send, b""), list(seen)]
    return trace


@case
def sigpipe_kills_by_default():
    a, b = pair()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        a.shutdown(socket.SHUT_WR)
        os.write(a.fileno(), b"x")
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    return [os.WIFSIGNALED(status), status & 0x7F]


@case
def half_close_client_first():
    a, b = pair()
    a.sendall(b"last words")
    a.shutdown(socket.SHUT_WR)
    trace = [outcome(read_exactly, b, 10), outcome(b.recv, 10), outcome(b.recv, 10)]
    b.sendall(pattern(5000))
    trace += [outcome(read_exactly, a, 5000)]
    b.shutdown(socket.SHUT_WR)
    trace += [outcome(a.recv, 10), outcome(a.recv, 10), poll_events(a), poll_events(b)]
    return trace


@case
def half_close_server_first():
    a, b = pair()
    b.sendall(b"last words")
    b.shutdown(socket.SHUT_WR)
    ended(a)
    trace = [poll_events(a), poll_events(b), outcome(a.recv, 100), outcome(a.recv, 100)]
    a.sendall(b"still here")
    trace += [outcome(read_exactly, b, 10), poll_events(a), poll_events(b)]
    a.close()
    ended(b)
    trace += [outcome(b.recv, 1), poll_events(b)]
    return trace


@case
def end_of_stream_after_drain():
    a, b = pair()
    a.sendall(pattern(9000))
    a.close()
    ended(b)
    trace = []
    for size in (1, 10, 100, 1000, 7889, 10, 10):
        trace.append(outcome(b.recv, size))
    return trace + [poll_events(b)]


@case
def close_with_data_on_its_way():
    """A large tail that was sent before close arrives in full."""
    a, b = pair()
    data = pattern(14000)
    a.sendall(data)
    a.close()
    return [outcome(read_exactly, b, len(data)), outcome(b.recv, 1)]


@case
def close_with_unread_data_resets_the_peer():
    a, b = pair()
    b.sendall(b"never read")
    wait_readable(a, 10)
    a.close()
    ended(b)
    trace = [poll_events(b), outcome(b.recv, 10), outcome(b.recv, 10), poll_events(b)]
    return trace + [outcome(b.send, b"x", socket.MSG_NOSIGNAL)]


@case
def exit_with_unread_data_resets_the_peer():
    a, b = pair()
    b.sendall(b"never read")
    wait_readable(a, 10)
    pid = os.fork()
    a.close()
    if pid == 0:
        b.close()
        os._exit(0)
    os.waitpid(pid, 0)
    ended(b)
    return [outcome(b.recv, 10), outcome(b.recv, 10)]


@case
def reset_loses_nothing_already_received():
    """Bytes that the closing side had sent before its reset: TCP discards the receive queue of the survivor on RST."""
    a, b = pair()
    a.sendall(b"parting gift")
    wait_readable(b, 12)
    b.sendall(b"never read")
    wait_readable(a, 10)
    a.close()
    ended(b)
    return [outcome(b.recv, 100), outcome(b.recv, 100), outcome(b.recv, 100)]


@case
def linger_zero_resets_the_peer():
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    a.close()
    ended(b)
    return [poll_events(b), outcome(b.recv, 1), outcome(b.recv, 1), outcome(b.send, b"x", socket.MSG_NOSIGNAL)]


@case
def linger_with_time_delivers():
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
    a.sendall(pattern(3000))
    a.close()
    return [outcome(read_exactly, b, 3000), outcome(b.recv, 1)]


@case
def error_is_reported_once_by_so_error():
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    a.close()
    ended(b)
    get = lambda: b.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return [outcome(get), outcome(get), outcome(b.recv, 1), poll_events(b)]


@case
def error_after_unread_close_by_so_error():
    a, b = pair()
    b.sendall(b"never read")
    wait_readable(a, 10)
    a.close()
    ended(b)
    get = lambda: b.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return [outcome(get), outcome(get), outcome(b.recv, 1)]


@case
def shutdown_reading_keeps_what_has_arrived():
    a, b = pair()
    a.sendall(b"before")
    wait_readable(b, 6)
    b.shutdown(socket.SHUT_RD)
    trace = [poll_events(b), outcome(b.recv, 3), outcome(b.recv, 10), outcome(b.recv, 10)]
    trace += [outcome(a.send, b"after"), outcome(b.send, b"reply")]
    wait_readable(a, 5)
    return trace + [outcome(a.recv, 10), poll_events(a)]


@case
def data_after_shutdown_reading_is_still_read():
    a, b = pair()
    b.shutdown(socket.SHUT_RD)
    trace = [outcome(b.recv, 10)]
    a.sendall(b"after")
    wait_readable(b, 5)
    return trace + [outcome(b.recv, 10), outcome(b.recv, 10)]


@case
def shutdown_both_directions():
    a, b = pair()
    a.shutdown(socket.SHUT_RDWR)
    ended(b)
    trace = [outcome(a.recv, 1), outcome(a.send, b"x", socket.MSG_NOSIGNAL), poll_events(a), poll_events(b), outcome(b.recv, 1)]
    return trace + [outcome(a.shutdown, socket.SHUT_RDWR), outcome(b.shutdown, socket.SHUT_WR), outcome(a.shutdown, socket.SHUT_RD)]


@case
def shutdown_with_unread_bytes_on_both_sides():
    a, b = pair()
    a.sendall(b"to b")
    b.sendall(b"to a")
    wait_readable(a, 4)
    wait_readable(b, 4)
    a.shutdown(socket.SHUT_WR)
    b.shutdown(socket.SHUT_WR)
    ended(a)
    ended(b)
    return [poll_events(a), poll_events(b), outcome(a.recv, 9), outcome(b.recv, 9), outcome(a.recv, 9), outcome(b.recv, 9)]


@case
def bad_shutdown_arguments():
    a, b = pair()
    trace = [outcome(a.shutdown, 3), outcome(a.shutdown, -1)]
    a.sendall(b"fine")
    wait_readable(b, 4)
    return trace + [outcome(b.recv, 4)]


@case
def send_to_a_closed_peer():
    """The first send meets RST, the second EPIPE: tcp(7)."""
    a, b = pair()
    b.close()
    ended(a)
    trace = [outcome(a.send, b"one", socket.MSG_NOSIGNAL)]
    wait_until(lambda: "POLLERR" in poll_events(a) or "POLLHUP" in poll_events(a), "the reset")
    return trace + [outcome(a.send, b"two", socket.MSG_NOSIGNAL), outcome(a.recv, 1), outcome(a.recv, 1)]


@case
def half_closed_peer_then_close():
    a, b = pair()
    a.shutdown(socket.SHUT_WR)
    trace = [outcome(b.recv, 1)]
    b.sendall(b"tail")
    b.close()
    trace += [outcome(read_exactly, a, 4), outcome(a.recv, 1)]
    return trace


@case(switches=False)
def everything_before_any_switch_over():
    a, b = cold_pair()
    a.send(b"x")
    a.shutdown(socket.SHUT_WR)
    return [outcome(b.recv, 10), outcome(b.recv, 10), outcome(a.send, b"y", socket.MSG_NOSIGNAL)]


if __name__ == "__main__":
    run()
