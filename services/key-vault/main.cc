// tollhouse-vault: virtual keys and provider credentials, as a process.
#include <iostream>
#include <memory>
#include <string>

#include "libs/base/status_macros.h"
#include "libs/rpc/program.h"
#include "services/key-vault/app.h"
#include "services/key-vault/key_encryption.h"

namespace tollhouse::vault {
namespace {

constexpr char kExamples[] =
    "Commands:\n"
    "  tollhouse-vault migrate --config vault.yaml\n"
    "      brings the database to this version's schema; safe to repeat\n"
    "  tollhouse-vault add-key --config vault.yaml\n"
    "      adds a new key-encryption key to the key file; then: tollctl kek rewrap\n\n"
    "Examples:\n"
    "  (umask 077; head -c 32 /dev/urandom > kek)\n"
    "      makes the key-encryption key; keep a copy in a safe place\n"
    "  tollhouse-vault --config vault.yaml\n"
    "  tollhouse-vault --insecure --database sqlite:vault.db --key-encryption-key-file kek\n"
    "      --ledger 127.0.0.1:7101 --admin-token-file admin.token\n"
    "      for a trial on this machine\n";

int Run(int argc, char** argv) {
  std::string ledger;
  Config config;
  rpc::Program program({"vault", "virtual keys and provider credentials", kExamples, true, 7401});
  config::Options& options = program.options();
  options.Add("database", &config.database,
              "sqlite:PATH, or postgresql://USER@HOST:PORT/NAME without a password (required)");
  options.Add("database-password-file", &config.database_password_file,
              "of PostgreSQL; read at each connect");
  options.Add("key-encryption-key-file", &config.key_encryption_key_file,
              "32 bytes, or lines of 64 hex digits with the newest last (this or the next is required)");
  options.Add("key-encryption-keys", &config.key_encryption_keys, "such lines themselves", true);
  options.Add("ledger", &ledger, "the ledger: NAME:PORT or ADDRESS:PORT,... (required)");
  options.Add("acknowledge-timeout", &config.acknowledge_timeout,
              "how long a change waits for connected edges");
  program.SetCheck([&] {
    if (config.database.empty()) return absl::InvalidArgumentError("--database is required");
    if (config.key_encryption_key_file.empty() == config.key_encryption_keys.empty()) {
      return absl::InvalidArgumentError(
          "either --key-encryption-key-file or TOLLHOUSE_VAULT_KEY_ENCRYPTION_KEYS is required");
    }
    return ledger.empty() ? absl::InvalidArgumentError("--ledger is required") : absl::OkStatus();
  });
  const auto create = [&](const rpc::Environment& environment) -> absl::StatusOr<std::unique_ptr<rpc::Hosted>> {
    config.authenticator = environment.authenticator().get();
    TH_ASSIGN_OR_RETURN(auto channel, environment.Channel("ledger", ledger));
    TH_ASSIGN_OR_RETURN(auto app, App::Create(config, std::move(channel)));
    return std::make_unique<rpc::HostedApp<App>>(std::move(app));
  };
  program.AddCommand("migrate", [&] { return Migrate(config); });
  program.AddCommand("add-key", [&]() -> absl::Status {
    if (config.key_encryption_key_file.empty()) {
      return absl::InvalidArgumentError("--key-encryption-key-file is required");
    }
    TH_ASSIGN_OR_RETURN(const std::string id, AddKeyToFile(config.key_encryption_key_file));
    std::cout << "added key-encryption key " << id
              << "; bring the file to every replica, then: tollctl kek rewrap\n";
    return absl::OkStatus();
  });
  return program.Run(argc, argv, create);
}

}  // namespace
}  // namespace tollhouse::vault

int main(int argc, char** argv) { return tollhouse::vault::Run(argc, argv); }
