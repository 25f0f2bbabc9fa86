#include "services/ledger/webhooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "libs/base/uuid.h"
#include "libs/crypto/digest.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/http_listener.h"
#include "services/ledger/store/store_testing.h"

namespace tollhouse::ledger {
namespace {

using ::testing::HasSubstr;

class WebhooksTest : public ::testing::Test {
 protected:
  WebhooksTest() {
    Reopen();
    v1::CreateAccountRequest org;
    org.set_path("acme");
    org.set_kind(common::v1::ACCOUNT_KIND_ORG);
    int64_t version = 0;
    org_ = store_->CreateAccount(nullptr, org, &version)->account().id();
    BudgetSpec spec;
    spec.path = "acme";
    spec.limit_nanos = 100;
    spec.soft_pct = {50, 80};
    budget_ = store_->SetBudget(nullptr, spec, &version)->budget();
  }

  void Reopen() {
    sender_.reset();
    store_.reset();
    home_.Reopen();
    auto opened = home_.Open(&clock_);
    EXPECT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
    sender_ = std::make_unique<WebhookSender>(store_.get(), &clock_);
    store_->SetDeliveriesAdded([this] { sender_->Wake(); });
  }

  void SetHook(bool allow_private, const std::string& secret = "s3cret") {
    v1::SetWebhookRequest hook;
    hook.set_path("acme");
    hook.set_url(server_.Url("/alerts"));
    hook.set_secret(secret);
    hook.set_allow_private(allow_private);
    ASSERT_TRUE(store_->SetWebhook(nullptr, hook).ok());
  }

  void Spend(int64_t cost) {
    v1::Entry entry;
    entry.set_hold_id(std::string(NewUuid(clock_.Wall()).raw()));
    entry.set_kind(v1::ENTRY_KIND_SETTLE);
    entry.add_account_ids(org_);
    auto& held = *entry.add_budgets();
    held.set_budget_id(budget_.budget_id());
    held.set_period(budget_.period());
    entry.set_cost_nanousd(cost);
    const v1::Entry* const entries[] = {&entry};
    ASSERT_TRUE(store_->Post(entries).ok());
  }

  v1::Alert Alert() { return store_->ListAlerts({})->alerts(0); }

  StoreHome home_{sql::Dialect::kSqlite};
  testing::FakeClock clock_;
  testing::HttpListener server_;
  std::unique_ptr<SqlStore> store_;
  std::unique_ptr<WebhookSender> sender_;
  v1::Budget budget_;
  int64_t org_ = 0;
};

TEST_F(WebhooksTest, AlertIsPostedOnceSigned) {
  SetHook(true);
  Spend(60);
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_EQ(sender_->DeliverDue().value(), 0);
  const auto received = server_.received();
  ASSERT_EQ(received.size(), 1u);
  EXPECT_THAT(received[0].body, HasSubstr(R"("budget":"acme#month","path":"acme")"));
  EXPECT_THAT(received[0].body, HasSubstr(R"("threshold_pct":50,"limit_nanousd":"100","spent_nanousd":"60")"));
  EXPECT_THAT(received[0].head,
              HasSubstr("x-tollhouse-signature: sha256=" +
                        crypto::Hex(crypto::AsBytes(crypto::HmacSha256("s3cret", received[0].body)))));
  EXPECT_EQ(Alert().delivery(), "delivered");
  EXPECT_EQ(Alert().attempts(), 1);
}

TEST_F(WebhooksTest, RetriesWithBackoffSurviveARestart) {
  SetHook(true);
  server_.QueueStatus(500);
  server_.QueueAnswer("");
  Spend(60);
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_EQ(Alert().delivery(), "pending");
  EXPECT_EQ(Alert().last_error(), "HTTP status 500");
  EXPECT_EQ(sender_->DeliverDue().value(), 0);  // not yet
  Reopen();
  EXPECT_EQ(sender_->DeliverDue().value(), 0);
  clock_.Advance(WebhookSender::Backoff(1));
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_EQ(Alert().attempts(), 2);
  EXPECT_EQ(Alert().delivery(), "pending");
  clock_.Advance(WebhookSender::Backoff(2));
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_EQ(Alert().delivery(), "delivered");
  const auto received = server_.received();
  ASSERT_EQ(received.size(), 3u);
  EXPECT_EQ(received[0].body, received[2].body);
}

TEST_F(WebhooksTest, PrivateAddressesNeedPermission) {
  SetHook(false);
  Spend(60);
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_TRUE(server_.received().empty());
  EXPECT_THAT(Alert().last_error(), HasSubstr("private address"));
  SetHook(true);
  clock_.Advance(WebhookSender::Backoff(1));
  EXPECT_EQ(sender_->DeliverDue().value(), 1);
  EXPECT_EQ(Alert().delivery(), "delivered");
}

TEST_F(WebhooksTest, GivesUpAfterTheLastAttempt) {
  SetHook(false);
  Spend(60);
  for (int i = 1; i <= WebhookSender::kAttemptsMax; ++i) {
    ASSERT_EQ(sender_->DeliverDue().value(), 1) << i;
    clock_.Advance(WebhookSender::Backoff(i));
  }
  EXPECT_EQ(sender_->DeliverDue().value(), 0);
  EXPECT_EQ(Alert().delivery(), "failed");
}

TEST_F(WebhooksTest, RemovedWebhooksGetNothing) {
  SetHook(true);
  Spend(60);
  v1::DeleteWebhookRequest remove;
  remove.set_path("acme");
  remove.set_url(server_.Url("/alerts"));
  EXPECT_TRUE(store_->DeleteWebhook(nullptr, remove).ok());
  EXPECT_EQ(sender_->DeliverDue().value(), 0);
  EXPECT_EQ(Alert().delivery(), "failed");
}

TEST_F(WebhooksTest, TheThreadDeliversWhatFallsDue) {
  SetHook(true);
  sender_->Start();
  Spend(60);
  EXPECT_TRUE(server_.WaitForRequests(1, absl::Seconds(10)));
  Spend(30);
  EXPECT_TRUE(server_.WaitForRequests(2, absl::Seconds(10)));
  sender_->Stop();
}

}  // namespace
}  // namespace tollhouse::ledger
