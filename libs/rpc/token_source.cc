#include "libs/rpc/token_source.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <utility>

#include "libs/rpc/status.h"
#include "tollhouse/vault/v1/vault.grpc.pb.h"

namespace tollhouse::rpc {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);

AdminToken FromProto(const vault::v1::TokenRecord& record) {
  AdminToken token;
  token.hash = record.hash();
  token.caller.actor = record.name();
  token.caller.role = record.role();
  token.caller.subtree = record.subtree();
  if (record.has_expires_at()) token.expires_at = absl::FromUnixSeconds(record.expires_at().seconds());
  return token;
}

}  // namespace

TokenSource::TokenSource(Read read, Authenticator* authenticator, TokenSourceOptions options)
    : read_(std::move(read)),
      authenticator_(authenticator),
      options_(options),
      read_at_(options.clock->Monotonic()) {}

TokenSource::~TokenSource() { Stop(); }

void TokenSource::Start() {
  thread_ = std::thread([this] { Run(); });
}

void TokenSource::Stop() {
  {
    absl::MutexLock lock(&stop_mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void TokenSource::Refresh() {
  // Held while reading: an older answer never replaces a newer one.
  absl::MutexLock lock(&mutex_);
  const absl::Duration now = options_.clock->Monotonic();
  const absl::StatusOr<KnownTokens> tokens = read_();
  if (tokens.ok()) {
    read_at_ = now;
    authenticator_->SetTokens(*tokens);
  } else if (now - read_at_ > options_.max_staleness) {
    authenticator_->ForgetTokens();
  }
}

void TokenSource::Run() {
  const auto stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(stop_mutex_) { return stopping_; };
  for (;;) {
    Refresh();
    absl::MutexLock lock(&stop_mutex_);
    if (stop_mutex_.AwaitWithTimeout(absl::Condition(&stopping), options_.interval)) return;
  }
}

TokenSource::Read ReadTokensOf(std::shared_ptr<grpc::ChannelInterface> vault) {
  std::shared_ptr<vault::v1::VaultService::Stub> stub = vault::v1::VaultService::NewStub(std::move(vault));
  return [stub = std::move(stub)]() -> absl::StatusOr<KnownTokens> {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kCallTimeout));
    vault::v1::ReadTokensResponse response;
    const grpc::Status status = stub->ReadTokens(&context, vault::v1::ReadTokensRequest(), &response);
    if (!status.ok()) return FromGrpc(status);
    KnownTokens known;
    for (const vault::v1::TokenRecord& record : response.tokens()) known.tokens.push_back(FromProto(record));
    known.revoked_hashes.assign(response.revoked_hashes().begin(), response.revoked_hashes().end());
    return known;
  };
}

}  // namespace tollhouse::rpc
