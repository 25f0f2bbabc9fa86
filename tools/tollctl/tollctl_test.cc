// The whole program against fake admin services over a real gRPC connection.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/rpc/status.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/temp_dir.h"
#include "tollhouse/enforcer/v1/enforcer.grpc.pb.h"
#include "tollhouse/ledger/v1/ledger_admin.grpc.pb.h"
#include "tollhouse/router/v1/router_admin.grpc.pb.h"
#include "tollhouse/vault/v1/vault_admin.grpc.pb.h"
#include "tools/tollctl/invocation.h"

namespace tollhouse::tollctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kToken[] = "admin-token-of-the-test";
constexpr char kProviderSecret[] = "provider-secret-of-the-test";

grpc::Status Error(absl::StatusCode code, const char* reason, const std::string& message) {
  return rpc::ToGrpc(MakeError(code, reason, message));
}

grpc::Status CheckToken(const grpc::ServerContext* context) {
  const auto found = context->client_metadata().find("authorization");
  if (found != context->client_metadata().end() &&
      found->second == std::string("Bearer ") + kToken) {
    return grpc::Status::OK;
  }
  return Error(absl::StatusCode::kUnauthenticated, "BAD_TOKEN", "no");
}

bool Below(const std::string& path, const std::string& top) {
  return top.empty() || path == top || absl::StartsWith(path, top + "/");
}

// Keeps what is set and gives it back; no rule of the real ledger but names.
class FakeLedger final : public ledger::v1::LedgerAdminService::Service {
 public:
  std::map<std::string, ledger::v1::Account> accounts;
  std::vector<ledger::v1::Budget> budgets;
  std::map<std::string, common::v1::Limits> limits;
  std::map<std::string, ledger::v1::SetTagRulesRequest> tag_rules;
  std::vector<ledger::v1::JournalEntry> entries;
  ledger::v1::RaiseBudgetRequest raise;
  ledger::v1::GetSpendRequest spend;
  ledger::v1::SetWebhookRequest webhook;
  bool ok = true;
  int writes = 0;

  using Context = grpc::ServerContext*;
  grpc::Status CreateAccount(Context context, const ledger::v1::CreateAccountRequest* request,
                             ledger::v1::CreateAccountResponse* response) override {
    if (const auto token = CheckToken(context); !token.ok()) return token;
    const size_t slash = request->path().rfind('/');
    if (slash != std::string::npos && !accounts.contains(request->path().substr(0, slash))) {
      return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "no parent");
    }
    const bool exists = accounts.contains(request->path());
    if (exists && !request->if_absent()) {
      return Error(absl::StatusCode::kAlreadyExists, "ACCOUNT_EXISTS",
                   "'" + request->path() + "' exists");
    }
    ++writes;
    ledger::v1::Account& account = accounts[request->path()];
    if (!exists) account.set_id(static_cast<int64_t>(accounts.size()));
    account.set_kind(request->kind());
    account.set_path(request->path());
    account.set_owner(request->owner());
    account.set_cost_center(request->cost_center());
    *account.mutable_tags() = request->tags();
    account.set_require_budget(request->require_budget());
    *response->mutable_account() = account;
    response->set_created(!exists);
    return grpc::Status::OK;
  }
  grpc::Status GetAccount(Context, const ledger::v1::GetAccountRequest* request,
                          ledger::v1::GetAccountResponse* response) override {
    if (!accounts.contains(request->path())) {
      return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "none");
    }
    *response->mutable_account() = accounts[request->path()];
    return grpc::Status::OK;
  }
  grpc::Status ListAccounts(Context, const ledger::v1::ListAccountsRequest* request,
                            ledger::v1::ListAccountsResponse* response) override {
    for (const auto& [path, account] : accounts) {
      if (Below(path, request->below()) && (request->kind() == 0 || request->kind() == account.kind())) {
        *response->add_accounts() = account;
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status DeleteAccount(Context, const ledger::v1::DeleteAccountRequest* request,
                             ledger::v1::DeleteAccountResponse* response) override {
    for (const auto& [path, account] : accounts) {
      if (Below(path, request->path())) response->add_deleted_paths(path);
    }
    if (request->dry_run()) return grpc::Status::OK;
    ++writes;
    for (const std::string& path : response->deleted_paths()) accounts.erase(path);
    return grpc::Status::OK;
  }
  grpc::Status SetBudget(Context, const ledger::v1::SetBudgetRequest* request,
                         ledger::v1::SetBudgetResponse* response) override {
    if (!accounts.contains(request->path())) {
      return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "none");
    }
    ++writes;
    const std::string window = request->window().empty() ? "month" : request->window();
    const std::string id = absl::StrCat(request->path(), "#", window);
    auto found = std::find_if(budgets.begin(), budgets.end(),
                              [&](const auto& budget) { return budget.id() == id; });
    if (found == budgets.end()) {
      found = budgets.insert(budgets.end(), ledger::v1::Budget());
      found->set_budget_id(static_cast<int64_t>(budgets.size()));
      response->set_created(true);
    }
    found->set_id(id);
    found->set_path(request->path());
    found->set_name(request->name());
    found->set_window(window);
    found->set_period("2026-11@" + (request->time_zone().empty() ? "UTC" : request->time_zone()));
    found->set_time_zone(request->time_zone().empty() ? "UTC" : request->time_zone());
    found->set_limit_nanousd(request->limit_nanousd());
    found->set_hard_pct(request->hard_pct() == 0 ? 100 : request->hard_pct());
    *found->mutable_soft_pct() = request->soft_pct();
    if (request->soft_pct().empty() && !request->no_soft()) found->add_soft_pct(80);
    found->set_mode(request->mode().empty() ? "enforce" : request->mode());
    found->set_bound(request->bound().empty() ? "strict" : request->bound());
    found->set_on_outage(request->on_outage().empty() ? "closed" : request->on_outage());
    *found->mutable_match() = request->match();
    found->set_for_each(request->for_each());
    *response->mutable_budget() = *found;
    response->add_stragglers("edge/7");
    return grpc::Status::OK;
  }
  grpc::Status ListBudgets(Context, const ledger::v1::ListBudgetsRequest* request,
                           ledger::v1::ListBudgetsResponse* response) override {
    if (!request->path().empty() && !accounts.contains(request->path())) {
      return Error(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "none");
    }
    for (const auto& budget : budgets) {
      if ((request->below() ? Below(budget.path(), request->path()) : budget.path() == request->path()) &&
          (request->window().empty() || request->window() == budget.window())) {
        *response->add_budgets() = budget;
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status DeleteBudget(Context, const ledger::v1::DeleteBudgetRequest* request,
                            ledger::v1::DeleteBudgetResponse*) override {
    ++writes;
    std::erase_if(budgets, [&](const auto& budget) {
      return budget.path() == request->path() && budget.window() == request->window();
    });
    return grpc::Status::OK;
  }
  grpc::Status RaiseBudget(Context, const ledger::v1::RaiseBudgetRequest* request,
                           ledger::v1::RaiseBudgetResponse* response) override {
    raise = *request;
    budgets[0].set_raised_nanousd(request->by_nanousd());
    *response->mutable_budget() = budgets[0];
    return grpc::Status::OK;
  }
  grpc::Status SetLimits(Context, const ledger::v1::SetLimitsRequest* request,
                         ledger::v1::SetLimitsResponse* response) override {
    ++writes;
    common::v1::Limits& own = limits[request->path()];
    if (request->has_requests_per_minute()) own.set_requests_per_minute(request->requests_per_minute());
    if (request->has_max_request_cost_nanousd()) {
      own.set_max_request_cost_nanousd(request->max_request_cost_nanousd());
    }
    response->set_path(request->path());
    *response->mutable_limits() = own;
    return grpc::Status::OK;
  }
  grpc::Status ListLimits(Context, const ledger::v1::ListLimitsRequest* request,
                          ledger::v1::ListLimitsResponse* response) override {
    for (const auto& [path, own] : limits) {
      auto* row = response->add_limits();
      row->set_path(path);
      *row->mutable_limits() = own;
    }
    return grpc::Status::OK;
  }
  grpc::Status SetTagRules(Context, const ledger::v1::SetTagRulesRequest* request,
                           ledger::v1::SetTagRulesResponse* response) override {
    tag_rules[request->path()] = *request;
    response->mutable_rules()->set_path(request->path());
    *response->mutable_rules()->mutable_rules() = request->rules();
    return grpc::Status::OK;
  }
  grpc::Status ListTagRules(Context, const ledger::v1::ListTagRulesRequest* request,
                            ledger::v1::ListTagRulesResponse* response) override {
    for (const auto& [path, own] : tag_rules) {
      auto* row = response->add_rules();
      row->set_path(path);
      *row->mutable_rules() = own.rules();
    }
    return grpc::Status::OK;
  }
  grpc::Status GetSpend(Context, const ledger::v1::GetSpendRequest* request,
                        ledger::v1::GetSpendResponse* response) override {
    spend = *request;
    auto* row = response->add_rows();
    (*row->mutable_group())["team"] = "acme/payments";
    row->set_requests(3);
    row->set_input_tokens(1200);
    row->set_output_tokens(34);
    row->set_cost_nanousd(1'234'567'890);
    *response->mutable_total() = *row;
    response->mutable_total()->clear_group();
    return grpc::Status::OK;
  }
  grpc::Status ListEntries(Context, const ledger::v1::ListEntriesRequest* request,
                           ledger::v1::ListEntriesResponse* response) override {
    for (const auto& entry : entries) {
      if (entry.sequence() <= request->after_sequence()) continue;
      if (response->entries_size() == 2) {
        response->mutable_next()->set_after_sequence(response->entries(1).sequence());
        break;
      }
      *response->add_entries() = entry;
    }
    return grpc::Status::OK;
  }
  grpc::Status ExplainRequest(Context, const ledger::v1::ExplainRequestRequest* request,
                              ledger::v1::ExplainRequestResponse* response) override {
    for (const auto& entry : entries) {
      if (entry.entry().request_id() == request->request_id()) *response->add_attempts() = entry;
    }
    if (response->attempts().empty()) {
      return Error(absl::StatusCode::kNotFound, "REQUEST_NOT_FOUND", "none");
    }
    return grpc::Status::OK;
  }
  grpc::Status VerifyLedger(Context, const ledger::v1::VerifyLedgerRequest*,
                            grpc::ServerWriter<ledger::v1::VerifyLedgerProgress>* writer) override {
    ledger::v1::VerifyLedgerProgress progress;
    progress.set_entries(1);
    progress.set_phase("prices");
    writer->Write(progress);
    progress.set_entries(2);
    progress.set_done(true);
    progress.set_ok(ok);
    if (!ok) progress.add_problems("entry 2: cost is 1, recomputed 2");
    writer->Write(progress);
    return grpc::Status::OK;
  }
  grpc::Status ListSuspense(Context, const ledger::v1::ListSuspenseRequest* request,
                            ledger::v1::ListSuspenseResponse* response) override {
    auto* row = response->add_rows();
    row->set_hold_id(request->after().empty() ? "018f2a7c-6d1e-7cc2-98c4-dc0c0c07398f"
                                              : "018f2a7c-6d1e-7cc2-98c4-dc0c0c073990");
    row->set_amount_nanousd(500);
    if (request->after().empty()) response->set_next("one more");
    auto* lost = response->add_lost_leases();
    lost->set_id("epoch/1/3");
    lost->add_waiting_for("edge-7");
    return grpc::Status::OK;
  }
  grpc::Status SetWebhook(Context, const ledger::v1::SetWebhookRequest* request,
                          ledger::v1::SetWebhookResponse* response) override {
    webhook = *request;
    response->mutable_webhook()->set_path(request->path());
    response->mutable_webhook()->set_url(request->url());
    response->mutable_webhook()->set_has_secret(!request->secret().empty());
    return grpc::Status::OK;
  }
};

class FakeRouter final : public router::v1::RouterAdminService::Service {
 public:
  std::map<std::string, router::v1::Provider> providers;
  std::map<std::string, router::v1::ModelAlias> aliases;
  std::vector<router::v1::ModelPrice> prices;
  int writes = 0;

  using Context = grpc::ServerContext*;
  grpc::Status SetProvider(Context, const router::v1::SetProviderRequest* request,
                           router::v1::SetProviderResponse* response) override {
    ++writes;
    response->set_created(!providers.contains(request->provider().name()));
    providers[request->provider().name()] = request->provider();
    *response->mutable_provider() = request->provider();
    return grpc::Status::OK;
  }
  grpc::Status ListProviders(Context, const router::v1::ListProvidersRequest*,
                             router::v1::ListProvidersResponse* response) override {
    for (const auto& [name, provider] : providers) *response->add_providers() = provider;
    return grpc::Status::OK;
  }
  grpc::Status DeleteProvider(Context, const router::v1::DeleteProviderRequest* request,
                              router::v1::DeleteProviderResponse*) override {
    ++writes;
    providers.erase(request->name());
    return grpc::Status::OK;
  }
  grpc::Status SetAlias(Context, const router::v1::SetAliasRequest* request,
                        router::v1::SetAliasResponse*) override {
    ++writes;
    if (request->remove()) aliases.erase(request->alias().alias());
    else aliases[request->alias().alias()] = request->alias();
    return grpc::Status::OK;
  }
  grpc::Status ListAliases(Context, const router::v1::ListAliasesRequest*,
                           router::v1::ListAliasesResponse* response) override {
    for (const auto& [name, alias] : aliases) *response->add_aliases() = alias;
    return grpc::Status::OK;
  }
  grpc::Status ListPrices(Context, const router::v1::ListPricesRequest* request,
                          router::v1::ListPricesResponse* response) override {
    for (const auto& price : prices) {
      if (request->model().empty() || request->model() == price.model()) *response->add_prices() = price;
    }
    return grpc::Status::OK;
  }
  grpc::Status ImportPrices(Context, const router::v1::ImportPricesRequest* request,
                            router::v1::ImportPricesResponse* response) override {
    response->set_added(request->prices_size());
    if (request->dry_run()) return grpc::Status::OK;
    ++writes;
    prices.insert(prices.end(), request->prices().begin(), request->prices().end());
    return grpc::Status::OK;
  }
  grpc::Status ExplainRoute(Context, const router::v1::ExplainRouteRequest* request,
                            router::v1::ExplainRouteResponse* response) override {
    if (request->model() != "gpt-4o") return Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND", "none");
    response->set_provider("openai");
    response->set_upstream_model("gpt-4o");
    response->mutable_price()->set_model("gpt-4o");
    response->set_bound_nanousd(2'000'000'000);
    return grpc::Status::OK;
  }
};

class FakeVault final : public vault::v1::VaultAdminService::Service {
 public:
  std::map<std::string, vault::v1::Key> keys;
  std::map<std::string, vault::v1::SetCredentialRequest> credentials;
  int writes = 0;

  using Context = grpc::ServerContext*;
  grpc::Status CreateKey(Context, const vault::v1::CreateKeyRequest* request,
                         vault::v1::CreateKeyResponse* response) override {
    ++writes;
    vault::v1::Key& key = keys[request->parent_path() + "/" + request->name()];
    key.set_path(request->parent_path() + "/" + request->name());
    key.set_id("k1");
    key.set_state("active");
    *key.mutable_models() = request->models();
    *key.mutable_tags() = request->tags();
    if (request->has_expires_at()) *key.mutable_expires_at() = request->expires_at();
    *response->mutable_key() = key;
    response->set_secret("sk-toll-k1-secret");
    return grpc::Status::OK;
  }
  grpc::Status ListKeys(Context, const vault::v1::ListKeysRequest* request,
                        vault::v1::ListKeysResponse* response) override {
    for (const auto& [path, key] : keys) {
      if (Below(path, request->path())) *response->add_keys() = key;
    }
    return grpc::Status::OK;
  }
  grpc::Status RevokeKey(Context, const vault::v1::RevokeKeyRequest* request,
                         vault::v1::RevokeKeyResponse* response) override {
    ++writes;
    keys[request->path()].set_state("revoked");
    *response->mutable_key() = keys[request->path()];
    return grpc::Status::OK;
  }
  grpc::Status UpdateKey(Context, const vault::v1::UpdateKeyRequest* request,
                         vault::v1::UpdateKeyResponse* response) override {
    ++writes;
    if (request->has_disabled()) keys[request->path()].set_state(request->disabled() ? "disabled" : "active");
    if (request->set_models()) *keys[request->path()].mutable_models() = request->models();
    *response->mutable_key() = keys[request->path()];
    return grpc::Status::OK;
  }
  grpc::Status SetCredential(Context, const vault::v1::SetCredentialRequest* request,
                             vault::v1::SetCredentialResponse*) override {
    ++writes;
    credentials[request->provider()] = *request;
    return grpc::Status::OK;
  }
  grpc::Status ListCredentials(Context, const vault::v1::ListCredentialsRequest*,
                               vault::v1::ListCredentialsResponse* response) override {
    for (const auto& [name, stored] : credentials) {
      auto* credential = response->add_credentials();
      credential->set_provider(name);
      credential->set_origin(stored.origin());
      credential->set_version(1);
    }
    return grpc::Status::OK;
  }
};

class FakeEnforcer final : public enforcer::v1::EnforcerAdminService::Service {
 public:
  std::map<int64_t, int64_t> held;  // by budget id

  grpc::Status GetBudgetHolds(grpc::ServerContext*, const enforcer::v1::GetBudgetHoldsRequest* request,
                              enforcer::v1::GetBudgetHoldsResponse* response) override {
    for (const int64_t id : request->budget_ids()) {
      if (!held.contains(id)) continue;
      // Holds that cross a roll-over stay in the old period, and several enforcers may answer.
      for (const auto& [period, nanousd] : std::vector<std::pair<const char*, int64_t>>{
               {"2026-10@UTC", 7}, {"2026-11@UTC", held[id] - 1}, {"2026-11@UTC", 1}}) {
        auto* row = response->add_held();
        row->set_budget_id(id);
        row->set_period(period);
        row->set_held_nanousd(nanousd);
      }
    }
    return grpc::Status::OK;
  }
};

class TollctlTest : public ::testing::Test {
 protected:
  TollctlTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&ledger_);
    builder.RegisterService(&router_);
    builder.RegisterService(&vault_);
    builder.RegisterService(&enforcer_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
    Write("token", std::string(kToken) + "\n");
    env_["TOLLHOUSE_SERVER"] = address_;
    env_["TOLLHOUSE_TOKEN_FILE"] = dir_.File("token");
    env_["TOLLHOUSE_CONFIG"] = dir_.File("config.yaml");
  }
  ~TollctlTest() override { server_->Shutdown(); }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_.File(name)) << text;
    return dir_.File(name);
  }

  // The exit code; what was printed is in out_ and err_.
  int Run(const std::vector<std::string>& args, const std::string& input = "",
          bool terminal = false) {
    std::istringstream in(input);
    std::ostringstream out, err;
    Environment environment{
        [this](const std::string& name) { return env_.contains(name) ? env_[name] : ""; },
        &in, &out, &err, terminal, false, &clock_};
    const int code = RunTollctl(args, environment);
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  void MakeAccounts() {
    ASSERT_EQ(Run({"org", "create", "acme"}), 0) << err_;
    ASSERT_EQ(Run({"team", "create", "acme/payments", "--owner", "lead@acme.example"}), 0) << err_;
    ASSERT_EQ(Run({"user", "create", "acme/payments/sarah"}), 0) << err_;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;  // 2026-11-21 12:00 UTC
  FakeLedger ledger_;
  FakeRouter router_;
  FakeVault vault_;
  FakeEnforcer enforcer_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::map<std::string, std::string> env_;
  std::string out_, err_;
};

TEST_F(TollctlTest, BareCommandIsAnOverviewAndHelpHasExamples) {
  EXPECT_EQ(Run({}), 0);
  EXPECT_THAT(out_, HasSubstr("tollctl NOUN VERB"));
  EXPECT_EQ(Run({"budget", "set", "--help"}), 0);
  EXPECT_THAT(out_, AllOf(HasSubstr("Examples:\n  tollctl budget set"), HasSubstr("--limit USD")));
  EXPECT_EQ(Run({"help", "budget"}), 0);
  EXPECT_THAT(out_, HasSubstr("raise"));
}

TEST_F(TollctlTest, EveryVerbHasHelpWithAnExample) {
  ASSERT_EQ(Run({"completion", "--words"}), 0);
  std::istringstream words(out_);
  int commands = 0;
  for (std::string line; std::getline(words, line); ++commands) {
    std::vector<std::string> args;
    std::istringstream split(line);
    for (std::string word; split >> word;) args.push_back(word);
    args.emplace_back("--help");
    EXPECT_EQ(Run(args), 0);
    EXPECT_THAT(out_, HasSubstr("Examples:\n  ")) << line;
    args.back() = "--no-such-option";  // the options themselves are well-formed
    EXPECT_EQ(Run(args), 2) << line;
  }
  EXPECT_GT(commands, 50);
}

TEST_F(TollctlTest, UsageErrorsExitWith2AndSayWhatToWrite) {
  EXPECT_EQ(Run({"budgt"}), 2);
  EXPECT_THAT(err_, HasSubstr("did you mean 'budget'"));
  EXPECT_EQ(Run({"budget", "set", "acme", "--limt", "5"}), 2);
  EXPECT_THAT(err_, HasSubstr("did you mean '--limit'"));
  EXPECT_EQ(Run({"budget", "set", "acme"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "1e3"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "-5"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "0.0000000001"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "5", "--hard", "0"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "5", "--match", "x"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "--limit", "5", "--mode", "soft"}), 2);
  EXPECT_EQ(Run({"budget", "set", "acme", "extra", "--limit", "5"}), 2);
  EXPECT_EQ(Run({"team", "create", "acme"}), 2);
  EXPECT_EQ(Run({"org", "list", "-o", "xml"}), 2);
  EXPECT_EQ(Run({"explain"}), 2);
  EXPECT_EQ(ledger_.writes, 0);
}

TEST_F(TollctlTest, NamesOfNounsAndVerbsAreFineAsArguments) {
  EXPECT_EQ(Run({"org", "create", "budget"}), 0) << err_;
  EXPECT_EQ(Run({"org", "create", "list"}), 0) << err_;
  EXPECT_TRUE(ledger_.accounts.contains("budget"));
}

TEST_F(TollctlTest, FlagsStandBeforeOrAfterTheNoun) {
  env_.erase("TOLLHOUSE_SERVER");
  env_.erase("TOLLHOUSE_TOKEN_FILE");
  const std::string token = dir_.File("token");
  EXPECT_EQ(Run({"--server", address_, "--token-file=" + token, "org", "create", "acme"}), 0) << err_;
  EXPECT_EQ(Run({"org", "--server", address_, "list", "-o", "json", "--token-file", token}), 0) << err_;
  EXPECT_THAT(out_, StartsWith("{\n  \"accounts\": ["));
  EXPECT_EQ(Run({"org", "list", "--server", absl::StrCat("ledger=", address_)}), 0) << err_;
  EXPECT_EQ(Run({"provider", "list", "--server", absl::StrCat("ledger=", address_)}), 1);
  EXPECT_THAT(err_, HasSubstr("add router=HOST:PORT"));
  EXPECT_EQ(Run({"org", "list", "--server", absl::StrCat("ledger=127.0.0.1:1,ledger=", address_)}), 0)
      << "one of two replicas is down: " << err_;
}

TEST_F(TollctlTest, ServerComesFromDataDirOrContext) {
  env_.erase("TOLLHOUSE_SERVER");
  env_.erase("TOLLHOUSE_TOKEN_FILE");
  EXPECT_EQ(Run({"org", "list"}), 1);
  EXPECT_THAT(err_, HasSubstr("tollctl context set"));
  Write("admin.token", kToken);
  Write("endpoints.json", "{\"edge\":\"http://127.0.0.1:1\",\"admin\":\"" + address_ + "\",\"pid\":7}");
  EXPECT_EQ(Run({"--data-dir", dir_.path(), "org", "create", "acme"}), 0) << err_;
  EXPECT_EQ(Run({"context", "set", "local", "--data-dir", dir_.path()}), 0) << err_;
  EXPECT_EQ(Run({"team", "create", "acme/a"}), 0) << err_;
  EXPECT_EQ(Run({"context", "use", "locl"}), 1);
  EXPECT_THAT(err_, HasSubstr("did you mean 'local'"));
  struct stat info {};
  ASSERT_EQ(stat(dir_.File("config.yaml").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(TollctlTest, WrongTokenAndUnreachableServerSayWhatToCheck) {
  Write("token", "other");
  EXPECT_EQ(Run({"org", "create", "acme"}), 1);
  EXPECT_THAT(err_, HasSubstr("--token-file"));
  EXPECT_EQ(Run({"org", "list", "--server", "127.0.0.1:1"}), 1);
  EXPECT_THAT(err_, AllOf(HasSubstr("127.0.0.1:1"), HasSubstr("check that it runs")));
}

TEST_F(TollctlTest, MissingAccountsGetTheNearestNameAndTheCommandThatMakesThem) {
  MakeAccounts();
  EXPECT_EQ(Run({"budget", "set", "acme/paymnts", "--limit", "5"}), 1);
  EXPECT_EQ(err_, "tollctl: team 'acme/paymnts' does not exist; did you mean 'acme/payments'? create it "
                  "with: tollctl team create acme/paymnts\n");
  EXPECT_EQ(Run({"user", "create", "acme/search/tom"}), 1);
  EXPECT_THAT(err_, StartsWith("tollctl: 'acme/search/tom': team 'acme/search' does not exist"));
  EXPECT_EQ(Run({"budget", "show", "acme/payments"}), 1);
  EXPECT_THAT(err_, HasSubstr("tollctl budget set acme/payments --limit"));
  EXPECT_EQ(Run({"key", "show", "acme/payments/laptop"}), 1);
  EXPECT_THAT(err_, HasSubstr("tollctl key list"));
  EXPECT_EQ(Run({"org", "create", "acme"}), 1);
  EXPECT_THAT(err_, HasSubstr("'acme' exists"));
}

TEST_F(TollctlTest, SetKeepsWhatIsNotNamed) {
  MakeAccounts();
  ASSERT_EQ(Run({"team", "set", "acme/payments", "--tag", "env=prod", "--cost-center", "4711"}), 0) << err_;
  EXPECT_EQ(ledger_.accounts["acme/payments"].owner(), "lead@acme.example");
  EXPECT_EQ(ledger_.accounts["acme/payments"].tags().at("env"), "prod");
}

TEST_F(TollctlTest, BudgetShowsHoldsOfThisPeriodAndWhatIsLeft) {
  MakeAccounts();
  ASSERT_EQ(Run({"budget", "set", "acme/payments", "--limit", "800", "--hard", "110"}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("not confirmed yet by edge/7"));
  ledger_.budgets[0].set_spent_nanousd(300'000'000'000);
  ledger_.budgets[0].set_suspense_nanousd(5'000'000'000);
  ledger_.budgets[0].set_raised_nanousd(200'000'000'000);
  enforcer_.held[1] = 25'000'000'001;
  ASSERT_EQ(Run({"budget", "show", "acme/payments", "--output", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"id\": \"acme/payments#month\""),
                          HasSubstr("\"limit_nanousd\": \"800000000000\""),
                          HasSubstr("\"held_nanousd\": \"25000000001\""),
                          HasSubstr("\"available_nanousd\": \"769999999999\""),  // 1000 x 1.1 - ...
                          HasSubstr("\"hard_pct\": 110"), Not(HasSubstr("resets_at"))));
  ledger_.budgets[0].set_spent_nanousd(2'000'000'000'000);
  ASSERT_EQ(Run({"budget", "show", "acme/payments#month", "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"available_nanousd\": \"0\""));
  ASSERT_EQ(Run({"budget", "list", "acme"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("$2,000.00"), HasSubstr("██████████ 203 %")));
}

TEST_F(TollctlTest, RaiseEndsAtMidnightOfTheBudgetsZone) {
  MakeAccounts();
  ASSERT_EQ(Run({"budget", "set", "acme/payments", "--limit", "800", "--timezone", "Europe/Berlin"}), 0);
  ASSERT_EQ(Run({"budget", "raise", "acme/payments", "--by", "200", "--until", "2026-12-01", "--reason",
                 "launch week"}), 0) << err_;
  EXPECT_EQ(ledger_.raise.by_nanousd(), 200'000'000'000);
  EXPECT_EQ(ledger_.raise.until().seconds(), 1796079600);  // 2026-11-30T23:00:00Z
  EXPECT_EQ(ledger_.raise.window(), "month");
  EXPECT_EQ(ledger_.raise.client_request_id().size(), 36u);
  EXPECT_EQ(Run({"budget", "raise", "acme/payments", "--by", "1", "--until", "2026-11-21", "--reason", "x"}), 2);
  ASSERT_EQ(Run({"budget", "set", "acme/payments", "--limit", "10", "--window", "day"}), 0);
  EXPECT_EQ(Run({"budget", "raise", "acme/payments", "--by", "1", "--until", "7d", "--reason", "x"}), 2);
  EXPECT_THAT(err_, HasSubstr("acme/payments#month, acme/payments#day"));
}

TEST_F(TollctlTest, DestructionNeedsYesOrATerminalAndDryRunChangesNothing) {
  MakeAccounts();
  const int writes = ledger_.writes;
  EXPECT_EQ(Run({"team", "delete", "acme/payments"}), 1);
  EXPECT_THAT(err_, HasSubstr("--yes"));
  EXPECT_EQ(Run({"team", "delete", "acme/payments", "--dry-run"}), 0);
  EXPECT_THAT(out_, HasSubstr("acme/payments/sarah  would be deleted"));
  EXPECT_EQ(Run({"team", "delete", "acme/payments"}, "no\n", true), 1);
  EXPECT_EQ(ledger_.writes, writes);
  EXPECT_EQ(Run({"user", "delete", "acme/payments/sarah"}, "yes\n", true), 0) << err_;
  EXPECT_EQ(Run({"team", "delete", "acme/payments", "--yes"}), 0) << err_;
  EXPECT_EQ(ledger_.accounts.size(), 1u);
}

TEST_F(TollctlTest, KeyCreatePrintsTheSecretOnce) {
  MakeAccounts();
  ASSERT_EQ(Run({"key", "create", "acme/payments/sarah", "--name", "laptop", "--expires", "90d", "--models",
                 "a,b", "--output", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(StartsWith("{\n  \"key\": {\n    \"path\": \"acme/payments/sarah/laptop\""),
                          HasSubstr("\"id\": \"k1\""), HasSubstr("\"secret\": \"sk-toll-k1-secret\""),
                          HasSubstr("\"expires_at\": \"2027-02-19T12:00:00Z\"")));
  ASSERT_EQ(Run({"key", "list", "acme"}), 0);
  EXPECT_THAT(out_, Not(HasSubstr("secret")));
  EXPECT_EQ(Run({"key", "revoke", "acme/payments/sarah/laptop"}, "no\n", true), 1);
  EXPECT_EQ(vault_.keys["acme/payments/sarah/laptop"].state(), "active");
  EXPECT_EQ(Run({"key", "revoke", "acme/payments/sarah/laptop", "--yes"}), 0);
  EXPECT_EQ(vault_.keys["acme/payments/sarah/laptop"].state(), "revoked");
}

TEST_F(TollctlTest, ProviderSecretComesFromFileOrEnvironmentAndIsNeverPrinted) {
  env_["SIM_KEY"] = kProviderSecret;
  ASSERT_EQ(Run({"provider", "set", "sim", "--dialect", "openai", "--base-url", "https://API.sim.example/v1",
                 "--credential-env", "SIM_KEY", "-o", "json"}), 0) << err_;
  EXPECT_EQ(vault_.credentials["sim"].secret(), kProviderSecret);
  EXPECT_EQ(vault_.credentials["sim"].origin(), "https://api.sim.example:443");
  EXPECT_EQ(router_.providers["sim"].dialect(), common::v1::DIALECT_OPENAI);
  EXPECT_THAT(out_ + err_, Not(HasSubstr(kProviderSecret)));
  const std::string file = Write("sim.key", "from-file\n");
  ASSERT_EQ(Run({"provider", "set", "sim", "--dialect", "openai", "--base-url", "https://api.sim.example/v1",
                 "--credential-file", file}), 0) << err_;
  EXPECT_EQ(vault_.credentials["sim"].secret(), "from-file");
  ASSERT_EQ(Run({"provider", "set", "sim", "--dialect", "openai", "--base-url", "https://other.example/v1"}), 0);
  EXPECT_THAT(err_, HasSubstr("enter it again"));
  EXPECT_EQ(Run({"provider", "set", "sim", "--dialect", "openai", "--base-url", "https://x/v1",
                 "--credential-env", "NOT_SET"}), 1);
  EXPECT_THAT(err_, HasSubstr("NOT_SET is not set"));
  EXPECT_EQ(Run({"provider", "set", "sim", "--dialect", "openai", "--base-url", "x"}), 2);
}

TEST_F(TollctlTest, SpendHasRowsAndTotal) {
  MakeAccounts();
  ASSERT_EQ(Run({"spend", "acme", "--by", "team,tag:use_case", "--since", "2026-11-01", "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"group\": {\n        \"team\": \"acme/payments\"\n      }"),
                          HasSubstr("\"requests\": \"3\""), HasSubstr("\"cost_nanousd\": \"1234567890\""),
                          HasSubstr("\"total\": {")));
  EXPECT_EQ(ledger_.spend.since().seconds(), 1793491200);
  EXPECT_EQ(ledger_.spend.by_size(), 2);
  ASSERT_EQ(Run({"spend", "acme", "--by", "team"}), 0);
  EXPECT_THAT(out_, AllOf(HasSubstr("$1.2346"), HasSubstr("\n-----"), HasSubstr("\ntotal")));
  ASSERT_EQ(Run({"spend", "acme", "--by", "team", "-o", "csv"}), 0);
  EXPECT_EQ(out_, "group.team,requests,input_tokens,output_tokens,cost_nanousd\r\n"
                  "acme/payments,3,1200,34,1234567890\r\n");
  EXPECT_EQ(Run({"spend", "--by", "colour"}), 2);
}

TEST_F(TollctlTest, NothingIsStillATable) {
  ASSERT_EQ(Run({"spend", "--by", "day", "--since", "1h"}), 0) << err_;
  ASSERT_EQ(Run({"org", "list", "-o", "csv"}), 0) << err_;
  EXPECT_THAT(out_, StartsWith("path,owner"));
  ASSERT_EQ(Run({"org", "list", "-o", "json"}), 0) << err_;
  EXPECT_EQ(out_, "{\n  \"accounts\": []\n}\n");
  ASSERT_EQ(Run({"org", "list"}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("tollctl org create acme"));
}

TEST_F(TollctlTest, LedgerVerifyExitsWith1WhenNotOk) {
  EXPECT_EQ(Run({"ledger", "verify", "--output", "json"}), 0) << err_;
  EXPECT_EQ(out_, "{\n  \"ok\": true,\n  \"entries\": \"2\",\n  \"problems\": [],\n  \"heads\": []\n}\n");
  ledger_.ok = false;
  EXPECT_EQ(Run({"ledger", "verify", "--output", "json"}), 1);
  EXPECT_THAT(out_, AllOf(HasSubstr("\"ok\": false"), HasSubstr("recomputed 2")));
  EXPECT_EQ(Run({"ledger", "verify"}), 1);
}

TEST_F(TollctlTest, LedgerEntriesFollowsAllPages) {
  for (int64_t i = 1; i <= 5; ++i) {
    auto& entry = ledger_.entries.emplace_back();
    entry.set_sequence(i);
    entry.mutable_entry()->set_request_id(absl::StrCat("r", i));
  }
  ASSERT_EQ(Run({"ledger", "entries", "--output", "csv"}), 0) << err_;
  EXPECT_EQ(std::count(out_.begin(), out_.end(), '\n'), 6);
  ASSERT_EQ(Run({"ledger", "entries", "--after", "3", "-o", "json"}), 0);
  EXPECT_THAT(out_, AllOf(HasSubstr("\"sequence\": \"4\""), Not(HasSubstr("\"sequence\": \"3\""))));
  ASSERT_EQ(Run({"explain", "r3", "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"request_id\": \"r3\""));
  EXPECT_EQ(Run({"explain", "r9"}), 1);
}

TEST_F(TollctlTest, SuspenseListsHoldsAndLostLeases) {
  ASSERT_EQ(Run({"suspense", "list"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("018f2a7c"), HasSubstr("$0.000001"), HasSubstr("epoch/1/3"),
                          HasSubstr("edge-7")));
  ASSERT_EQ(Run({"suspense", "list", "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"rows\": ["), HasSubstr("\"amount_nanousd\": \"500\"")));
}

TEST_F(TollctlTest, WhatIfNamesTheBudgetThatIsTooSmall) {
  MakeAccounts();
  ASSERT_EQ(Run({"key", "create", "acme/payments/sarah", "--name", "laptop"}), 0);
  ASSERT_EQ(Run({"budget", "set", "acme/payments", "--limit", "1"}), 0);
  ASSERT_EQ(Run({"budget", "set", "acme", "--limit", "100"}), 0);
  ASSERT_EQ(Run({"explain", "--key", "acme/payments/sarah/laptop", "--model", "gpt-4o", "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"admitted\": false"), HasSubstr("acme/payments#month has $1.00 left"),
                          Not(HasSubstr("acme#month has"))));
}

TEST_F(TollctlTest, WebhookSecretIsReadFromAFile) {
  MakeAccounts();
  ASSERT_EQ(Run({"webhook", "set", "acme", "--url", "https://h.example/x", "--secret-file",
                 Write("hook.key", "hush\n")}), 0) << err_;
  EXPECT_EQ(ledger_.webhook.secret(), "hush");
  EXPECT_THAT(out_ + err_, Not(HasSubstr("hush")));
}

constexpr char kDocuments[] = R"(
kind: Key
name: acme/payments/ci
spec: {models: [gpt-4o], tags: {use_case: ci}}
---
kind: Budget
name: acme/payments
spec: {limit: "800", soft: [80, 110]}
---
kind: Limit
name: acme
spec: {rpm: 600, max_request_cost: "0.50"}
---
kind: Team
name: acme/payments
spec: {owner: lead@acme.example}
---
kind: Organization
name: acme
---
kind: Provider
name: sim
spec: {dialect: openai, base_url: "http://127.0.0.1:9100/v1", allow_private: true, credential: {env: SIM_KEY}}
---
kind: Model
name: fast
spec: {vendor: openai, model: gpt-4o-mini}
---
kind: Price
name: my-model
spec: {vendor: openai, input: "2.5", output: "10"}
)";

TEST_F(TollctlTest, ApplyIsIdempotentAndDryRunWritesNothing) {
  env_["SIM_KEY"] = kProviderSecret;
  const auto writes = [&] { return ledger_.writes + router_.writes + vault_.writes; };
  ASSERT_EQ(Run({"apply", "-f", "-", "--dry-run"}, kDocuments), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("would be created"));
  EXPECT_EQ(writes(), 0);

  ASSERT_EQ(Run({"apply", "-f", Write("acme.yaml", kDocuments), "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"created\": 8"), HasSubstr("sk-toll-k1-secret")));
  EXPECT_EQ(ledger_.budgets[0].limit_nanousd(), 800'000'000'000);
  EXPECT_EQ(vault_.credentials["sim"].secret(), kProviderSecret);
  EXPECT_THAT(out_ + err_, Not(HasSubstr(kProviderSecret)));

  const int before = writes();
  ASSERT_EQ(Run({"apply", "-f", dir_.File("acme.yaml"), "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"unchanged\": 8"), HasSubstr("\"changed\": 0")));
  EXPECT_EQ(writes(), before);
}

TEST_F(TollctlTest, ExportRoundTripsToUnchanged) {
  env_["SIM_KEY"] = kProviderSecret;
  ASSERT_EQ(Run({"apply", "-f", "-"}, kDocuments), 0) << err_;
  ASSERT_EQ(Run({"export"}), 0) << err_;
  const std::string exported = out_;
  ASSERT_EQ(Run({"apply", "-f", "-", "-o", "json"}, exported), 0) << err_ << exported;
  EXPECT_THAT(out_, AllOf(HasSubstr("\"unchanged\": 8"), HasSubstr("\"created\": 0"),
                          HasSubstr("\"changed\": 0"))) << exported;
}

TEST_F(TollctlTest, ApplyRefusesBeforeItChangesAnything) {
  EXPECT_EQ(Run({"apply", "-f", "-"}, "{kind: Organization, name: acme}\n---\n{kind: Team, name: acme/a, spec: {x: 1}}\n"), 1);
  EXPECT_THAT(err_, HasSubstr("-:3: unknown key 'x'"));
  EXPECT_EQ(Run({"apply", "-f", "-"}, "{kind: Organization, name: acme}\n---\n{kind: User, name: acme/a/b}\n"), 1);
  EXPECT_THAT(err_, HasSubstr("'acme/a' does not exist"));
  EXPECT_EQ(Run({"apply", "-f", dir_.File("none.yaml")}), 1);
  EXPECT_EQ(ledger_.writes, 0);
}

TEST_F(TollctlTest, PruneDeletesOnlyDeclaredKindsInDeclaredOrgs) {
  MakeAccounts();
  ASSERT_EQ(Run({"org", "create", "other"}), 0);
  ASSERT_EQ(Run({"team", "create", "other/x"}), 0);
  ASSERT_EQ(Run({"team", "create", "acme/old"}), 0);
  ASSERT_EQ(Run({"budget", "set", "acme", "--limit", "5"}), 0);
  const std::string documents =
      "{kind: Organization, name: acme}\n---\n{kind: Team, name: acme/new}\n---\n"
      "{kind: Limit, name: acme/payments/sarah, spec: {rpm: 1}}\n";
  EXPECT_EQ(Run({"apply", "-f", "-", "--prune"}, documents), 1);
  EXPECT_THAT(err_, AllOf(HasSubstr("Team acme/old"), Not(HasSubstr("payments")), Not(HasSubstr("other"))));
  EXPECT_FALSE(ledger_.accounts.contains("acme/new"));
  ASSERT_EQ(Run({"apply", "-f", "-", "--prune", "--yes"}, documents), 0) << err_;
  EXPECT_FALSE(ledger_.accounts.contains("acme/old"));
  // Kept: another kind, another org, and the team that a declared limit hangs under.
  EXPECT_EQ(ledger_.budgets.size(), 1u);
  EXPECT_TRUE(ledger_.accounts.contains("other/x"));
  EXPECT_TRUE(ledger_.accounts.contains("acme/payments"));
}

TEST_F(TollctlTest, SecretsOfAppliedKeysCanGoToFiles) {
  MakeAccounts();
  ASSERT_EQ(Run({"apply", "-f", "-", "--secrets-dir", dir_.File("secrets")}, "{kind: Key, name: acme/ci}\n"), 0) << err_;
  EXPECT_THAT(out_ + err_, Not(HasSubstr("sk-toll-k1-secret")));
  struct stat info {};
  ASSERT_EQ(stat(dir_.File("secrets/acme_ci.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(TollctlTest, PriceSetKeepsOtherRatesAndStartsNow) {
  ASSERT_EQ(Run({"price", "set", "m", "--vendor", "openai", "--input-price", "2.50", "--output-price", "10", "--from",
                 "always"}), 0) << err_;
  ASSERT_EQ(Run({"price", "set", "m", "--vendor", "openai", "--input-price", "3", "--dry-run"}), 0) << err_;
  EXPECT_EQ(router_.prices.size(), 1u);
  ASSERT_EQ(Run({"price", "set", "m", "--vendor", "openai", "--input-price", "3"}), 0) << err_;
  ASSERT_EQ(router_.prices.size(), 2u);
  EXPECT_EQ(router_.prices[1].rates_size(), 2);
  EXPECT_EQ(router_.prices[1].rates(0).nanousd_per_mtok(), 3'000'000'000);
  EXPECT_EQ(router_.prices[1].effective_from().seconds(), absl::ToUnixSeconds(clock_.Wall()));
  EXPECT_EQ(Run({"price", "set", "m", "--vendor", "openai", "--input-price", "2,5"}), 2);
  const std::string file = Write("prices.txt", "price openai m input=4 output=10 source=tollctl\n");
  ASSERT_EQ(Run({"price", "diff", file}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("input 2.5 -> 4"));
  ASSERT_EQ(Run({"price", "import", file, "-o", "json"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\"added\": 1"));
}

}  // namespace
}  // namespace tollhouse::tollctl
