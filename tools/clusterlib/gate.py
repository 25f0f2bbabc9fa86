"""TCP gates between the processes of a cluster: each passes bytes on, until it is told to do worse.

    python3 -B gate.py CONFIG SOCKET

CONFIG is JSON: {"edge-0>ledger-0": {"listen": PORT, "to": PORT}, ...}. SOCKET takes lines of JSON,
{"gate": NAME, "mode": MODE, "ms": N}, and answers each with a line. Modes:

    open   bytes pass
    delay  bytes pass N ms late, both ways
    hold   nothing passes, nothing closes; what was sent meanwhile passes once the gate opens again
    deaf   as hold, but only what the caller is to hear (its requests arrive)
    cut    connections are reset, new ones too
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys

CHUNK = 1 << 16
MODES = ("open", "delay", "hold", "deaf", "cut")


class Gate:
    def __init__(self, name, listen, to):
        self.name, self.listen, self.to = name, listen, to
        self.mode, self.delay = "open", 0.0
        self.changed = asyncio.Condition()
        self.connections = set()

    async def serve(self):
        return await asyncio.start_server(self.connected, "127.0.0.1", self.listen, limit=CHUNK)

    async def set(self, mode, ms):
        if mode not in MODES:
            raise ValueError("there is no mode %s; there are: %s" % (mode, ", ".join(MODES)))
        async with self.changed:
            self.mode, self.delay = mode, ms / 1000
            self.changed.notify_all()
        if mode == "cut":
            for writer in list(self.connections):
                reset(writer)

    async def connected(self, reader, writer):
        if self.mode == "cut":
            reset(writer)
            return
        self.connections.add(writer)
        far_writer = None
        try:
            await self.passes(towards_caller=False)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to, limit=CHUNK)
            self.connections.add(far_writer)
            await asyncio.gather(self.pump(reader, far_writer, False),
                                 self.pump(far_reader, writer, True))
        except OSError:
            reset(writer)
        finally:
            for end in (writer, far_writer):
                if end is not None:
                    self.connections.discard(end)
                    end.close()

    async def passes(self, towards_caller):
        """Waits until bytes of that direction may pass."""
        async with self.changed:
            await self.changed.wait_for(
                lambda: self.mode in ("open", "delay", "cut") or (self.mode == "deaf" and not towards_caller))

    async def pump(self, reader, writer, towards_caller):
        while data := await reader.read(CHUNK):
            if self.mode == "delay":
                await asyncio.sleep(self.delay)
            await self.passes(towards_caller)
            writer.write(data)
            await writer.drain()
        await self.passes(towards_caller)
        with contextlib.suppress(OSError):
            writer.write_eof()


def reset(writer):
    """Ends a connection so that the peer sees an error."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def control(gates, reader, writer):
    while line := await reader.readline():
        try:
            order = json.loads(line)
            await gates[order["gate"]].set(order["mode"], order.get("ms", 0))
            answer = {"ok": True}
        except (KeyError, ValueError) as error:
            answer = {"ok": False, "error": str(error)}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def serve(config, path):
    gates = {name: Gate(name, way["listen"], way["to"]) for name, way in config.items()}
    servers = [await gate.serve() for gate in gates.values()]
    with contextlib.suppress(OSError):
        os.unlink(path)
    servers.append(await asyncio.start_unix_server(
        lambda reader, writer: control(gates, reader, writer), path))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    for server in servers:
        server.close()


def order(path, gate, mode, ms=0):
    """Tells the gates of a cluster, from another process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(json.dumps({"gate": gate, "mode": mode, "ms": ms}).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
    if not answer["ok"]:
        raise ValueError(answer["error"])


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        asyncio.run(serve(json.load(file), sys.argv[2]))
