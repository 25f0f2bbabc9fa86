"""Raw HTTP/1.1 for load and for bad input: an SDK would hide what these tests look at.

`call` is one asyncio request on its own connection; `exchange` sends bytes and returns bytes.
"""

import asyncio
import dataclasses
import json
import socket


@dataclasses.dataclass
class Reply:
    status: int  # 0: the connection ended before a status line
    headers: dict  # lower-case names
    body: bytes
    complete: bool  # the body ended as its framing said it would

    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The JSON payloads of an SSE body, without [DONE]."""
        lines = self.body.decode().split("\n")
        data = [line[5:].strip() for line in lines if line.startswith("data:")]
        return [json.loads(item) for item in data if item and item != "[DONE]"]


LOST = Reply(0, {}, b"", False)


def split_address(url):
    host, port = url.split("//")[-1].rstrip("/").rsplit(":", 1)
    return host, int(port)


def render(path, headers, body, method="POST"):
    head = ["%s %s HTTP/1.1" % (method, path)]
    head += ["%s: %s" % item for item in headers.items()]
    head += ["content-length: %d" % len(body)]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chat_request(key, body, **headers):
    """(path, headers, body) of an OpenAI chat call."""
    return "/v1/chat/completions", {
        "host": "edge", "authorization": "Bearer " + key, "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }, json.dumps(body).encode()


def messages_request(key, body, **headers):
    """(path, headers, body) of an Anthropic messages call."""
    return "/v1/messages", {
        "host": "edge", "x-api-key": key, "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }, json.dumps(body).encode()


async def call(url, request, method="POST", leave_after=None, timeout=120):
    """One request. leave_after: hang up after that many body bytes, as a client that goes away.
    A connection that breaks gives what had come, with complete=False."""
    host, port = split_address(url)
    path, headers, body = request
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port, limit=1 << 26)
            try:
                writer.write(render(path, headers, body, method))
                await writer.drain()
                return await read_reply(reader, leave_after)
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        return LOST


async def read_reply(reader, leave_after=None):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    headers = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    if status == 100:
        return await read_reply(reader, leave_after)
    body, complete = bytearray(), False
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                if size == 0:
                    await reader.readuntil(b"\r\n")
                    complete = True
                    break
                body += await reader.readexactly(size)
                await reader.readexactly(2)
                if leave_after is not None and len(body) >= leave_after:
                    break
        elif "content-length" in headers:
            body += await reader.readexactly(int(headers["content-length"]))
            complete = True
        else:
            body += await reader.read()
            complete = True
    except asyncio.IncompleteReadError as error:
        body += error.partial
    except OSError:
        pass
    return Reply(status, headers, bytes(body), complete)


def call_now(url, request, **options):
    """`call` for a test that has no loop of its own."""
    return asyncio.run(call(url, request, **options))


def exchange(url, data, timeout=10, half_close=False):
    """Sends bytes as they are and returns what comes back until the peer closes or is silent for
    `timeout` seconds."""
    received = bytearray()
    with socket.create_connection(split_address(url), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:
            pass
    return bytes(received)
