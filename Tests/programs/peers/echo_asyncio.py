"""An asyncio echo server, and a client with many connections that checks what comes back.

    echo_asyncio.py server PORT
    echo_asyncio.py client PORT CONNECTIONS BYTES      prints one digest of all that came back
"""
import asyncio
import hashlib
import os
import random
import sys


async def serve(port):
    async def echo(reader, writer):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, os.environ.get("ECHO_HOST", "127.0.0.1"), port) as server:
        await server.serve_forever()


async def exchange(port, number, length):
    reader, writer = await asyncio.open_connection(os.environ.get("ECHO_HOST", "127.0.0.1"), port)

    async def send():
        source, state, left = random.Random(number), hashlib.sha256(), length
        while left > 0:
            part = source.randbytes(min(left, source.choice([1, 100, 5000, 200000])))
            state.update(part)
            writer.write(part)
            await writer.drain()
            left -= len(part)
        writer.write_eof()
        return state.digest()

    async def receive():
        state = hashlib.sha256()
        while part := await reader.read(100000):
            state.update(part)
        return state.digest()

    sent, received = await asyncio.gather(send(), receive())
    writer.close()
    await writer.wait_closed()
    assert sent == received, "connection %d came back different" % number
    return received


async def main():
    if sys.argv[1] == "server":
        await serve(int(sys.argv[2]))
    port, connections, length = map(int, sys.argv[2:])
    answers = await asyncio.gather(*(exchange(port, number, length) for number in range(connections)))
    print(hashlib.sha256(b"".join(answers)).hexdigest())


asyncio.run(main())
