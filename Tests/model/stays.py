"""A connection on a given port that must work without ever leaving TCP. Run by test_hostile.py."""
import json
import sys

from endpoint import accept, connect, kernel_bytes, listener, pattern, read_exactly

listening = listener(port=int(sys.argv[1]))
client = connect(listening.getsockname())
server = accept(listening)
total = 0
for number in range(100):
    for sender, receiver in ((client, server), (server, client)):
        data = pattern(100 + number, number)
        sender.sendall(data)
        assert read_exactly(receiver, len(data)) == data
    total += len(data)
assert kernel_bytes(client) == (total, total), "TCP carried %s, not %d" % (kernel_bytes(client), total)
print(json.dumps("stayed"))
