"""Runs cases of the stream model: `stream_driver.py FIRST COUNT [threads]`. Prints one JSON object.

Both ends are processes made by a fork before any socket exists, or (`threads`) two threads of one process.
"""
import faulthandler
import json
import os
import socket
import sys
import threading
import traceback
import zlib

from endpoint import accept, connect, listener
from stream_actor import Actor
from stream_script import HOSTS, Script
from stream_steps import STEPS, end

HANG = 40.0


class Barrier:
    """Two parties meet; a party that fails lets the other fail too, instead of waiting for ever."""

    def __init__(self, channel):
        self.channel = channel

    def meet(self):
        self.channel.send(b"+")
        if self.channel.recv(1) != b"+":
            raise EOFError("the other end has failed")


class Case:
    """One actor's run of one script."""

    def __init__(self, seed, role, sock, barrier):
        self.seed, self.barrier = seed, barrier
        self.script = Script(seed)
        self.trace = []
        self.actor = Actor(sock, role, self.trace)
        self.at = None

    def run(self):
        self.go(0, len(self.script.steps), {})

    def go(self, first, last, forked):
        for index in range(first, last):
            name, step = self.script.steps[index]
            self.at = index, name, step
            if name == "fork":
                if step["direction"] == self.actor.role and not forked and self.can_fork:
                    # The child does the next steps; what they do to offsets and modes follows from the script.
                    until = min(index + 1 + step["steps"], len(self.script.steps) - 1)
                    self.barrier.meet()
                    self.in_child(index + 1, until)
                    return self.go(until, last, forked)
            elif name == "end":
                bypassed = self.actor.bypassed()
                end(self.actor, step, self.barrier.meet)
                self.bypassed = bypassed
            else:
                STEPS[name](self.actor, step, step["direction"] == self.actor.role)
            self.barrier.meet()

    can_fork = True

    def in_child(self, first, until):
        reading, writing = os.pipe()
        # Its thread does not survive a fork, and cannot be stopped afterwards.
        faulthandler.cancel_dump_traceback_later()
        pid = os.fork()
        faulthandler.dump_traceback_later(HANG, exit=True)
        if pid == 0:
            try:
                self.actor.waiters.close()
                del self.trace[:]
                self.go(first, until, {"forked": True})
                state = [self.trace, self.actor.offset, self.actor.is_blocking]
                with os.fdopen(writing, "w") as out:
                    json.dump(state, out)
                os._exit(0)
            except BaseException:
                self.report()
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as result:
            text = result.read()
        if os.waitpid(pid, 0)[1] or not text:
            raise ChildProcessError("forked actor failed")
        trace, offset, self.actor.is_blocking = json.loads(text)
        self.actor.offset[:] = offset
        self.trace.extend(tuple(item) for item in trace)

    def report(self):
        text = "FAIL seed=%d role=%d at=%.400s\n%s" % (self.seed, self.actor.role, self.at, traceback.format_exc())
        sys.stderr.write(text)
        sys.stderr.flush()


def run_case(seed, role, listening, barrier, can_fork):
    host = Script(seed).host
    family_listener = listening[host]
    if role == 0:
        sock = connect(family_listener.getsockname())
    else:
        sock = accept(family_listener)
    case = Case(seed, role, sock, barrier)
    case.can_fork = can_fork
    try:
        case.run()
        case.actor.close()
    except BaseException:
        case.report()
        raise
    barrier.meet()
    trace = case.trace if os.environ.get("MODEL_FULL") else zlib.crc32(json.dumps(case.trace).encode())
    return {"seed": seed, "trace": trace, "bypassed": case.bypassed}


def cases(role, first, count, listening, channel, can_fork):
    results = []
    for seed in range(first, first + count):
        faulthandler.dump_traceback_later(HANG, exit=True)
        os.environ["MODEL_SEED"] = str(seed)
        try:
            results.append(run_case(seed, role, listening, Barrier(channel), can_fork))
        except BaseException:
            channel.close()
            return results, False
    return results, True


def in_processes(first, count, listening):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        near.close()
        for one in listening.values():
            one.set_inheritable(False)
        results, good = cases(0, first, count, listening, far, True)
        with os.fdopen(writing, "w") as out:
            json.dump(results, out)
        os._exit(0 if good else 1)
    far.close()
    os.close(writing)
    answer = []
    collector = threading.Thread(target=lambda: answer.append(os.fdopen(reading).read()))
    collector.start()
    server, good = cases(1, first, count, listening, near, True)
    collector.join()
    status = os.waitpid(pid, 0)[1]
    return json.loads(answer[0] or "[]"), server, good and status == 0


def in_threads(first, count, listening):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answer = []
    thread = threading.Thread(target=lambda: answer.append(cases(0, first, count, listening, far, False)))
    thread.start()
    server, good = cases(1, first, count, listening, near, False)
    thread.join()
    return answer[0][0], server, good and answer[0][1]


def main():
    first, count = int(sys.argv[1]), int(sys.argv[2])
    listening = {host: listener(host) for host in set(HOSTS)}
    run = in_threads if "threads" in sys.argv[3:] else in_processes
    client, server, good = run(first, count, listening)
    print(json.dumps({"first": first, "client": client, "server": server}))
    sys.stdout.flush()
    os._exit(0 if good else 1)


if __name__ == "__main__":
    main()
