// A request's way through the edge: authenticate, route, bound, reserve, forward, settle.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "services/edge/caller_address.h"
#include "services/edge/config.h"
#include "services/edge/dialect/refusal.h"
#include "services/edge/dialect/tight_ratios.h"
#include "services/edge/directory.h"
#include "services/edge/enforcer_session.h"
#include "services/edge/http_server.h"
#include "services/edge/journal.h"
#include "services/edge/metrics.h"
#include "services/edge/object_owners.h"
#include "services/edge/policy_source.h"
#include "services/edge/settler.h"
#include "services/edge/upstream.h"
#include "services/edge/usage_reader.h"

namespace tollhouse::edge {

// What one IO thread has for itself.
struct Lane {
  // A hold whose request is under way; refreshed while it lasts.
  struct ActiveHold : boost::intrusive::list_base_hook<
                          boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
    std::string hold_id;
    int64_t org_id = 0;
    int64_t epoch = 0;
    int64_t refresh_at = 0;  // monotonic nanoseconds
  };

  IoLoop* loop = nullptr;
  std::unique_ptr<UpstreamPool> pool;
  std::unique_ptr<EnforcerSession> session;
  boost::intrusive::list<ActiveHold, boost::intrusive::constant_time_size<false>> active;
};

// All methods on IO threads. The parts must outlive it.
class Gateway final : public RequestHandler {
 public:
  struct Parts {
    const Config* config;
    std::vector<std::unique_ptr<Lane>>* lanes;  // by IO thread
    Journal* journal;
    Settler* settler;
    Directory* directory;
    PolicySource* policies;
    Metrics* metrics;
    ObjectOwners* objects;
    TightRatioBook* tight_ratios;
    UsageReader* usage;
    const CallerAddresses* callers;
    AddressLimiter* limiter;
    std::string boot_id;
  };

  explicit Gateway(Parts parts) : parts_(std::move(parts)) {}

  Task<> Handle(Exchange& exchange) override;
  Malformed RenderMalformed(const RequestHead& head, RequestError error) override;

  // See EnforcerSession::Orphaned: a void for the enforcer and the ledger.
  void VoidOrphan(const enforcer::v1::Reserve& asked, const enforcer::v1::OperationResult& result);
  // Asks for more time for the holds of a lane that need it. On its IO thread.
  void RefreshHolds(Lane& lane);

 private:
  struct Call;

  Task<> Serve(Call& call);
  Task<> ServeModels(Call& call);
  Task<> ServeUsage(Call& call);
  Task<> ServeFree(Call& call);
  Task<> ServeStored(Call& call);
  Task<> ServeMetered(Call& call);
  // False: refused, and answered.
  Task<bool> PaceFree(Call& call);
  Task<bool> Prepare(Call& call);
  Task<bool> Bound(Call& call);
  Task<bool> FindCredential(Call& call);
  Task<bool> MayCall(Call& call, const std::optional<http::Address>& from);
  static std::string_view SecretOf(const Call& call);
  const CredentialSet::Credential* PickCredential(
      const Call& call, const CredentialSet::Credential* not_this) const;
  bool TurnToAnotherCredential(Call& call, const class Relay& relay);
  absl::StatusOr<policy::Route> RouteOf(const Call& call) const;
  std::string PathOf(const Call& call, Endpoint endpoint) const;
  bool CountCanHelp(const Call& call, const enforcer::v1::Refused& refused) const;
  Task<bool> Tighten(Call& call, std::string_view body);
  bool Clamp(Call& call, const enforcer::v1::Refused& refused);
  // Whether the caller's account created the object, at that provider.
  Task<absl::StatusOr<bool>> Owns(Call& call, std::string_view id, std::string_view provider);
  Task<absl::StatusOr<std::optional<ObjectOwner>>> FindOwner(Call& call, std::string_view id);
  Task<> PublishObject(Call& call, std::string_view id);
  Task<> Refuse(Call& call, Refusal refusal, Metrics::Outcome outcome);
  Task<> RefuseStatus(Call& call, const absl::Status& status);
  Task<std::unique_ptr<UpstreamConnection>> Connect(Call& call, const Origin& origin,
                                                    std::string* error);
  Task<> RefuseReserve(Call& call, const enforcer::v1::Refused& refused);
  enforcer::v1::Reserve MakeReserve(const Call& call, const std::string& hold_id,
                                    absl::Duration wait) const;
  ledger::v1::Entry MakeIntent(const Call& call, const std::string& hold_id,
                               const enforcer::v1::Admitted& admitted) const;
  // Journals the end of an attempt, then has it settled. Returns the fields of the answer.
  HeaderList Conclude(Call& call, const ledger::v1::Entry& intent, const class Relay& relay,
                      int64_t tightest_remaining);
  // What an answer without final usage is taken to have cost: the provider's counts so far, if any,
  // and what was seen of its output; never nothing, never more than the bound.
  policy::UsageLines EstimateUsage(const Call& call, const class Relay& relay) const;
  void SubmitVoid(ledger::v1::Entry intent, std::string_view status);
  void LogCall(const Call& call);

  const Parts parts_;
};

}  // namespace tollhouse::edge
