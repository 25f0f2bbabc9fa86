"""What the user of an official SDK sees on each refusal, and that the SDK does as told."""

import anthropic
import openai
import pytest

import audit
import load
from test_sdks import CLAUDE, GPT, anthropic_client, openai_client, say

PENNY = 10**7  # nano-USD


class Counted:
    """An SDK client with its default retries that counts the HTTP requests it really makes."""

    def __init__(self, sdk, tenant, secret=None, max_retries=2):
        self.requests = 0
        base = tenant.stack.edge + ("/v1" if sdk is openai else "")
        client = openai.OpenAI if sdk is openai else anthropic.Anthropic
        http = (openai.DefaultHttpxClient if sdk is openai else anthropic.DefaultHttpxClient)(
            event_hooks={"request": [self.count]})
        self.sdk, self.client = sdk, client(
            api_key=secret or tenant.secret, base_url=base, max_retries=max_retries, http_client=http)

    def count(self, request):
        self.requests += 1

    def ask(self, messages=None, model=None, **options):
        messages = messages or say("Hello", output=10)
        if self.sdk is openai:
            return self.client.chat.completions.create(
                model=model or GPT, messages=messages, max_tokens=100, **options)
        return self.client.messages.create(
            model=model or CLAUDE, messages=messages, max_tokens=100, **options)

    def refused(self, kind, **options):
        with pytest.raises(kind) as caught:
            self.ask(**options)
        return caught.value


both = pytest.mark.parametrize("sdk", [openai, anthropic], ids=["openai", "anthropic"])


def error_of(sdk, error):
    """The error object inside the SDK's exception, the same way for both."""
    body = error.body
    return body["error"] if sdk is anthropic else body


def nothing_happened(tenant):
    tenant.settled()
    assert tenant.records() == [], "the provider must not see a refused request"
    assert audit.check_exact(tenant) == 0


@both
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_exhausted_budget_is_402_and_not_retried(tenant, sdk, stream):
    tenant.set_budget("team", 1000)
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.APIStatusError, stream=stream)
    assert error.status_code == 402
    assert caller.requests == 1
    detail = error_of(sdk, error)
    if sdk is anthropic:
        assert detail["type"] == "billing_error" and error.body["type"] == "error"
    else:
        assert detail["code"] == "insufficient_quota" and detail["type"] == "insufficient_quota"
    assert tenant.team in detail["message"], "names the budget"
    headers = error.response.headers
    assert headers["x-tollhouse-denied-by"] == tenant.team + "#total"
    assert headers["x-should-retry"] == "false"
    assert headers["content-type"].startswith("application/json"), "also for a stream"
    nothing_happened(tenant)


@both
def test_held_budget_is_429_with_retry_after(tenant, sdk):
    """Money that requests in flight hold comes back: retryable, unlike an exhausted budget."""
    probe = load.call_now(tenant.stack.edge, request_of(sdk, tenant, output=100, max_tokens=100))
    assert probe.status == 200
    tenant.settled()
    hold = max(int(entry["entry"]["hold_nanousd"]) for entry in tenant.entries())
    # Beside the first hold less than the output alone costs: no count of the input makes room for two.
    tenant.set_budget("org", tenant.spent() + hold + hold // 8)
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # The directive is part of the body, and so of the bound: leave room for its bytes.
        slow = pool.submit(load.call_now, tenant.stack.edge,
                           request_of(sdk, tenant, output=100, max_tokens=100, latency_ms=6000))
        from stack import wait_until
        wait_until(lambda: tenant.stack.sim.totals()["in_flight"] == 1, what="the slow request")
        caller = Counted(sdk, tenant, max_retries=0)
        error = caller.refused(sdk.RateLimitError, messages=say("Hello", output=100))
        assert error_of(sdk, error).get("code", error_of(sdk, error)["type"]) in (
            "budget_held", "rate_limit_error")
        assert "budget_held" in error.response.text
        headers = error.response.headers
        assert int(headers["retry-after"]) >= 1 and headers["x-should-retry"] == "true"
        assert slow.result().status == 200
    assert audit.check_exact(tenant) == 2


def request_of(sdk, tenant, max_tokens=100, **directives):
    body = {"messages": say("Hello", **directives), "max_tokens": max_tokens}
    if sdk is openai:
        return load.chat_request(tenant.secret, {"model": GPT, **body})
    return load.messages_request(tenant.secret, {"model": CLAUDE, **body})


@both
def test_request_rate_is_429_with_honest_retry_after(tenant, sdk):
    tenant.stack.ctl("limit", "set", tenant.key, "--rpm", "2")
    caller = Counted(sdk, tenant, max_retries=0)
    caller.ask(), caller.ask()
    error = caller.refused(sdk.RateLimitError)
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60 and headers["x-should-retry"] == "true"
    if sdk is anthropic:
        assert error_of(sdk, error)["type"] == "rate_limit_error"
    else:
        assert error_of(sdk, error)["code"] == "rate_limit_exceeded"
    assert audit.check_exact(tenant) == 2


@both
def test_concurrency_limit_is_429(tenant, sdk):
    import concurrent.futures
    tenant.stack.ctl("limit", "set", tenant.user, "--concurrency", "1")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(load.call_now, tenant.stack.edge,
                           request_of(sdk, tenant, output=10, latency_ms=2000))
        from stack import wait_until
        wait_until(lambda: tenant.stack.sim.totals()["in_flight"] == 1, what="the slow request")
        error = Counted(sdk, tenant, max_retries=0).refused(sdk.RateLimitError)
        assert "retry-after" in error.response.headers
        assert slow.result().status == 200
    Counted(sdk, tenant).ask()
    assert audit.check_exact(tenant) == 2


@both
def test_unknown_key_is_401(tenant, sdk):
    for secret in ("sk-toll-000000000000-AAAAAAAAAAAAAAAAAAAA", "sk-something-else", "x"):
        caller = Counted(sdk, tenant, secret=secret)
        error = caller.refused(sdk.AuthenticationError)
        assert caller.requests == 1
        if sdk is anthropic:
            assert error_of(sdk, error)["type"] == "authentication_error"
        else:
            assert error_of(sdk, error)["code"] == "invalid_api_key"
        assert secret not in error.response.text, "a refusal does not repeat the key"
    nothing_happened(tenant)


@both
def test_a_model_the_key_may_not_use_is_403(stack, sdk):
    tenant = stack.tenant("--models", "gpt-5-mini,claude-sonnet-4-5")
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.PermissionDeniedError)
    assert caller.requests == 1
    if sdk is anthropic:
        assert error_of(sdk, error)["type"] == "permission_error"
    nothing_happened(tenant)


@both
def test_unknown_model_is_404(tenant, sdk):
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.NotFoundError, model="no-such-model")
    assert caller.requests == 1
    detail = error_of(sdk, error)
    assert "no-such-model" in detail["message"]
    if sdk is anthropic:
        assert detail["type"] == "not_found_error"
    else:
        assert detail["code"] == "model_not_found"
    nothing_happened(tenant)


@both
def test_bad_request_is_400(tenant, sdk):
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.BadRequestError, extra_body={"max_tokens": "many"})
    assert caller.requests == 1
    detail = error_of(sdk, error)
    assert detail["type"] == "invalid_request_error" and "max_tokens" in detail["message"]
    nothing_happened(tenant)


@both
def test_max_request_cost(tenant, sdk):
    tenant.stack.ctl("limit", "set", tenant.team, "--max-request-cost", "0.000001")
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.APIStatusError)
    assert error.status_code in (400, 403) and caller.requests == 1
    assert tenant.team in error.response.text
    nothing_happened(tenant)


@both
def test_max_output_tokens(tenant, sdk):
    tenant.stack.ctl("limit", "set", tenant.org, "--max-output-tokens", "50")
    caller = Counted(sdk, tenant)
    error = caller.refused(sdk.APIStatusError)
    assert error.status_code in (400, 403) and caller.requests == 1
    nothing_happened(tenant)
    tenant.stack.ctl("limit", "set", tenant.org, "--max-output-tokens", "100")
    caller.ask()


@both
def test_features_without_a_bound_are_refused_under_a_hard_budget(tenant, sdk):
    tenant.set_budget("org", PENNY * 1000)
    caller = Counted(sdk, tenant)
    extra = ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]} if sdk is anthropic
             else {"web_search_options": {}})
    error = caller.refused(sdk.APIStatusError, extra_body=extra)
    assert error.status_code in (400, 403) and caller.requests == 1
    assert "web_search" in error.response.text
    nothing_happened(tenant)


def test_org_may_require_a_budget(stack):
    tenant = stack.tenant()
    stack.ctl("org", "create", tenant.org + "-strict", "--require-budget")
    secret = tenant.create_key("k", parent=tenant.org + "-strict")
    caller = Counted(openai, tenant, secret=secret)
    error = caller.refused(openai.APIStatusError)
    assert error.status_code in (402, 403) and caller.requests == 1
    stack.ctl("budget", "set", tenant.org + "-strict", "--limit", "1", "--window", "total")
    caller.ask()


@both
def test_provider_failure_reaches_the_caller_and_costs_nothing(tenant, sdk):
    tenant.set_budget("org", 10**9)
    caller = Counted(sdk, tenant, max_retries=0)
    error = caller.refused(sdk.InternalServerError, messages=say("Hello", output=10, fault=500))
    assert error.status_code in (500, 502)
    error = caller.refused(sdk.RateLimitError, messages=say("Hi", fault=429, retry_after=7))
    assert error.response.headers["retry-after"] == "7"
    assert audit.check_exact(tenant) == 0
    budget = tenant.budget()
    assert budget["spent_nanousd"] == budget["held_nanousd"] == budget["suspense_nanousd"] == 0


def test_unreachable_provider_is_a_server_error_and_costs_nothing(stack):
    tenant = stack.tenant()
    tenant.set_budget("org", 10**9)
    stack.add_provider("gone", "openai", "http://127.0.0.1:9/v1")
    try:
        error = Counted(openai, tenant, max_retries=0).refused(
            openai.InternalServerError, model="gone/" + GPT)
        assert error.status_code in (502, 503)
        assert error.response.headers["x-should-retry"] == "true"
    finally:
        stack.ctl("provider", "delete", "gone", "--yes")
    tenant.settled()
    budget = tenant.budget()
    assert budget["spent_nanousd"] == budget["held_nanousd"] == budget["suspense_nanousd"] == 0


@both
def test_refusals_leave_no_trace_in_limits(tenant, sdk):
    """A request refused by its budget uses up neither the request rate nor a slot."""
    tenant.set_budget("org", 1000)
    tenant.stack.ctl("limit", "set", tenant.key, "--rpm", "3", "--concurrency", "1")
    caller = Counted(sdk, tenant, max_retries=0)
    for _ in range(10):
        assert caller.refused(sdk.APIStatusError).status_code == 402
    tenant.set_budget("org", 10**9)
    for _ in range(3):
        caller.ask()
    assert caller.refused(sdk.RateLimitError).status_code == 429
    assert audit.check_exact(tenant) == 3
