// A million virtual keys: what it costs an edge to know them.
//
//   key_scale_bench [KEYS]      default 1000000
//
// Starts itself again as vault and ledger over a PostgreSQL of its own, fills them, and then measures one
// edge's directory against them over loopback: cold look-ups one after the other, all keys at once as
// after a reconnect, memory with all of them cached, and the processor time of a cached one.
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <future>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libs/crypto/random.h"
#include "libs/crypto/virtual_key.h"
#include "libs/sql/open.h"
#include "libs/testing/postgres_server.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/directory.h"
#include "services/key-vault/app.h"
#include "services/key-vault/key_ring.h"
#include "services/key-vault/store/sql_store.h"
#include "services/ledger/app.h"

namespace tollhouse {
namespace {

constexpr int64_t kTeams = 100;
constexpr size_t kTextSize = 86;  // of a virtual key, with the line's end

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << "\n";
  std::exit(1);
}

template <typename T>
T Value(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

// --- the other services

void FillLedger(const std::string& uri, int64_t keys) {
  testing::PostgresExecute(
      uri, absl::StrCat(
               "INSERT INTO accounts (org_id, parent_id, kind, path, created_at) VALUES (1, 0, 1, "
               "'acme', 0); "
               "INSERT INTO accounts (org_id, parent_id, kind, path, created_at) "
               "SELECT 1, 1, 2, 'acme/team' || i, 0 FROM generate_series(1, ",
               kTeams,
               ") i; INSERT INTO accounts (org_id, parent_id, kind, path, created_at) "
               "SELECT 1, 2 + i % ",
               kTeams, ", 4, 'acme/team' || (1 + i % ", kTeams,
               ") || '/key' || i, 0 FROM generate_series(0, ", keys - 1, ") i; ANALYZE accounts"));
}

// Writes the texts of the keys to `file`, a line each.
void FillVault(sql::Database* database, const vault::VirtualKeyKeys& keys, int64_t count,
               const std::string& file) {
  std::ofstream texts(file, std::ios::binary);
  constexpr int64_t kAtOnce = 50'000;
  for (int64_t begin = 0; begin < count; begin += kAtOnce) {
    Check(database->Write([&](sql::Connection& c) -> absl::Status {
      std::vector<std::pair<std::string, std::string>> made;  // id, MAC
      auto rows = c.Insert("virtual_key",
                           {"key_id", "account_id", "path", "owner", "purpose", "created_at",
                            "disabled", "revoked", "models", "providers", "endpoints", "networks"});
      for (int64_t i = begin; i < std::min(count, begin + kAtOnce); ++i) {
        const crypto::NewVirtualKey key = crypto::MakeVirtualKey(keys.checksum_key.view());
        texts << key.text.view() << '\n';
        rows->Text(key.id);
        rows->Int(kTeams + 2 + i);
        for (int empty = 0; empty < 3; ++empty) rows->Text("");
        for (int zero = 0; zero < 3; ++zero) rows->Int(0);
        for (int empty = 0; empty < 4; ++empty) rows->Text("");
        rows->EndRow();
        const auto mac = crypto::MacOfSecret(keys.secret_key.view(),
                                             crypto::ParseVirtualKey(key.text.view())->secret);
        made.emplace_back(key.id, std::string(crypto::AsBytes(mac)));
      }
      TH_RETURN_IF_ERROR(rows->Finish());
      auto secrets = c.Insert("key_secret", {"key_id", "mac", "created_at"});
      for (const auto& [id, mac] : made) {
        secrets->Text(id);
        secrets->Bytes(mac);
        secrets->Int(0);
        secrets->EndRow();
      }
      return secrets->Finish();
    }));
  }
}

// Says "PORT PORT" (vault, ledger) on `out` when it serves; ends with its input.
int Serve(int64_t keys, const std::string& dir) {
  testing::PostgresServer postgres({.settings = {"shared_buffers=512MB", "max_wal_size=4GB"}});
  const std::string ledger_uri = postgres.Uri(postgres.CreateDatabase());
  const std::string vault_uri = postgres.Uri(postgres.CreateDatabase());
  ledger::Config ledger_config;
  ledger_config.database = ledger_uri;
  Check(ledger::Migrate(ledger_config));
  vault::Config vault_config;
  vault_config.database = vault_uri;
  vault_config.key_encryption_key_file = dir + "/kek";
  vault_config.create_key_encryption_key = true;
  Check(vault::Migrate(vault_config));
  FillLedger(ledger_uri, keys);
  {
    auto opened = Value(sql::OpenDatabase({.database = vault_uri}, vault::StoreSchema()));
    const auto store = vault::MakeSqlStore(opened.database.get());
    auto encryption = Value(vault::LocalKeyEncryption::Open(
        [&] { return vault::ReadKeyFile(vault_config.key_encryption_key_file, true); }));
    const auto ring = Value(vault::KeyRing::Open(std::move(encryption), store.get()));
    FillVault(opened.database.get(), ring.virtual_key_keys(), keys, dir + "/keys");
  }
  testing::PostgresExecute(vault_uri, "VACUUM ANALYZE");
  testing::PostgresExecute(ledger_uri, "VACUUM ANALYZE");

  auto ledger = Value(ledger::App::Create(ledger_config));
  int ledger_port = 0;
  grpc::ServerBuilder ledger_builder;
  ledger->RegisterInternal(ledger_builder);
  ledger_builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &ledger_port);
  const auto ledger_server = ledger_builder.BuildAndStart();
  Check(ledger->Start());

  auto vault = Value(vault::App::Create(
      vault_config, grpc::CreateChannel(absl::StrCat("127.0.0.1:", ledger_port),
                                        grpc::InsecureChannelCredentials())));
  int vault_port = 0;
  grpc::ServerBuilder vault_builder;
  vault->RegisterInternal(vault_builder);
  vault_builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &vault_port);
  const auto vault_server = vault_builder.BuildAndStart();
  Check(vault->Start());

  std::ofstream(dir + "/ports.new") << vault_port << " " << ledger_port << "\n";
  std::rename((dir + "/ports.new").c_str(), (dir + "/ports").c_str());
  std::string rest;
  std::getline(std::cin, rest);
  vault->Stop();
  ledger->Stop();
  vault_server->Shutdown(std::chrono::system_clock::now());
  ledger_server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

// --- the edge

int64_t AnonymousKib() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("RssAnon:")) return std::strtoll(line.c_str() + 8, nullptr, 10);
  }
  return 0;
}

double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

int Measure(int64_t keys, const std::string& dir) {
  int vault_port = 0, ledger_port = 0;
  std::ifstream(dir + "/ports") >> vault_port >> ledger_port;
  const auto channel = [](int port) {
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  };
  std::vector<std::unique_ptr<edge::IoLoop>> loops;
  loops.push_back(std::make_unique<edge::IoLoop>(Clock::System()));
  edge::DirectoryOptions options;
  options.use_report_interval = absl::Hours(1);
  const int64_t before_kib = AnonymousKib();
  edge::Directory directory(channel(vault_port), channel(ledger_port), "bench", loops, options,
                            nullptr, [](const auto&) {}, Clock::System());
  loops[0]->Start();
  directory.Start();
  if (!directory.WaitSynced(absl::Seconds(30))) {
    std::cerr << "the watches did not come\n";
    return 1;
  }

  std::ifstream texts(dir + "/keys", std::ios::binary);
  const auto text_at = [&](int64_t index) {
    std::string text(kTextSize - 1, '\0');
    texts.seekg(index * static_cast<int64_t>(kTextSize));
    texts.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  };

  const int64_t cold = std::min<int64_t>(keys, 5'000);
  std::vector<double> millis;
  for (int64_t i = 0; i < cold; ++i) {
    std::string text = text_at(i * (keys / cold));
    std::promise<bool> done;
    const absl::Time begin = absl::Now();
    boost::asio::co_spawn(
        loops[0]->context(),
        [&]() -> edge::Task<> {
          const auto principal = co_await directory.Authenticate(*loops[0], text);
          done.set_value(principal.ok());
        },
        boost::asio::detached);
    if (!done.get_future().get()) {
      std::cerr << "a key was refused\n";
      return 1;
    }
    millis.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
  }
  std::sort(millis.begin(), millis.end());
  const auto at = [&](double part) { return millis[static_cast<size_t>(part * (millis.size() - 1))]; };
  std::printf("cold look-up: p50 %.2f ms, p99 %.2f ms, max %.2f ms (%" PRId64 " of %" PRId64
              " keys)\n",
              at(0.5), at(0.99), at(1), cold, keys);

  std::vector<edge::KeyId> ids(static_cast<size_t>(keys));
  for (int64_t i = 0; i < keys; ++i) {
    const std::string text = text_at(i);
    crypto::ParseVirtualKey(text)->id.copy(ids[static_cast<size_t>(i)].data(), edge::kKeyIdSize);
  }
  const absl::Time begin = absl::Now();
  directory.Prefetch(std::move(ids));
  while (directory.cached_keys() < static_cast<size_t>(keys) &&
         absl::Now() - begin < absl::Minutes(5)) {
    absl::SleepFor(absl::Milliseconds(20));  // lint: allow(sleep-in-test) a benchmark
  }
  std::printf("full resync: %.2f s for %zu keys\n", absl::ToDoubleSeconds(absl::Now() - begin),
              directory.cached_keys());

  double spent = 0;
  int64_t known = 0;
  std::vector<std::string> part;
  for (int64_t i = 0; i < keys; i += 10'000) {
    part.clear();
    for (int64_t k = i; k < std::min(keys, i + 10'000); ++k) part.push_back(text_at(k));
    const double from = ThreadSeconds();
    for (const std::string& text : part) {
      const auto principal = directory.AuthenticateCached(text);
      known += principal.has_value() && principal->ok();
    }
    spent += ThreadSeconds() - from;
  }
  std::printf("cached key: %.0f ns of processor time, each of %" PRId64 " keys once\n",
              spent / static_cast<double>(keys) * 1e9, known);
  const std::string hot = text_at(0);
  double from = ThreadSeconds();
  constexpr int kTimes = 2'000'000;
  for (int i = 0; i < kTimes; ++i) known += directory.AuthenticateCached(hot)->ok();
  std::printf("the same key again: %.0f ns\n", (ThreadSeconds() - from) / kTimes * 1e9);
  std::printf("memory: %" PRId64 " MB, %" PRId64 " MB of them before the first key\n",
              AnonymousKib() / 1024, before_kib / 1024);
  directory.Stop();
  for (const auto& loop : loops) loop->Stop();
  return 0;
}

int Run(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 3 && std::string_view(argv[1]) == "--serve") {
    return Serve(std::strtoll(argv[2], nullptr, 10), argv[3]);
  }
  const int64_t keys = argc > 1 ? std::strtoll(argv[1], nullptr, 10) : 1'000'000;
  const testing::TempDir dir;
  int input[2];
  if (keys < 1 || pipe(input) != 0) return 2;
  const pid_t child = fork();
  if (child == 0) {
    dup2(input[0], 0);
    close(input[1]);
    const std::string count = absl::StrCat(keys);
    execl("/proc/self/exe", argv[0], "--serve", count.c_str(), dir.path().c_str(), nullptr);
    _exit(127);
  }
  close(input[0]);
  const absl::Time begin = absl::Now();
  int status = 0;
  while (access(dir.File("ports").c_str(), R_OK) != 0) {
    if (waitpid(child, &status, WNOHANG) == child) {
      std::cerr << "the services ended\n";
      return 1;
    }
    absl::SleepFor(absl::Milliseconds(100));  // lint: allow(sleep-in-test) a benchmark
  }
  std::printf("filled with %" PRId64 " keys in %.0f s\n", keys,
              absl::ToDoubleSeconds(absl::Now() - begin));
  std::fflush(stdout);
  const int result = Measure(keys, dir.path());
  close(input[1]);
  waitpid(child, &status, 0);
  return result;
}

}  // namespace
}  // namespace tollhouse

int main(int argc, char** argv) { return tollhouse::Run(argc, argv); }
