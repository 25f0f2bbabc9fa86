"""Whatever a caller or a provider sends: a clear answer in the caller's dialect, nothing lost, and
the server lives."""

import concurrent.futures
import json
import socket
import time

import pytest

import audit
import load
from stack import LONG, wait_until
from test_sdks import CLAUDE, GPT, say

CHAT = {"model": GPT, "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]}
DEEP = b'{"model":"gpt-4o-mini","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def text(body):
    return json.dumps(body).encode()


def with_fields(raw):
    """A chat body with raw JSON text spliced in, for what json.dumps would not write."""
    return b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}],' + raw + b"}"


# (name, body, what the message should mention)
BAD_BODIES = [
    ("empty", b"", ""),
    ("not-json", b"model=gpt", ""),
    ("truncated", text(CHAT)[:-1], ""),
    ("trailing", text(CHAT) + b"x", ""),
    ("array", b"[]", ""),
    ("number", b"7", ""),
    ("null", b"null", ""),
    ("nul-bytes", b"\0" * 50, ""),
    ("bad-utf8", b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"\xff\xfe"}]}', ""),
    ("deep", DEEP, ""),
    ("no-model", text({"messages": CHAT["messages"]}), "model"),
    ("model-number", text({**CHAT, "model": 5}), "model"),
    ("model-null", text({**CHAT, "model": None}), "model"),
    ("model-empty", text({**CHAT, "model": ""}), "model"),
    ("model-twice", with_fields(b'"max_tokens":5,"model":"gpt-4o"'), "model"),
    ("max-tokens-text", text({**CHAT, "max_tokens": "20"}), "max_tokens"),
    ("max-tokens-negative", text({**CHAT, "max_tokens": -1}), "max_tokens"),
    ("max-tokens-fraction", text({**CHAT, "max_tokens": 1.5}), "max_tokens"),
    ("max-tokens-huge", with_fields(b'"max_tokens":99999999999999999999999'), "max_tokens"),
    ("max-tokens-twice", with_fields(b'"max_tokens":5,"max_tokens":50000'), "max_tokens"),
    ("stream-text", text({**CHAT, "stream": "yes"}), "stream"),
    ("stream-twice", with_fields(b'"max_tokens":5,"stream":false,"stream":true'), "stream"),
    ("n-zero", text({**CHAT, "n": 0}), "n"),
    ("n-huge", text({**CHAT, "n": 10**9}), "n"),
    ("metadata-text", text({**CHAT, "metadata": "x"}), "metadata"),
]


def check_error(reply, dialect, status):
    """A refusal in the caller's dialect: JSON, the right shape, a message."""
    assert reply.status in ([status] if isinstance(status, int) else status), (
        reply.status, reply.body[:300])
    assert reply.headers["content-type"].startswith("application/json")
    body = reply.json()
    if dialect == "anthropic":
        assert body["type"] == "error"
    error = body["error"]
    assert error["message"] and error["type"]
    return error


def still_serves(stack, tenant):
    reply = load.call_now(stack.edge, load.chat_request(tenant.secret, CHAT))
    assert reply.status == 200, reply.body[:300]


@pytest.mark.parametrize("name,body,mentions", BAD_BODIES, ids=[row[0] for row in BAD_BODIES])
def test_bad_chat_bodies(stack, tenant, name, body, mentions):
    tenant.set_budget("org", 10**9)
    path, headers, _ = load.chat_request(tenant.secret, {})
    reply = load.call_now(stack.edge, (path, headers, body))
    error = check_error(reply, "openai", 400)
    assert error["type"] == "invalid_request_error" and mentions in error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert audit.check_exact(tenant) == 0
    still_serves(stack, tenant)


ANTHROPIC_BAD = [row for row in BAD_BODIES if not row[0].startswith(("n-", "metadata"))]


@pytest.mark.parametrize("name,body,mentions", ANTHROPIC_BAD, ids=[row[0] for row in ANTHROPIC_BAD])
def test_bad_messages_bodies(stack, tenant, name, body, mentions):
    path, headers, _ = load.messages_request(tenant.secret, {})
    body = body.replace(b"gpt-4o-mini", CLAUDE.encode())
    error = check_error(load.call_now(stack.edge, (path, headers, body)), "anthropic", 400)
    assert error["type"] == "invalid_request_error" and mentions in error["message"]
    assert audit.check_exact(tenant) == 0
    still_serves(stack, tenant)


def test_anthropic_requires_max_tokens(stack, tenant):
    request = load.messages_request(tenant.secret, {"model": CLAUDE, "messages": CHAT["messages"]})
    assert "max_tokens" in check_error(load.call_now(stack.edge, request), "anthropic", 400)["message"]


def test_too_large_is_413_at_once(stack, tenant):
    """The limit is known from content-length: the answer comes before 33 MiB are sent."""
    head = ("POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer %s\r\n"
            "content-type: application/json\r\ncontent-length: %d\r\n\r\n" % (tenant.secret, 33 << 20))
    answer = load.exchange(stack.edge, head.encode() + b'{"model"', timeout=5)
    assert b" 413 " in answer.split(b"\r\n")[0]
    still_serves(stack, tenant)


def test_too_large_chunked_is_413(stack, tenant):
    head = ("POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer %s\r\n"
            "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" % tenant.secret)
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    answer = load.exchange(stack.edge, head.encode() + chunk * 34, timeout=5)
    assert b" 413 " in answer.split(b"\r\n")[0]
    still_serves(stack, tenant)


def test_chunked_body_is_accepted(stack, tenant):
    body = text(CHAT)
    head = ("POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer %s\r\n"
            "content-type: application/json\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            % tenant.secret).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    assert b" 200 " in load.exchange(stack.edge, head + chunks).split(b"\r\n")[0]
    assert audit.check_exact(tenant) == 1


HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer %s\r\n"
SMUGGLED = [
    ("cl-and-te", "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("cl-twice", "content-length: 5\r\ncontent-length: 6\r\n\r\n{}   "),
    ("cl-list", "content-length: 5, 5\r\n\r\n{}   "),
    ("cl-negative", "content-length: -1\r\n\r\n"),
    ("cl-plus", "content-length: +2\r\n\r\n{}"),
    ("cl-text", "content-length: two\r\n\r\n{}"),
    ("cl-overflow", "content-length: 99999999999999999999999\r\n\r\n{}"),
    ("te-twice", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
    ("te-strange", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("te-gzip", "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunk-size", "transfer-encoding: chunked\r\n\r\nzz\r\n\r\n"),
    ("chunk-overflow", "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
    ("space-before-colon", "content-length : 2\r\n\r\n{}"),
    ("folded", "x-a: 1\r\n 2\r\ncontent-length: 2\r\n\r\n{}"),
    ("nul-in-header", "x-a: 1\0002\r\ncontent-length: 2\r\n\r\n{}"),
]


@pytest.mark.parametrize("name,rest", SMUGGLED, ids=[row[0] for row in SMUGGLED])
def test_smuggled_framing_is_refused_and_the_connection_closed(stack, tenant, name, rest):
    follow = "GET /v1/models HTTP/1.1\r\nhost: e\r\nauthorization: Bearer %s\r\n\r\n" % tenant.secret
    data = (HEAD % tenant.secret + rest + follow).encode("latin-1")
    answer = load.exchange(stack.edge, data, timeout=5)
    assert answer.count(b"HTTP/1.1 200") == 0, "the second request must not be served"
    assert b"HTTP/1.1 4" in answer or b"HTTP/1.1 501" in answer or answer == b"", answer[:200]
    assert audit.check_exact(tenant) == 0
    still_serves(stack, tenant)


def resident_bytes(pid):
    line = next(line for line in open("/proc/%d/status" % pid) if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_malformed_traffic_and_invented_keys_cost_no_memory(stack, tenant, rng):
    """Thousands of broken heads, keys and tokens leave the process as large as hundreds did."""
    secrets = [tenant.secret, "sk-toll-%032x-%064x", "%0300x", "eyJhbGciOiJub25lIn0.eyJpIjoi%020x.", "\xff"]

    def storm(rounds):
        for _ in range(rounds):
            for _, rest in SMUGGLED:
                secret = rng.choice(secrets)
                if "%" in secret:
                    secret %= tuple(rng.getrandbits(80) for _ in range(secret.count("%")))
                data = ("POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nauthorization: Bearer " + secret
                        + "\r\n" + rest).encode("latin-1")
                answer = load.exchange(stack.edge, data, timeout=5, half_close=True)
                assert b" 200 " not in answer.split(b"\r\n")[0]

    storm(40)
    before = resident_bytes(stack.house.pid)
    storm(5000 if LONG else 600)
    assert resident_bytes(stack.house.pid) - before < 4 << 20
    still_serves(stack, tenant)


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n" * 1000, b"A" * 100_000,
    b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"],
    ids=["tls", "short", "newlines", "long-line", "version", "http2", "bad-path"])
def test_not_http(stack, tenant, data):
    answer = load.exchange(stack.edge, data, timeout=2, half_close=True)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    still_serves(stack, tenant)


def test_headers_too_long(stack, tenant):
    for extra in ("x-long: " + "a" * 200_000, "\r\n".join("x-%d: a" % n for n in range(5000))):
        data = (HEAD % tenant.secret + extra + "\r\ncontent-length: 2\r\n\r\n{}").encode()
        answer = load.exchange(stack.edge, data, timeout=5)
        assert b" 431 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0], answer[:100]
    still_serves(stack, tenant)


def test_slow_headers_are_cut_off_and_block_nobody(stack, tenant):
    """A hundred callers that never finish their headers neither stay for ever nor stop the others."""
    slow = [socket.create_connection(load.split_address(stack.edge)) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nx-a: ")
        still_serves(stack, tenant)
        slow[0].settimeout(40)
        began = time.monotonic()
        data = slow[0].recv(65536)
        assert data == b"" or b" 408 " in data.split(b"\r\n")[0]
        assert time.monotonic() - began < 40
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_unknown_paths_and_methods(stack, tenant, dialect):
    make = load.chat_request if dialect == "openai" else load.messages_request
    known, headers, body = make(tenant.secret, CHAT)
    for path in ("/", "/v1", "/v1/chat", "/v2/chat/completions", "/%2e%2e/etc/passwd"):
        check_error(load.call_now(stack.edge, (path, headers, body)), dialect, 404)
    for path in ("/v1/files", "/v1/chat/completions/x", "/v1/images/generations", "/v1/messages/batches"):
        check_error(load.call_now(stack.edge, (path, headers, body)), dialect, 403)
    reply = load.call_now(stack.edge, (known, headers, b""), method="DELETE")
    check_error(reply, dialect, 405)
    assert audit.check_exact(tenant) == 0


def test_no_key_and_two_keys(stack, tenant):
    path, headers, body = load.chat_request(tenant.secret, CHAT)
    without = {name: value for name, value in headers.items() if name != "authorization"}
    check_error(load.call_now(stack.edge, (path, without, body)), "openai", 401)
    both = {**headers, "x-api-key": "sk-toll-other"}
    assert load.call_now(stack.edge, (path, both, body)).status in (200, 400, 401)


def test_a_key_in_the_url_is_not_accepted(stack, tenant):
    path, headers, body = load.chat_request(tenant.secret, CHAT)
    del headers["authorization"]
    assert load.call_now(stack.edge, (path + "?key=" + tenant.secret, headers, body)).status == 401


@pytest.mark.parametrize("tags", ["=", "a", "a=", "=b", "a=b,,c=d", "a=" + "x" * 5000, "a=b" * 3000,
                                  ",".join("k%d=v" % n for n in range(500)), "a=\x01"])
def test_strange_tags(stack, tenant, tags):
    path, headers, body = load.chat_request(tenant.secret, CHAT, x_tollhouse_tags=tags)
    reply = load.call_now(stack.edge, (path, headers, body))
    assert reply.status in (200, 400, 431), reply.body[:200]
    audit.check_exact(tenant)
    still_serves(stack, tenant)


def test_strange_request_ids(stack, tenant):
    for label in ("x" * 10_000, "a b", "\x7f", "<script>", ""):
        path, headers, body = load.chat_request(tenant.secret, CHAT, x_tollhouse_request_id=label)
        reply = load.call_now(stack.edge, (path, headers, body))
        assert reply.status in (200, 400, 431)
    # A label is not a key: two arrivals are two purchases.
    before = len(tenant.records())
    for _ in range(2):
        request = load.chat_request(tenant.secret, CHAT, x_tollhouse_request_id="same")
        assert load.call_now(stack.edge, request).status == 200
    assert len(tenant.records()) == before + 2
    audit.check_exact(tenant)


def test_keep_alive_and_pipelining(stack, tenant):
    path, headers, body = load.chat_request(tenant.secret, CHAT)
    one = load.render(path, headers, body)
    last = load.render(path, {**headers, "connection": "close"}, body)
    answer = load.exchange(stack.edge, one + one + last, timeout=10)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert audit.check_exact(tenant) == 3


def test_expect_100_continue(stack, tenant):
    path, headers, body = load.chat_request(tenant.secret, CHAT, expect="100-continue")
    assert load.call_now(stack.edge, (path, headers, body)).status == 200


# --- providers that misbehave ----------------------------------------------------------------------
FAULTS = ["cut", "cut_before_head", "no_usage", "malformed", "html", "gigantic", "gzip",
          "error_midstream", "500", "503", "400", "404"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", FAULTS)
def test_provider_faults(stack, tenant, dialect, fault, stream):
    """Whatever comes back: the caller gets an answer it can read, the provider's bill is covered by
    what was posted or stays in suspense, and the next request works."""
    cap = 20 * 10**9
    tenant.set_budget("org", cap)
    body = {"max_tokens": 100, "stream": stream,
            "messages": say("Hello", output=60, chunks=6, cut_after=3, fault=fault)}
    request = (load.chat_request(tenant.secret, {"model": GPT, **body}) if dialect == "openai"
               else load.messages_request(tenant.secret, {"model": CLAUDE, **body}))
    reply = load.call_now(stack.edge, request)
    assert reply.status != 0, "the edge itself always answers"
    if reply.status != 200:
        assert reply.headers["content-type"].startswith("application/json")
        check_error(reply, dialect, reply.status)
    tenant.settled()
    billed, spent, suspense = audit.check_covered(tenant, cap)
    if fault in ("500", "503", "400", "404"):
        assert reply.status in (int(fault), 502) and spent == suspense == 0
    if fault == "gzip":
        assert reply.status == 200 and (spent, suspense) == (billed, 0)
    if stream and fault in ("cut", "error_midstream") and reply.status == 200:
        assert b'"error"' in reply.body, "the dialect's error event ends the stream"
    assert stack.ctl("ledger", "verify")["ok"]
    still_serves(stack, tenant)


def test_a_provider_that_hangs_still_counts(fresh):
    stack, tenant = fresh, fresh.tenant()
    tenant.set_budget("org", 10**9)
    request = load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=20, fault="hang")})
    assert load.call_now(stack.edge, request, timeout=1).status == 0
    still_serves(stack, tenant)
    held = tenant.budget()
    assert held["held_nanousd"] + held["suspense_nanousd"] > 0, "what may be billed still counts"
    stack.sim.kill()
    tenant.stack.sim.start()
    wait_until(lambda: tenant.budget()["suspense_nanousd"] > 0, what="suspense once it is gone")


@pytest.mark.parametrize("cap,overrun", [(10**9, False), (10**6, True)], ids=["room", "no-room"])
def test_a_bill_above_the_hold_is_posted_truthfully(stack, tenant, cap, overrun):
    """The provider ignores max_tokens: the bill is posted in full, out of what is available, and
    what is not there is overrun, after which the budget is closed."""
    tenant.set_budget("org", cap)
    request = load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 20, "messages": say("Hello", output_exact=50000)})
    assert load.call_now(stack.edge, request).status == 200
    assert audit.check_exact(tenant) == 1
    budget = tenant.budget()
    assert budget["spent_nanousd"] == tenant.billed() > 10**7
    expected = budget["spent_nanousd"] - cap if overrun else 0
    # A free lease pays overrun down once it is back.
    wait_until(lambda: tenant.budget()["overrun_nanousd"] == expected, 5, "the lease to come back")
    assert load.call_now(stack.edge, request).status == (402 if overrun else 200)
    tenant.settled()
    assert stack.ctl("ledger", "verify")["ok"]


def test_many_bad_and_good_at_once(stack, tenant, rng):
    """Bad input beside good load disturbs neither the good answers nor the sums."""
    tenant.set_budget("org", 100 * 10**9)
    good = load.chat_request(tenant.secret, CHAT)

    def one(n):
        if n % 3 == 0:
            return load.call_now(stack.edge, good).status
        name, body, _ = BAD_BODIES[n % len(BAD_BODIES)]
        path, headers, _ = good
        return load.call_now(stack.edge, (path, headers, body)).status

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(one, range(150)))
    assert [statuses[n] for n in range(0, 150, 3)] == [200] * 50
    assert all(status == 400 for n, status in enumerate(statuses) if n % 3), statuses
    assert audit.check_exact(tenant) == 50
    wait_until(lambda: tenant.budget()["held_nanousd"] == 0, what="nothing held")
