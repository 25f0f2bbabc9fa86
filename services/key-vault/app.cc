#include "services/key-vault/app.h"

#include <optional>
#include <utility>

#include "libs/base/status_macros.h"
#include "libs/obs/log.h"
#include "services/key-vault/grpc_service.h"
#include "services/key-vault/key_ring.h"
#include "services/key-vault/ledger_accounts.h"
#include "services/key-vault/store/sql_store.h"
#include "services/key-vault/vault.h"

namespace tollhouse::vault {

namespace {

sql::DatabaseSettings SettingsOf(const Config& config) {
  return {.database = config.database,
          .password_file = config.database_password_file,
          .application_name = "tollhouse-vault"};
}

absl::StatusOr<rpc::KnownTokens> ReadTokens(Vault& vault) {
  TH_ASSIGN_OR_RETURN(StoredTokens stored, vault.KnownTokens());
  rpc::KnownTokens known;
  for (const StoredToken& token : stored.tokens) {
    known.tokens.push_back({token.hash, {token.name, token.role, token.subtree},
                            token.expires_at.value_or(absl::InfiniteFuture())});
  }
  known.revoked_hashes = std::move(stored.revoked_hashes);
  return known;
}

LocalKeyEncryption::Read ReaderOf(const Config& config) {
  if (config.key_encryption_keys.empty()) {
    return [path = config.key_encryption_key_file] { return ReadKeyFile(path, false); };
  }
  auto text = std::make_shared<const crypto::SecretBytes>(config.key_encryption_keys);
  return [text]() -> absl::StatusOr<crypto::SecretBytes> { return text->Clone(); };
}

}  // namespace

absl::Status Migrate(const Config& config) {
  return sql::MigrateDatabase(SettingsOf(config), StoreSchema());
}

App::App() = default;
App::~App() { Stop(); }

absl::StatusOr<std::unique_ptr<App>> App::Create(Config config,
                                                 std::shared_ptr<grpc::ChannelInterface> ledger) {
  std::unique_ptr<App> app(new App());
  TH_ASSIGN_OR_RETURN(app->database_, sql::OpenDatabase(SettingsOf(config), StoreSchema()));
  sql::Database* const database = app->database_.database.get();
  std::unique_ptr<Store> store = MakeSqlStore(database);
  TH_ASSIGN_OR_RETURN(const std::optional<WrappedKey> sealed, store->SealedHashKeys());
  if (config.create_key_encryption_key && !sealed.has_value()) {
    TH_RETURN_IF_ERROR(ReadKeyFile(config.key_encryption_key_file, true).status());
  }
  TH_ASSIGN_OR_RETURN(std::unique_ptr<LocalKeyEncryption> keys,
                      LocalKeyEncryption::Open(ReaderOf(config)));
  TH_ASSIGN_OR_RETURN(KeyRing ring, KeyRing::Open(std::move(keys), store.get()));
  app->log_ = std::make_unique<audit::Log>(database, "vault", config.clock);
  app->ledger_ = std::make_unique<LedgerAccounts>(std::move(ledger));
  app->vault_ = std::make_unique<Vault>(std::move(store), std::move(ring), app->ledger_.get(),
                                        config.clock, !app->database_.postgres.has_value());
  if (config.authenticator != nullptr) {
    app->tokens_ = std::make_unique<rpc::TokenSource>(
        [vault = app->vault_.get()] { return ReadTokens(*vault); }, config.authenticator,
        rpc::TokenSourceOptions{.clock = config.clock});
  }
  TH_ASSIGN_OR_RETURN(
      app->services_,
      MakeServices(app->vault_.get(), config.authenticator, app->log_.get(),
                   [tokens = app->tokens_.get()] {
                     if (tokens != nullptr) tokens->Refresh();
                   },
                   config.acknowledge_timeout,
                   {.database = database, .postgres = app->database_.postgres}));
  return app;
}

void App::RegisterInternal(grpc::ServerBuilder& builder) {
  builder.RegisterService(services_->vault());
}

void App::RegisterAdmin(grpc::ServerBuilder& builder) {
  builder.RegisterService(services_->admin());
}

absl::Status App::Start() {
  if (const absl::Status resumed = vault_->ResumeIntents(); !resumed.ok()) {
    obs::Log(obs::Level::kWarning, "unfinished_keys_remain",
             {{"error", std::string_view(resumed.message().data(), resumed.message().size())}});
  }
  if (tokens_ != nullptr) {
    tokens_->Refresh();
    tokens_->Start();
  }
  return absl::OkStatus();
}

void App::Stop() {
  if (tokens_ != nullptr) tokens_->Stop();
  if (services_ != nullptr) services_->Shutdown();
}

}  // namespace tollhouse::vault
