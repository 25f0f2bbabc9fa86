// The edge end to end: real sockets on both sides, the four services as fakes in one process.
#include "services/edge/app.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libs/base/error.h"
#include "libs/base/uuid.h"
#include "libs/crypto/virtual_key.h"
#include "libs/identity/identity_testing.h"
#include "libs/testing/fake_clock.h"
#include "services/edge/edge_testing.h"

namespace tollhouse::edge {
namespace {

using ledger::v1::Entry;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr std::string_view kJsonAnswer =
    R"({"id":"c1","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,)"
    R"("message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],)"
    R"("usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}})";
// 10 x 150 + 5 x 600 nano-USD
constexpr int64_t kJsonCost = 4500;

std::string Delta(std::string_view text) {
  return absl::StrCat(
      R"(data: {"id":"c1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":")",
      std::string(text), "\"},\"finish_reason\":null}]}\n\n");
}
const char kStop[] =
    "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,"
    "\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const char kUsage[] =
    "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o-mini\",\"choices\":[],"
    "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}}\n\n";
const char kDone[] = "data: [DONE]\n\n";

void AddPrice(std::string_view vendor, std::string_view model, int64_t in, int64_t out,
              router::v1::PolicySnapshot* policy) {
  router::v1::ModelPrice* price = policy->add_prices();
  price->set_vendor(std::string(vendor));
  price->set_model(std::string(model));
  price->set_mode("chat");
  price->set_max_input_tokens(128'000);
  price->set_max_output_tokens(16'384);
  for (const auto& [token_class, nanos] : {std::pair{router::v1::TOKEN_CLASS_INPUT, in},
                                           std::pair{router::v1::TOKEN_CLASS_OUTPUT, out}}) {
    router::v1::Rate* rate = price->add_rates();
    rate->set_token_class(token_class);
    rate->set_tier(router::v1::SERVICE_TIER_STANDARD);
    rate->set_nanousd_per_mtok(nanos);
  }
}

class AppTest : public ::testing::Test {
 protected:
  AppTest() : provider_([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, kJsonAnswer));
    return true;
  }) {
    services_.policy.set_price_book_version("v7");
    AddProvider("openai", common::v1::DIALECT_OPENAI, "/v1");
    AddProvider("anthropic", common::v1::DIALECT_ANTHROPIC, "");
    AddPrice("openai", "gpt-4o-mini", 150'000'000, 600'000'000, &services_.policy);
    AddPrice("anthropic", "claude-sonnet-4-5", 3'000'000'000, 15'000'000'000, &services_.policy);
    config_.data_dir = dir_.File("edge");
    config_.listen = "127.0.0.1:0";
    config_.threads = 2;
    config_.proxy_from_environment = false;
    config_.journal_segment_bytes = 1 << 20;
    config_.shutdown_time = absl::Seconds(5);
  }

  void AddProvider(std::string_view name, common::v1::Dialect dialect, std::string_view path) {
    router::v1::Provider* provider = services_.policy.add_providers();
    provider->set_name(std::string(name));
    provider->set_dialect(dialect);
    provider->set_base_url(absl::StrCat("http://127.0.0.1:", provider_.port(), std::string(path)));
    provider->set_catalog(std::string(name));
    provider->set_allow_private(true);
  }

  void Start() {
    auto app = App::Create(config_, services_.channels());
    ASSERT_TRUE(app.ok()) << app.status();
    app_ = *std::move(app);
    const absl::Status started = app_->Start();
    ASSERT_TRUE(started.ok()) << started;
    if (key_.empty()) key_ = services_.AddKey();
  }

  int port() const { return std::stoi(app_->url().substr(app_->url().rfind(':') + 1)); }
  std::unique_ptr<Wire> Dial() { return Wire::Dial(port()); }

  std::string Request(std::string_view body, std::string_view path = "/v1/chat/completions",
                      std::string_view headers = "") {
    return absl::StrCat("POST ", std::string(path), " HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer ",
                        key_, "\r\nContent-Type: application/json\r\n", std::string(headers),
                        "Content-Length: ", body.size(), "\r\n\r\n", std::string(body));
  }
  static std::string Chat(std::string_view more = "") {
    return absl::StrCat(R"({"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}])",
                        std::string(more), "}");
  }

  Wire::Message Call(const std::string& request) {
    const auto wire = Dial();
    wire->Send(request);
    return wire->Read();
  }

  testing::TempDir dir_;
  FakeServices services_;
  TestProvider provider_;
  Config config_;
  std::unique_ptr<App> app_;
  std::string key_;
};

TEST_F(AppTest, JsonAnswerIsPassedOnMeteredAndSettledOnce) {
  Start();
  const Wire::Message answer =
      Call(Request(Chat(), "/v1/chat/completions",
                   "x-tollhouse-request-id: my-1\r\nx-tollhouse-tags: use_case=review\r\n"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, kJsonAnswer);
  EXPECT_EQ(answer.Header("x-tollhouse-request-id"), "my-1");
  EXPECT_EQ(answer.Header("x-tollhouse-cost-nanousd"), std::to_string(kJsonCost));
  EXPECT_EQ(answer.Header("x-tollhouse-model"), "gpt-4o-mini");
  EXPECT_EQ(answer.Header("x-tollhouse-budget-remaining-nanousd"),
            std::to_string(1'000'000'000'000 - kJsonCost));
  EXPECT_EQ(answer.Header("x-request-id"), "req_1");

  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  const Entry& entry = entries[0];
  EXPECT_EQ(entry.kind(), ledger::v1::ENTRY_KIND_SETTLE);
  EXPECT_EQ(entry.cost_nanousd(), kJsonCost);
  EXPECT_EQ(entry.status(), "ok");
  EXPECT_EQ(entry.request_id(), "my-1");
  EXPECT_EQ(entry.usage_source(), common::v1::USAGE_SOURCE_FINAL);
  EXPECT_THAT(entry.account_ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(entry.account_path(), "acme/payments/laptop");
  EXPECT_EQ(entry.tags().at("use_case"), "review");
  EXPECT_EQ(entry.price_version(), "v7");
  EXPECT_EQ(entry.http_status(), 200);
  EXPECT_GE(entry.hold_nanousd(), entry.cost_nanousd());
  EXPECT_THAT(entry.budgets(), SizeIs(1));
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.spent(), kJsonCost);
  EXPECT_EQ(services_.held(), 0);
}

TEST_F(AppTest, ProviderGetsItsOwnKeyTheSameBytesAndNothingOfTheCaller) {
  Start();
  const std::string body = Chat(R"(,  "x_unknown" : [1, 2],"user":"u1")");
  Call(Request(body, "/v1/chat/completions?beta=true&key=abc",
               "X-Custom: stays\r\nConnection: keep-alive, X-Hop\r\nX-Hop: gone\r\n"
               "Cookie: a=b\r\nx-tollhouse-tags: a=b\r\nX-Forwarded-For: 10.0.0.1\r\n"));
  ASSERT_THAT(provider_.requests(), SizeIs(1));
  const Wire::Message sent = provider_.requests()[0];
  EXPECT_TRUE(sent.head.starts_with("POST /v1/chat/completions?beta=true HTTP/1.1\r\n"));
  EXPECT_EQ(sent.body, body);
  EXPECT_EQ(sent.Header("authorization"), "Bearer provider-secret-of-openai");
  EXPECT_THAT(sent.head, Not(HasSubstr("sk-toll-")));
  EXPECT_EQ(sent.Header("x-custom"), "stays");
  EXPECT_EQ(sent.Header("x-hop"), "");
  EXPECT_EQ(sent.Header("cookie"), "");
  EXPECT_EQ(sent.Header("x-forwarded-for"), "");
  EXPECT_EQ(sent.Header("x-tollhouse-tags"), "");
  EXPECT_THAT(sent.Header("x-tollhouse-hold-id"), SizeIs(36));
  EXPECT_EQ(sent.Header("host"), absl::StrCat("127.0.0.1:", provider_.port()));
}

TEST_F(AppTest, StreamPassesEventsAsTheyComeAndKeepsTheUsageItAskedFor) {
  const auto seen = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message& request, Wire& wire) {
    EXPECT_THAT(request.body, HasSubstr("include_usage"));
    wire.Send(SseHead() + Chunk(Delta("hel")));
    seen->WaitForNotificationWithTimeout(absl::Seconds(10));
    wire.Send(Chunk(Delta("lo")) + Chunk(kStop) + Chunk(kUsage) + Chunk(kDone) + Chunk(""));
    return true;
  });
  Start();
  const auto wire = Dial();
  wire->Send(Request(Chat(R"(,"stream":true)")));
  EXPECT_THAT(wire->ReadUntil("hel"), HasSubstr("hel"));  // before the provider went on
  seen->Notify();
  const Wire::Message answer = wire->Read();
  EXPECT_TRUE(answer.whole);
  EXPECT_EQ(answer.Header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(answer.body, Delta("hel") + Delta("lo") + kStop + kDone);
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SETTLE);
  EXPECT_EQ(entries[0].cost_nanousd(), kJsonCost);
  EXPECT_TRUE(entries[0].streamed());
}

TEST_F(AppTest, CallerWhoLeavesIsChargedForWhatTheProviderBilled) {
  const auto left = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message&, Wire& wire) {
    wire.Send(SseHead() + Chunk(Delta("hel")));
    left->WaitForNotificationWithTimeout(absl::Seconds(10));
    for (int i = 0; i < 50; ++i) wire.Send(Chunk(Delta("lo")));
    wire.Send(Chunk(kStop) + Chunk(kUsage) + Chunk(kDone) + Chunk(""));
    return true;
  });
  Start();
  auto wire = Dial();
  wire->Send(Request(Chat(R"(,"stream":true)")));
  wire->ReadUntil("hel");
  wire->Reset();
  left->Notify();
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SETTLE);
  EXPECT_EQ(entries[0].cost_nanousd(), kJsonCost);
  EXPECT_EQ(entries[0].status(), "client_gone");
}

TEST_F(AppTest, BrokenStreamSuspendsTheWholeHoldAndSaysSo) {
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    wire.Send(SseHead() + Chunk(Delta("hel")) + Chunk("data: {\"half"));
    return false;
  });
  Start();
  const Wire::Message answer = Call(Request(Chat(R"(,"stream":true)")));
  EXPECT_TRUE(answer.whole);
  EXPECT_THAT(answer.body, HasSubstr("hel"));
  EXPECT_THAT(answer.body, HasSubstr("\"error\""));
  EXPECT_THAT(answer.body, Not(HasSubstr("half")));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_GT(entries[0].hold_nanousd(), 0);
  EXPECT_GT(services_.held(), 0);  // nothing went back to the lease
  // And what it has cost so far is estimated: the likely input, one token of output.
  EXPECT_EQ(entries[0].usage_source(), common::v1::USAGE_SOURCE_ESTIMATED);
  ASSERT_THAT(entries[0].usage(), SizeIs(1));
  const common::v1::Usage& usage = entries[0].usage(0).usage();
  EXPECT_GT(usage.input_tokens_uncached(), 0);
  EXPECT_EQ(usage.output_tokens(), 1);
  EXPECT_EQ(entries[0].cost_nanousd(), usage.input_tokens_uncached() * 150 + 600);
  EXPECT_LT(entries[0].cost_nanousd(), entries[0].hold_nanousd());
  EXPECT_NE(entries[0].price_detail(), "");
}

TEST_F(AppTest, CallerWhoLeavesASilentProviderIsChargedAnEstimate) {
  config_.drain_time = absl::Milliseconds(300);
  const auto gone = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message&, Wire& wire) {
    for (int i = 0; i < 10; ++i) wire.Send(i == 0 ? SseHead() + Chunk(Delta("hello")) : Chunk(Delta("hello")));
    gone->WaitForNotificationWithTimeout(absl::Seconds(10));
    wire.Send(Chunk(Delta("hello")));  // so that the edge notices
    wire.Read();                       // and then says nothing any more
    return false;
  });
  Start();
  auto wire = Dial();
  wire->Send(Request(Chat(R"(,"stream":true)")));
  wire->ReadUntil("hello");
  wire->Reset();
  gone->Notify();
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(entries[0].usage_source(), common::v1::USAGE_SOURCE_ESTIMATED);
  ASSERT_THAT(entries[0].usage(), SizeIs(1));
  // 11 pieces of 5 bytes: 14 tokens at four bytes each.
  EXPECT_EQ(entries[0].usage(0).usage().output_tokens(), 14);
  EXPECT_GT(entries[0].cost_nanousd(), 14 * 600);
}

TEST_F(AppTest, BrokenMessagesKeepTheProvidersCountsAndEstimateTheRest) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(SseHead() +
              Chunk("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":"
                    "\"claude-sonnet-4-5\",\"usage\":{\"input_tokens\":100,\"output_tokens\":1,"
                    "\"cache_read_input_tokens\":40}}}\n\n") +
              Chunk("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{"
                    "\"type\":\"text_delta\",\"text\":\"" + std::string(400, 'x') + "\"}}\n\n"));
    return false;
  });
  Start();
  Call(Request(R"({"model":"claude-sonnet-4-5","max_tokens":500,"stream":true,)"
               R"("messages":[{"role":"user","content":"hi"}]})", "/v1/messages"));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(entries[0].usage_source(), common::v1::USAGE_SOURCE_ESTIMATED);
  ASSERT_THAT(entries[0].usage(), SizeIs(1));
  EXPECT_EQ(entries[0].usage(0).usage().input_tokens_uncached(), 100);
  EXPECT_EQ(entries[0].usage(0).usage().cache_read_tokens(), 40);
  EXPECT_EQ(entries[0].usage(0).usage().output_tokens(), 100);
}

TEST_F(AppTest, HangUpWithoutAnAnswerSuspends) {
  provider_.SetScript([](const Wire::Message&, Wire&) { return false; });
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 502);
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(entries[0].status(), "unknown");
  EXPECT_EQ(entries[0].http_status(), 0);
}

TEST_F(AppTest, ProviderTimeoutIsNotAVoid) {
  config_.first_byte_time = absl::Milliseconds(200);
  const auto over = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message&, Wire&) {
    over->WaitForNotificationWithTimeout(absl::Seconds(10));
    return false;
  });
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 504);
  over->Notify();
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
}

TEST_F(AppTest, ProviderErrorPassesAndIsVoid) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send("HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-type: application/json\r\n"
              "content-length: 32\r\n\r\n{\"error\":{\"message\":\"slow down\"}}");
    return true;
  });
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 429);
  EXPECT_EQ(answer.Header("retry-after"), "7");
  EXPECT_THAT(answer.body, HasSubstr("slow down"));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_VOID);
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.held(), 0);
  EXPECT_EQ(services_.spent(), 0);
}

TEST_F(AppTest, RefusedProviderCredentialIsNotTheCallersFault) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(401, R"({"error":{"message":"Incorrect API key: sk-prov-123"}})"));
    return true;
  });
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 502);
  EXPECT_THAT(answer.body, Not(HasSubstr("sk-prov")));
  EXPECT_EQ(services_.WaitEntries(1)[0].kind(), ledger::v1::ENTRY_KIND_VOID);
}

TEST_F(AppTest, RedirectIsNotFollowed) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n");
    return true;
  });
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  EXPECT_THAT(provider_.requests(), SizeIs(1));
}

TEST_F(AppTest, UnreachableProviderIsVoid) {
  {
    TestProvider gone([](const Wire::Message&, Wire&) { return false; });
    services_.policy.mutable_providers(0)->set_base_url(absl::StrCat("http://127.0.0.1:", gone.port()));
  }
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.Header("retry-after"), "");
  EXPECT_THAT(answer.body, Not(HasSubstr("127.0.0.1")));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_VOID);
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.held(), 0);
}

TEST_F(AppTest, PrivateAddressNeedsPermission) {
  services_.policy.mutable_providers(0)->set_allow_private(false);
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 503);
  EXPECT_THAT(answer.body, HasSubstr("private"));
  EXPECT_EQ(provider_.connections(), 0);
}

TEST_F(AppTest, ExhaustedBudgetIsAnswered402AndNothingIsSent) {
  Start();
  services_.SetBudget(10);
  const Wire::Message answer = Call(Request(Chat(R"(,"stream":true)")));
  EXPECT_EQ(answer.status, 402);
  EXPECT_EQ(answer.Header("content-type"), "application/json");
  EXPECT_EQ(answer.Header("x-should-retry"), "false");
  EXPECT_EQ(answer.Header("x-tollhouse-denied-by"), "acme/payments#month");
  EXPECT_THAT(answer.body, HasSubstr("insufficient_quota"));
  EXPECT_THAT(provider_.requests(), SizeIs(0));
}

TEST_F(AppTest, RateLimitIsAnswered429WithRetryAfter) {
  Start();
  enforcer::v1::Refused refused;
  refused.set_reason(enforcer::v1::REASON_REQUEST_RATE);
  refused.set_retry_after_ms(1500);
  enforcer::v1::Violation* violation = refused.add_violations();
  violation->set_reason(enforcer::v1::REASON_REQUEST_RATE);
  violation->set_budget("acme");
  violation->set_limit(60);
  services_.RefuseNext(refused);
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 429);
  EXPECT_EQ(answer.Header("retry-after"), "2");
  EXPECT_EQ(answer.Header("x-should-retry"), "true");
}

TEST_F(AppTest, SilentEnforcerIs503AndItsLateHoldIsGivenBack) {
  config_.reserve_timeout = absl::Milliseconds(200);
  config_.hold_wait = absl::ZeroDuration();
  Start();
  services_.MuteEnforcer(true);
  EXPECT_EQ(Call(Request(Chat())).status, 503);
  EXPECT_THAT(provider_.requests(), SizeIs(0));
  services_.MuteEnforcer(false);
  services_.BreakStreams();  // what was not answered is asked again
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_VOID);
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.held(), 0);
}

TEST_F(AppTest, AHoldWhoseAnswerWasLostIsVoidedAtOnce) {
  Start();
  services_.LoseNextHold();
  EXPECT_EQ(Call(Request(Chat())).status, 503);
  EXPECT_THAT(provider_.requests(), SizeIs(0));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_VOID);
  EXPECT_EQ(entries[0].hold_id(), services_.reserves()[0].hold_id());
  EXPECT_EQ(entries[0].epoch(), 1);
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.held(), 0);
}

// An edge that was killed knows of its reservations only what its journal says: everything forwarded.
TEST_F(AppTest, ExpiredHoldsAreVoidedByTheEdgeThatNeverForwardedThem) {
  provider_.SetScript([](const Wire::Message&, Wire&) { return false; });  // no answer: suspended
  services_.MutePost(true);
  config_.shutdown_time = absl::ZeroDuration();
  Start();
  Call(Request(Chat()));
  app_.reset();
  Entry forwarded;
  forwarded.set_hold_id(services_.reserves().at(0).hold_id());
  Entry unheard;
  unheard.set_hold_id(std::string(NewUuid(absl::Now()).raw()));
  for (Entry* entry : {&forwarded, &unheard}) {
    entry->set_kind(ledger::v1::ENTRY_KIND_SUSPEND);
    entry->add_account_ids(1);
    entry->set_epoch(1);
    entry->set_status("expired");
  }
  services_.SetExpired({forwarded, unheard});
  services_.MutePost(false);
  Start();
  const std::vector<Entry> entries = services_.WaitEntries(2);
  ASSERT_THAT(entries, SizeIs(2));
  for (const Entry& entry : entries) {
    const bool never = entry.hold_id() == unheard.hold_id();
    EXPECT_EQ(entry.kind(), never ? ledger::v1::ENTRY_KIND_VOID : ledger::v1::ENTRY_KIND_SUSPEND);
  }
}

TEST_F(AppTest, KeysAreCheckedCachedAndRevokedAtOnce) {
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_EQ(services_.lookups(), 1);
  services_.RevokeKey(key_);
  const Wire::Message revoked = Call(Request(Chat()));
  EXPECT_EQ(revoked.status, 401);
  EXPECT_THAT(revoked.body, HasSubstr("invalid_request_error"));

  const int before = services_.lookups();
  key_ = "sk-toll-" + std::string(24, 'a') + "-" + std::string(52, 'b');
  EXPECT_EQ(Call(Request(Chat())).status, 401);  // its checksum is wrong
  EXPECT_EQ(services_.lookups(), before);
  key_ = "not-a-key";
  EXPECT_EQ(Call(Request(Chat())).status, 401);
  key_ = services_.AddKey();
  key_.back() = key_.back() == 'a' ? 'b' : 'a';
  EXPECT_EQ(Call(Request(Chat())).status, 401);
}

TEST_F(AppTest, CachedKeysAreServedForAWhileAfterTheWatchesWereCut) {
  testing::FakeClock clock;
  config_.clock = &clock;
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  services_.CutWatches();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  Wire::Message answer;
  do {
    clock.Advance(absl::Seconds(20));  // until the edge has noticed the cut and 30 s have passed
    answer = Call(Request(Chat()));
  } while (answer.status == 200);
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(app_->NotReady(), "");
  app_.reset();
}

TEST_F(AppTest, LongCallsAskForMoreTimeForTheirHold) {
  config_.hold_time_to_live = absl::Milliseconds(400);
  provider_.SetScript([this](const Wire::Message&, Wire& wire) {
    wire.Send(SseHead() + Chunk(Delta("hel")));
    services_.WaitRefreshes(3);
    wire.Send(Chunk(kStop) + Chunk(kUsage) + Chunk(kDone) + Chunk(""));
    return true;
  });
  Start();
  EXPECT_TRUE(Call(Request(Chat(R"(,"stream":true)"))).whole);
  EXPECT_GE(services_.refreshes(), 3);
}

TEST_F(AppTest, StreamThatOverrunsItsHoldIsCut) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(SseHead());
    const std::string text(4096, 'x');
    for (int i = 0; i < 100; ++i) wire.Send(Chunk(Delta(text)));  // 400 KiB of 100 tokens
    wire.Send(Chunk(kStop) + Chunk(kUsage) + Chunk(kDone) + Chunk(""));
    return true;
  });
  Start();
  const Wire::Message answer = Call(Request(Chat(R"(,"stream":true)")));
  EXPECT_TRUE(answer.whole);
  EXPECT_THAT(answer.body, HasSubstr("\"error\""));
  EXPECT_THAT(answer.body, Not(HasSubstr("[DONE]")));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(entries[0].status(), "cut");
}

// What a provider of each dialect may go on with for ever, and how its stream is then ended.
struct Endless {
  const char* name;
  const char* path;
  const char* body;
  const char* content_type;
  std::string first, piece;
  const char* end;  // the dialect's error event begins with
};

class CutTest : public AppTest, public ::testing::WithParamInterface<Endless> {};

TEST_P(CutTest, WhatCostsMoreThanItsHoldEndsWithTheDialectsErrorEvent) {
  const Endless& endless = GetParam();
  AddProvider("gemini", common::v1::DIALECT_GEMINI, "");
  AddPrice("gemini", "gemini-2.5-flash", 300'000'000, 2'500'000'000, &services_.policy);
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    wire.Send(absl::StrCat("HTTP/1.1 200 OK\r\ncontent-type: ", endless.content_type,
                           "\r\ntransfer-encoding: chunked\r\n\r\n", Chunk(endless.first)));
    for (int i = 0; i < 100; ++i) wire.Send(Chunk(endless.piece));
    wire.Send(Chunk(""));
    return true;
  });
  Start();
  const Wire::Message answer = Call(Request(endless.body, endless.path));
  EXPECT_TRUE(answer.whole);
  const size_t end = answer.body.find(endless.end);
  ASSERT_NE(end, std::string::npos) << answer.body.substr(0, 500);
  EXPECT_EQ(answer.body.find("exceeded what was held"), answer.body.rfind("exceeded what was held"));
  // Whole pieces before it, nothing behind it.
  EXPECT_THAT(answer.body.substr(0, end), HasSubstr(endless.first.substr(1)));
  EXPECT_LT(answer.body.size(), 100 * endless.piece.size());
  if (std::string_view(endless.content_type) == "application/json") {
    EXPECT_TRUE(answer.body.ends_with("]\n"));
  }
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].status(), "cut");
  EXPECT_GT(entries[0].cost_nanousd(), 0);
}

std::string Long(const char* before, const char* after) {
  return absl::StrCat(before, std::string(4096, 'x'), after);
}

INSTANTIATE_TEST_SUITE_P(
    Dialects, CutTest,
    ::testing::Values(
        Endless{"Responses", "/v1/responses",
                R"({"model":"gpt-4o-mini","max_output_tokens":100,"stream":true,"input":"hi"})",
                "text/event-stream",
                "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":"
                "\"r\",\"status\":\"in_progress\",\"usage\":null}}\n\n",
                Long("data: {\"type\":\"response.output_text.delta\",\"delta\":\"", "\"}\n\n"),
                "data: {\"error\":"},
        Endless{"Messages", "/v1/messages",
                R"({"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,)"
                R"("messages":[{"role":"user","content":"hi"}]})",
                "text/event-stream",
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":"
                "\"claude-sonnet-4-5\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{"
                "\"output_tokens\":101}}\n\n",
                "event: error\ndata: {\"type\":\"error\""},
        Endless{"Gemini", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
                R"({"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":100}})",
                "text/event-stream", "data: {\"candidates\":[]}\r\n\r\n",
                "data: {\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":90,"
                "\"thoughtsTokenCount\":20,\"totalTokenCount\":119}}\r\n\r\n",
                "data: {\"error\":"},
        Endless{"GeminiArray", "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
                R"({"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":100}})",
                "application/json", "[{\"candidates\":[]}",
                Long(",{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"", "\"}]}}]}"),
                ",\n{\"error\":"}),
    [](const auto& endless) { return std::string(endless.param.name); });

TEST_F(AppTest, OutputIsClampedToWhatTheTightestBudgetAffordsAndSaysSo) {
  config_.clamp_output = true;
  config_.tighten_bounds = false;
  services_.SetBudget(2'000'000);  // 3,000 tokens of output and some input
  Start();
  const std::string body =
      R"({"model":"gpt-4o-mini", "max_tokens" : 16000,"messages":[{"role":"user","content":"hi"}]})";
  const Wire::Message answer = Call(Request(body));
  EXPECT_EQ(answer.status, 200);
  int64_t clamped = 0;
  ASSERT_TRUE(absl::SimpleAtoi(answer.Header("x-tollhouse-max-output-tokens"), &clamped));
  EXPECT_GT(clamped, 2'500);
  EXPECT_LT(clamped, 3'334);
  // That number alone has changed.
  const size_t number = body.find("16000");
  EXPECT_EQ(provider_.requests()[0].body,
            body.substr(0, number) + std::to_string(clamped) + body.substr(number + 5));
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_LE(entries[0].hold_nanousd(), 2'000'000);
  EXPECT_GT(entries[0].hold_nanousd(), 2'000'000 - 600);
  EXPECT_THAT(services_.reserves(), SizeIs(2));
}

TEST_F(AppTest, OutputIsClampedIntoABodyThatDeclaresNone) {
  config_.clamp_output = true;
  services_.SetBudget(2'000'000);
  Start();
  EXPECT_EQ(Call(Request(R"({"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]})"))
                .status,
            200);
  EXPECT_THAT(provider_.requests().back().body, HasSubstr("\"max_completion_tokens\":"));
}

TEST_F(AppTest, NothingIsClampedBelowWhatAnAnswerNeeds) {
  config_.clamp_output = true;
  config_.tighten_bounds = false;
  services_.SetBudget(2'000'000);
  Start();
  // 1,024 tokens of that model cost more.
  EXPECT_EQ(Call(Request(R"({"model":"claude-sonnet-4-5","max_tokens":8000,"messages":[]})",
                         "/v1/messages")).status,
            402);
  services_.SetBudget(70'000'000);
  // Some 4,000 tokens are there, and the thinking alone may take 5,000.
  EXPECT_EQ(Call(Request(R"({"model":"claude-sonnet-4-5","max_tokens":8000,"messages":[],)"
                         R"("thinking":{"type":"enabled","budget_tokens":5000}})",
                         "/v1/messages")).status,
            402);
  EXPECT_EQ(Call(Request(R"({"model":"claude-sonnet-4-5","max_tokens":8000,"messages":[],)"
                         R"("thinking":{"type":"enabled","budget_tokens":2000}})",
                         "/v1/messages")).status,
            200);
  EXPECT_THAT(provider_.requests(), SizeIs(1));
}

TEST_F(AppTest, NothingIsClampedUnlessAsked) {
  services_.SetBudget(2'000'000);
  Start();
  const Wire::Message answer = Call(Request(
      R"({"model":"gpt-4o-mini","max_tokens":16000,"messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_EQ(answer.status, 402);
  EXPECT_THAT(provider_.requests(), SizeIs(0));
}

TEST_F(AppTest, ExpiredKeyIsRefused) {
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->mutable_expires_at()->set_seconds(1); });
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 401);
}

TEST_F(AppTest, AllowListsOfAKeyAreKept) {
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_models("claude-*"); });
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 403);
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_providers("anthropic"); });
  EXPECT_EQ(Call(Request(Chat())).status, 403);
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_models("gpt-*"); });
  EXPECT_EQ(Call(Request(Chat())).status, 200);
}

TEST_F(AppTest, EndpointsAndNetworksOfAKeyAreKeptEverywhere) {
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_endpoints("embed*"); });
  Start();
  for (const char* path : {"/v1/chat/completions", "/v1/responses", "/v1/moderations"}) {
    const Wire::Message answer = Call(Request(Chat(), path));
    EXPECT_EQ(answer.status, 403) << path;
    EXPECT_THAT(answer.body, HasSubstr("may not use the endpoint")) << path;
  }
  const std::string listed = absl::StrCat("GET /v1/models HTTP/1.1\r\nHost: e\r\nAuthorization: Bearer ",
                                          key_, "\r\n\r\n");
  EXPECT_EQ(Call(listed).status, 403);
  const std::string usage = absl::StrCat(
      "GET /tollhouse/v1/usage HTTP/1.1\r\nHost: e\r\nAuthorization: Bearer ", key_, "\r\n\r\n");
  EXPECT_EQ(Call(usage).status, 200);

  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_networks("10.0.0.0/8"); });
  const Wire::Message elsewhere = Call(Request(Chat(), "/v1/messages", "X-Forwarded-For: 10.0.0.1\r\n"));
  EXPECT_EQ(elsewhere.status, 403);
  EXPECT_THAT(elsewhere.body, HasSubstr("permission_error"));  // in the caller's dialect
  EXPECT_THAT(elsewhere.body, HasSubstr("network address"));
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_networks("127.0.0.0/8"); });
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_THAT(provider_.requests(), SizeIs(1));
}

TEST_F(AppTest, ATrustedProxySaysWhereACallComesFrom) {
  config_.trusted_proxies = "127.0.0.1, 192.0.2.0/24";
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_networks("2001:db8::/32"); });
  Start();
  const auto from = [&](std::string_view header) {
    return Call(Request(Chat(), "/v1/chat/completions", header)).status;
  };
  EXPECT_EQ(from("X-Forwarded-For: 2001:db8::7\r\n"), 200);
  EXPECT_EQ(from("X-Forwarded-For: 10.0.0.1, 2001:db8::7, 192.0.2.1\r\n"), 200);
  EXPECT_EQ(from("X-Forwarded-For: 2001:db8::7, 10.0.0.1\r\n"), 403);
  EXPECT_EQ(from("X-Forwarded-For: 2001:db8::7, junk\r\n"), 403);
  EXPECT_EQ(from(""), 403);
}

TEST_F(AppTest, TheLastUseOfAKeyIsToldInTheBackground) {
  testing::FakeClock clock;
  config_.clock = &clock;
  config_.directory.use_report_interval = absl::ZeroDuration();
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_EQ(services_.WaitUse(key_), absl::ToUnixSeconds(clock.Wall()) / 60);
  app_.reset();
}

TEST_F(AppTest, KeysInUseAreThereAgainAfterAReconnect) {
  Start();
  const std::string other = services_.AddKey();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_EQ(services_.lookups(), 1);
  services_.RestartVaultWatches();
  // Asked for by the edge itself, not by a caller.
  services_.WaitLookups(2);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Call(Request(Chat())).status, 200);
  key_ = other;
  EXPECT_EQ(Call(Request(Chat())).status, 200);
}

TEST_F(AppTest, AFloodOfInventedKeysCostsNoLookUp) {
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  const std::string valid = key_;
  const int before = services_.lookups();
  const auto wire = Dial();
  for (int i = 0; i < 500; ++i) {
    // Well-formed, as nobody made it; every second one with the id of a real key but another secret.
    const crypto::NewVirtualKey made = crypto::MakeVirtualKey("of another installation");
    key_ = std::string(made.text.view());
    if (i % 2 == 0) key_.replace(0, 32, valid.substr(0, 32));
    wire->Send(Request(Chat()));
    ASSERT_EQ(wire->Read().status, 401) << key_;
  }
  EXPECT_EQ(services_.lookups(), before);
  key_ = valid;
  EXPECT_EQ(Call(Request(Chat())).status, 200);
}

TEST_F(AppTest, AnAddressThatAsksTooOftenWaits) {
  config_.requests_per_address_per_minute = 30;  // three at once
  Start();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Call(Request(Chat())).status, 200);
  const Wire::Message limited = Call(Request(Chat()));
  EXPECT_EQ(limited.status, 429);
  EXPECT_NE(limited.Header("retry-after"), "");
}

TEST_F(AppTest, AKeyHasSoManyRequestsUnderWay) {
  config_.requests_per_key = 1;
  absl::Notification arrived, go_on;
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    if (!arrived.HasBeenNotified()) arrived.Notify();
    go_on.WaitForNotification();
    wire.Send(HttpAnswer(200, kJsonAnswer));
    return true;
  });
  Start();
  const auto first = Dial();
  first->Send(Request(Chat()));
  arrived.WaitForNotification();
  EXPECT_EQ(Call(Request(Chat())).status, 429);
  go_on.Notify();
  EXPECT_EQ(first->Read().status, 200);
  // The first has ended a moment after its last byte.
  int status = 429;
  for (int i = 0; i < 1000 && status == 429; ++i) status = Call(Request(Chat())).status;
  EXPECT_EQ(status, 200);
}

// Two credentials: a new version of "a" before the old one, and "b".
vault::v1::GetCredentialResponse SomeCredentials(std::vector<std::pair<std::string, int64_t>> versions) {
  vault::v1::GetCredentialResponse answer;
  for (const auto& [name, version] : versions) {
    vault::v1::LiveCredential* live = answer.add_credentials();
    live->set_name(name);
    live->set_version(version);
    live->set_weight(1);
    live->set_secret(absl::StrCat("secret-", name, version));
  }
  return answer;
}

TEST_F(AppTest, ARefusedCredentialIsReplacedWithinTheCallAndThenRests) {
  services_.SetCredentials(SomeCredentials({{"a", 2}, {"a", 1}}));
  provider_.SetScript([&](const Wire::Message& request, Wire& wire) {
    const bool is_new = request.head.find("secret-a2") != std::string::npos;
    wire.Send(is_new ? HttpAnswer(401, R"({"error":{"message":"unknown key"}})")
                     : HttpAnswer(200, kJsonAnswer));
    return true;
  });
  Start();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_THAT(provider_.requests(), SizeIs(5));  // one 401 for all of them
  EXPECT_TRUE(services_.WaitAcknowledged(4));
  EXPECT_EQ(services_.spent(), 4 * kJsonCost);
}

TEST_F(AppTest, ASpentQuotaTurnsToTheOtherCredential) {
  services_.SetCredentials(SomeCredentials({{"a", 1}, {"b", 2}}));
  provider_.SetScript([&](const Wire::Message& request, Wire& wire) {
    const bool spent = request.head.find("secret-a1") != std::string::npos;
    wire.Send(spent ? HttpAnswer(429, R"({"error":{"message":"quota"}})")
                    : HttpAnswer(200, kJsonAnswer));
    return true;
  });
  Start();
  for (int i = 0; i < 12; ++i) EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_LE(provider_.requests().size(), 13u);
  EXPECT_EQ(services_.WaitEntries(12).size(), 12u);
}

TEST_F(AppTest, WhenEveryCredentialIsRefusedTheCallerHearsIt) {
  services_.SetCredentials(SomeCredentials({{"a", 1}, {"b", 2}}));
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(401, R"({"error":{"message":"no"}})"));
    return true;
  });
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  EXPECT_THAT(provider_.requests(), SizeIs(2));
  EXPECT_EQ(services_.WaitEntries(1)[0].kind(), ledger::v1::ENTRY_KIND_VOID);
  EXPECT_TRUE(services_.WaitAcknowledged(1));
  EXPECT_EQ(services_.held(), 0);
}

TEST_F(AppTest, OutputLimitIsNamedOrSplicedIn) {
  Start();
  services_.SetAccount([](ledger::v1::ResolveAccountResponse* account) {
    account->mutable_chain(1)->mutable_limits()->set_max_output_tokens(50);
  });
  const Wire::Message refused = Call(Request(Chat()));
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("50"));
  EXPECT_THAT(refused.body, HasSubstr("acme/payments"));
  EXPECT_EQ(Call(Request(R"({"model":"gpt-4o-mini","messages":[]})")).status, 200);
  EXPECT_THAT(provider_.requests().at(0).body, HasSubstr("\"max_completion_tokens\":50"));
}

TEST_F(AppTest, CostLimitPerRequestIsNamed) {
  Start();
  services_.SetAccount([](ledger::v1::ResolveAccountResponse* account) {
    account->mutable_chain(0)->mutable_limits()->set_max_request_cost_nanousd(1000);
  });
  const Wire::Message refused = Call(Request(Chat()));
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr("0.000001"));
}

TEST_F(AppTest, PinnedTagsWin) {
  Start();
  services_.SetAccount([](ledger::v1::ResolveAccountResponse* account) {
    (*account->mutable_chain(0)->mutable_tags())["env"] = "org";
    (*account->mutable_chain(2)->mutable_tags())["env"] = "key";
  });
  Call(Request(Chat(R"(,"metadata":{"env":"body","ticket":"PAY-1"})"), "/v1/chat/completions",
               "x-tollhouse-tags: env=header, ticket = PAY-2\r\nX-Claude-Code-Session-Id: s1\r\n"));
  const auto reserves = services_.reserves();
  ASSERT_THAT(reserves, SizeIs(1));
  EXPECT_EQ(reserves[0].tags().at("env"), "key");
  EXPECT_EQ(reserves[0].tags().at("ticket"), "PAY-2");
  EXPECT_EQ(reserves[0].tags().at("session"), "s1");
  EXPECT_EQ(Call(Request(Chat(), "/v1/chat/completions",
                         "x-tollhouse-tags: a=" + std::string(600, 'x') + "\r\n"))
                .status,
            400);
}

TEST_F(AppTest, UnknownAndUnpricedModelsAndPaths) {
  Start();
  EXPECT_EQ(Call(Request(R"({"model":"no-such","messages":[]})")).status, 404);
  EXPECT_EQ(Call(Request(R"({"model":"openai/unpriced-1","max_tokens":1,"messages":[]})")).status, 403);
  EXPECT_EQ(Call(Request("{}", "/v1/nothing")).status, 404);
  EXPECT_EQ(Call("GET /v1/chat/completions HTTP/1.1\r\nHost: e\r\n\r\n").status, 405);
  EXPECT_EQ(Call(Request("not json")).status, 400);
  EXPECT_EQ(Call(Request("")).status, 400);
  EXPECT_THAT(provider_.requests(), SizeIs(0));
}

TEST_F(AppTest, AnthropicMessagesWithTheirOwnErrors) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(
        200,
        R"({"id":"m1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],)"
        R"("stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":5}})"));
    return true;
  });
  Start();
  const std::string body =
      R"({"model":"claude-sonnet-4-5","max_tokens":50,"metadata":{"user_id":"u","team":"x"},"messages":[]})";
  const Wire::Message answer =
      Call(Request(body, "/v1/messages?beta=true",
                   "anthropic-version: 2023-06-01\r\nanthropic-beta: a-1,b-2\r\n"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("x-tollhouse-cost-nanousd"), std::to_string(10 * 3000 + 5 * 15000));
  const Wire::Message sent = provider_.requests().at(0);
  EXPECT_TRUE(sent.head.starts_with("POST /v1/messages?beta=true HTTP/1.1"));
  EXPECT_EQ(sent.Header("x-api-key"), "provider-secret-of-anthropic");
  EXPECT_EQ(sent.Header("anthropic-beta"), "a-1,b-2");
  EXPECT_EQ(sent.Header("anthropic-version"), "2023-06-01");
  EXPECT_THAT(sent.body, Not(HasSubstr("team")));
  EXPECT_EQ(services_.reserves().at(0).tags().at("team"), "x");

  services_.SetBudget(1);
  const Wire::Message refused =
      Call(Request(body, "/v1/messages", "anthropic-version: 2023-06-01\r\n"));
  EXPECT_EQ(refused.status, 402);
  EXPECT_THAT(refused.body, HasSubstr("billing_error"));
}

TEST_F(AppTest, CountTokensIsFree) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, R"({"input_tokens":12})"));
    return true;
  });
  config_.count_tokens_per_minute = 1;
  Start();
  const std::string body = R"({"model":"claude-sonnet-4-5","messages":[]})";
  const Wire::Message answer = Call(Request(body, "/v1/messages/count_tokens"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, R"({"input_tokens":12})");
  EXPECT_THAT(services_.reserves(), SizeIs(0));
  int last = 200;
  for (int i = 0; i < 15 && last == 200; ++i) {
    last = Call(Request(body, "/v1/messages/count_tokens")).status;
  }
  EXPECT_EQ(last, 429);
}

TEST_F(AppTest, ModelsAreListedInTheCallersShapeAndByWhatTheKeyMayUse) {
  Start();
  const auto list = [&](std::string_view headers) {
    return Call(absl::StrCat("GET /v1/models HTTP/1.1\r\nHost: e\r\nx-api-key: ", key_, "\r\n",
                             std::string(headers), "\r\n"));
  };
  const Wire::Message openai = list("");
  EXPECT_EQ(openai.status, 200);
  EXPECT_THAT(openai.body, HasSubstr("gpt-4o-mini"));
  EXPECT_THAT(openai.body, Not(HasSubstr("claude")));
  EXPECT_THAT(list("anthropic-version: 2023-06-01\r\n").body, HasSubstr("claude-sonnet-4-5"));
  key_ = services_.AddKey([](vault::v1::KeyRecord* key) { key->add_models("other"); });
  EXPECT_THAT(list("").body, Not(HasSubstr("gpt-4o-mini")));
}

TEST_F(AppTest, LedgerOutageKeepsSettlementsInTheJournalAcrossARestart) {
  config_.shutdown_time = absl::ZeroDuration();
  Start();
  services_.MutePost(true);
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  provider_.SetScript([](const Wire::Message&, Wire&) { return false; });
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  const std::string edge_id = app_->edge_id();
  app_.reset();
  EXPECT_THAT(services_.WaitEntries(0), SizeIs(0));
  services_.MutePost(false);
  Start();
  EXPECT_EQ(app_->edge_id(), edge_id);
  std::vector<Entry> entries = services_.WaitEntries(2);
  ASSERT_THAT(entries, SizeIs(2));
  if (entries[0].kind() == ledger::v1::ENTRY_KIND_SUSPEND) std::swap(entries[0], entries[1]);
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SETTLE);
  EXPECT_EQ(entries[0].cost_nanousd(), kJsonCost);
  EXPECT_EQ(entries[1].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_TRUE(services_.WaitAcknowledged(2));
}

TEST_F(AppTest, FullJournalStopsAdmissionAndRecoversByItself) {
  config_.journal_bytes_max = 64 << 10;
  Start();
  services_.MutePost(true);
  int admitted = 0;
  Wire::Message answer;
  while ((answer = Call(Request(Chat()))).status == 200 && admitted < 200) ++admitted;
  EXPECT_EQ(answer.status, 503);
  EXPECT_THAT(answer.body, HasSubstr("journal"));
  EXPECT_NE(app_->NotReady(), "");
  EXPECT_GT(admitted, 3);
  EXPECT_THAT(provider_.requests(), SizeIs(admitted));
  services_.MutePost(false);
  services_.BreakStreams();
  services_.WaitEntries(admitted);
  do {
    answer = Call(Request(Chat()));  // until the journal has been looked at again
  } while (answer.status == 503);
  EXPECT_EQ(answer.status, 200);
  // Beside them there are voids of holds that the journal did not take.
  int settled = 0;
  for (int count = admitted + 1; settled <= admitted && count < admitted + 20; ++count) {
    settled = 0;
    for (const Entry& entry : services_.WaitEntries(count)) {
      settled += entry.kind() == ledger::v1::ENTRY_KIND_SETTLE;
    }
  }
  EXPECT_EQ(settled, admitted + 1);
}

TEST_F(AppTest, RequestInFlightWhenTheProcessEndsIsSuspendedByTheNextOne) {
  const auto arrived = std::make_shared<absl::Notification>();
  const auto over = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message&, Wire&) {
    arrived->Notify();
    over->WaitForNotificationWithTimeout(absl::Seconds(20));
    return false;
  });
  config_.shutdown_time = absl::ZeroDuration();
  Start();
  const auto wire = Dial();
  wire->Send(Request(Chat()));
  ASSERT_TRUE(arrived->WaitForNotificationWithTimeout(absl::Seconds(10)));
  app_.reset();
  over->Notify();
  Start();
  const std::vector<Entry> entries = services_.WaitEntries(1);
  ASSERT_THAT(entries, SizeIs(1));
  EXPECT_EQ(entries[0].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(entries[0].status(), "unknown");
}

TEST_F(AppTest, TokenOfAClosedEpochIsDroppedAndTheEdgeReports) {
  const auto arrived = std::make_shared<absl::Notification>();
  const auto over = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message& request, Wire& wire) {
    if (absl::StrContains(request.body, "slow")) {
      arrived->Notify();
      over->WaitForNotificationWithTimeout(absl::Seconds(10));
    }
    wire.Send(HttpAnswer(200, kJsonAnswer));
    return true;
  });
  Start();
  const auto slow = Dial();
  slow->Send(Request(Chat(R"(,"user":"slow")")));
  ASSERT_TRUE(arrived->WaitForNotificationWithTimeout(absl::Seconds(10)));

  services_.PublishEpoch(2);  // the enforcer still answers under epoch 1
  const auto announcements = services_.WaitAnnouncements(1);
  ASSERT_THAT(announcements, SizeIs(1));
  EXPECT_EQ(announcements[0].epoch(), 1);
  ASSERT_THAT(announcements[0].unsettled(), SizeIs(1));
  EXPECT_EQ(announcements[0].unsettled(0).kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(Call(Request(Chat())).status, 503);
  EXPECT_THAT(provider_.requests(), SizeIs(1));

  services_.SetEpoch(2);
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  over->Notify();
  EXPECT_EQ(slow->Read().status, 200);
  const std::vector<Entry> entries = services_.WaitEntries(2);
  ASSERT_THAT(entries, SizeIs(2));
  EXPECT_EQ(entries[1].epoch(), 1);
  EXPECT_EQ(entries[1].kind(), ledger::v1::ENTRY_KIND_SETTLE);
}

TEST_F(AppTest, PendingAnnouncementIsMadeBeforeServing) {
  services_.SetEpoch(5);
  services_.SetPendingAnnouncement(4);
  Start();
  const auto announcements = services_.WaitAnnouncements(1);
  ASSERT_GE(announcements.size(), 1u);
  EXPECT_EQ(announcements[0].epoch(), 4);
  EXPECT_EQ(announcements[0].edge_id(), app_->edge_id());
}

TEST_F(AppTest, WhatAFailoverOfTheLedgerLostIsPostedAgainOnce) {
  config_.shutdown_time = absl::ZeroDuration();
  Start();
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  ASSERT_THAT(services_.WaitEntries(1), SizeIs(1));
  provider_.SetScript([](const Wire::Message&, Wire&) { return false; });
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  const std::vector<Entry> before = services_.WaitEntries(2);
  ASSERT_THAT(before, SizeIs(2));
  ASSERT_TRUE(services_.WaitAcknowledged(2));

  services_.LoseEntries(1, true);
  const std::vector<Entry> after = services_.WaitEntries(2);
  ASSERT_THAT(after, SizeIs(2));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(after[i].hold_id(), before[i].hold_id());
    EXPECT_EQ(after[i].kind(), before[i].kind());
    EXPECT_EQ(after[i].cost_nanousd(), before[i].cost_nanousd());
    EXPECT_EQ(after[i].account_path(), before[i].account_path());
    EXPECT_EQ(after[i].budgets_size(), before[i].budgets_size());
  }
  // Once per generation, also when the edge starts anew.
  app_.reset();
  services_.LoseEntries(1, false);
  Start();
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, kJsonAnswer));
    return true;
  });
  EXPECT_EQ(Call(Request(Chat())).status, 200);
  EXPECT_THAT(services_.WaitEntries(1), SizeIs(1));
  // And what happened while it was away is made up for.
  app_.reset();
  services_.LoseEntries(2, false);
  Start();
  EXPECT_THAT(services_.WaitEntries(3), SizeIs(3));
}

TEST_F(AppTest, ConnectionsAreKeptAliveOnBothSides) {
  config_.threads = 1;
  Start();
  const auto wire = Dial();
  for (int i = 0; i < 5; ++i) {
    wire->Send(Request(Chat()));
    ASSERT_EQ(wire->Read().status, 200);
  }
  wire->Send(Request(Chat()) + Request(Chat()));  // pipelined
  EXPECT_EQ(wire->Read().status, 200);
  EXPECT_EQ(wire->Read().status, 200);
  EXPECT_EQ(provider_.connections(), 1);
}

TEST_F(AppTest, PooledConnectionThatTheProviderClosedIsNotUsed) {
  config_.threads = 1;
  std::array<absl::Notification, 3> closed;
  std::atomic<int> requests = 0;
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, kJsonAnswer));  // and closes, without having said so
    wire.Close();
    closed[requests++].Notify();
    return false;
  });
  Start();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Call(Request(Chat())).status, 200) << i;
    services_.WaitEntries(i + 1);
    closed[i].WaitForNotification();
  }
}

TEST_F(AppTest, LargeAnswerIsStreamedWithoutCostHeaders) {
  config_.json_buffer_bytes = 64 << 10;
  const std::string filler(300 << 10, 'x');
  const std::string body = absl::StrCat(
      R"({"model":"gpt-4o-mini","choices":[{"index":0,"message":{"content":")", filler,
      R"("},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}})");
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, body));
    return true;
  });
  Start();
  const Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.body, body);
  EXPECT_EQ(answer.Header("x-tollhouse-cost-nanousd"), "");
  EXPECT_EQ(services_.WaitEntries(1)[0].cost_nanousd(), kJsonCost);
}

TEST_F(AppTest, AnswersThatNoSdkCouldReadAreAnsweredInTheDialectAndSuspended) {
  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, "<html>busy</html>", "text/html"));
    return true;
  });
  Start();
  const Wire::Message html = Call(Request(Chat()));
  EXPECT_EQ(html.status, 502);
  EXPECT_EQ(html.Header("content-type"), "application/json");
  EXPECT_THAT(html.body, Not(HasSubstr("<html>")));
  EXPECT_EQ(services_.WaitEntries(1).back().kind(), ledger::v1::ENTRY_KIND_SUSPEND);

  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"usage\":");
    return false;
  });
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  EXPECT_EQ(services_.WaitEntries(2).back().kind(), ledger::v1::ENTRY_KIND_SUSPEND);

  provider_.SetScript([](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(200, R"({"choices":[{"mess)"));
    return true;
  });
  EXPECT_EQ(Call(Request(Chat())).status, 502);
  EXPECT_EQ(services_.WaitEntries(3).back().kind(), ledger::v1::ENTRY_KIND_SUSPEND);
}

TEST_F(AppTest, HtmlErrorsKeepWhatTheirStatusMeans) {
  int status = 502;
  provider_.SetScript([&](const Wire::Message&, Wire& wire) {
    wire.Send(HttpAnswer(status, "<html>no</html>", "text/html; charset=utf-8"));
    return true;
  });
  Start();
  for (const auto& [from, to] : {std::pair{502, 502}, {500, 502}, {404, 502}, {503, 503}, {429, 429}}) {
    status = from;
    const Wire::Message answer = Call(Request(Chat(R"(,"stream":true)")));
    EXPECT_EQ(answer.status, to) << from;
    EXPECT_EQ(answer.Header("content-type"), "application/json");
  }
  for (const Entry& entry : services_.WaitEntries(5)) {
    EXPECT_EQ(entry.kind(), ledger::v1::ENTRY_KIND_VOID);
  }
}

TEST_F(AppTest, SecondEdgeOnTheSameJournalIsRefused) {
  Start();
  const auto second = App::Create(config_, services_.channels());
  EXPECT_EQ(ReasonOf(second.status()), "JOURNAL_LOCKED");
}

TEST_F(AppTest, StopLetsARunningStreamEnd) {
  const auto go = std::make_shared<absl::Notification>();
  provider_.SetScript([=](const Wire::Message& request, Wire& wire) {
    if (!absl::StrContains(request.body, "stream")) {
      wire.Send(HttpAnswer(200, kJsonAnswer));
      return true;
    }
    wire.Send(SseHead() + Chunk(Delta("hel")));
    go->WaitForNotificationWithTimeout(absl::Seconds(10));
    wire.Send(Chunk(kStop) + Chunk(kUsage) + Chunk(kDone) + Chunk(""));
    return true;
  });
  Start();
  EXPECT_EQ(app_->NotReady(), "");
  const auto idle = Dial();
  idle->Send(Request(Chat()));
  EXPECT_EQ(idle->Read().status, 200);
  const auto busy = Dial();
  busy->Send(Request(Chat(R"(,"stream":true)")));
  busy->ReadUntil("hel");
  std::thread stopping([&] { app_->Stop(); });
  EXPECT_TRUE(idle->WaitClosed());  // draining has begun
  EXPECT_NE(app_->NotReady(), "");
  go->Notify();
  const Wire::Message answer = busy->Read();
  EXPECT_TRUE(answer.whole);
  EXPECT_THAT(answer.body, HasSubstr("[DONE]"));
  stopping.join();
  EXPECT_THAT(services_.WaitEntries(2), SizeIs(2));
}

TEST_F(AppTest, TheHolderOfAKeySeesWhatRemains) {
  config_.count_tokens_per_minute = 60;
  Start();
  const std::string request = absl::StrCat("GET /tollhouse/v1/usage HTTP/1.1\r\nHost: edge\r\nx-api-key: ",
                                           key_, "\r\n\r\n");
  const Wire::Message answer = Call(request);
  EXPECT_EQ(answer.status, 200);
  for (const char* part :
       {R"("account":"acme/payments/laptop")", R"("id":"acme#month")", R"("limit_nanousd":"1000")",
        R"("spent_nanousd":"300")", R"("held_nanousd":"50")", R"("available_nanousd":"650")"}) {
    EXPECT_THAT(answer.body, HasSubstr(part));
  }
  EXPECT_EQ(Call("GET /tollhouse/v1/usage HTTP/1.1\r\nHost: edge\r\n\r\n").status, 401);
  EXPECT_EQ(Call("POST /tollhouse/v1/usage HTTP/1.1\r\nHost: edge\r\nContent-Length: 0\r\n\r\n").status, 405);
  int limited = 0;
  for (int i = 0; i < 20; ++i) limited += Call(request).status == 429;
  EXPECT_GT(limited, 5);
  EXPECT_THAT(provider_.requests(), SizeIs(0));
}

// Tokens of identity providers -------------------------------------------------------------------
class IdentityTest : public AppTest {
 protected:
  IdentityTest() {
    std::ofstream(dir_.File("keys.json")) << R"({"keys":[)" << signer_.Jwk() << "]}";
    config_.issuers_file = dir_.File("issuers.yaml");
    std::ofstream(config_.issuers_file)
        << "- {issuer: https://login.acme.example, audience: tollhouse, account: 'acme/{team}/{sub}',\n"
        << "   key_set_file: " << dir_.File("keys.json") << "}\n";
  }

  std::string Token(std::string_view user, absl::Duration life = absl::Minutes(5)) {
    return signer_.Sign(absl::StrCat(
        R"({"iss":"https://login.acme.example","aud":"tollhouse","team":"payments","sub":")",
        std::string(user), R"(","exp":)", absl::ToUnixSeconds(absl::Now() + life), "}"));
  }

  const identity::TestSigner signer_{"ES256", "k1"};
};

TEST_F(IdentityTest, TokenIsChargedToItsAccountAndNeverForwarded) {
  services_.SetAccount([](ledger::v1::ResolveAccountResponse* account) {
    account->mutable_chain(account->chain_size() - 1)->set_path("acme/payments/sarah");
  });
  Start();
  key_ = Token("sarah");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Call(Request(Chat())).status, 200);
  const std::vector<Entry> entries = services_.WaitEntries(3);
  EXPECT_EQ(entries[0].account_path(), "acme/payments/sarah");
  EXPECT_THAT(provider_.requests()[0].head, Not(HasSubstr(key_)));
}

TEST_F(IdentityTest, TokensThatDoNotCountAre401AndUnknownAccounts403) {
  Start();
  key_ = Token("sarah", absl::Minutes(-5));
  Wire::Message answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 401);
  EXPECT_THAT(answer.body, HasSubstr("expired"));
  key_ = identity::TestSigner("ES256", "k1").Sign(R"({"iss":"https://login.acme.example"})");
  EXPECT_EQ(Call(Request(Chat())).status, 401);
  key_ = Token("nobody");
  answer = Call(Request(Chat()));
  EXPECT_EQ(answer.status, 403);
  EXPECT_THAT(answer.body, HasSubstr("does not exist"));
  EXPECT_THAT(provider_.requests(), SizeIs(0));
}

TEST_F(IdentityTest, BrokenIssuersFileStopsTheStart) {
  std::ofstream(config_.issuers_file) << "- {issuer: a}\n";
  const auto app = App::Create(config_, services_.channels());
  EXPECT_EQ(ReasonOf(app.status()), "BAD_ISSUERS");
}

}  // namespace
}  // namespace tollhouse::edge
