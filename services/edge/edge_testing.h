// The services around an edge, for its tests.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/app.h"
#include "services/edge/wire_testing.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::edge {

// Enforcer, ledger, router and vault in one gRPC server, each as small as the edge needs it.
class FakeServices {
 public:
  FakeServices();
  ~FakeServices();

  Channels channels();

  // One budget over everything.
  void SetBudget(int64_t nanousd);
  int64_t spent() const;
  int64_t held() const;
  void SetEpoch(int64_t epoch);  // of later admissions
  void RefuseNext(enforcer::v1::Refused refused);
  // The next Reserve makes its hold and fails all the same: the store's answer was lost.
  void LoseNextHold();
  void MuteEnforcer(bool mute);  // operations are taken and never answered
  void CutWatches();             // for good
  int refreshes() const;
  void WaitRefreshes(int count);
  void BreakStreams();           // ends those of operations and entries; edges connect again
  void MutePost(bool mute);      // likewise entries
  std::vector<enforcer::v1::Reserve> reserves() const;

  // What the ledger's journal says of a hold; waits up to ten seconds for an entry to be there.
  std::vector<ledger::v1::Entry> WaitEntries(size_t count);
  // The newest entry of a request; waits as long for it.
  std::optional<ledger::v1::Entry> WaitEntry(const std::string& request_id);
  std::vector<ledger::v1::AnnounceHoldsRequest> WaitAnnouncements(size_t count);
  void WaitReserves(size_t count);
  // The number of acknowledged holds, once it is `count`.
  bool WaitAcknowledged(size_t count);
  void PublishEpoch(int64_t epoch);
  void SetPendingAnnouncement(int64_t epoch);
  // What the ledger says expired without a word from the edge.
  void SetExpired(std::vector<ledger::v1::Entry> holds);
  // The ledger's database falls back to one without any entry. With `tell` the watches say so at
  // once, else only to those that connect anew.
  void LoseEntries(int64_t replay_generation, bool tell);

  // A valid key of acme/payments/laptop; `edit` may change its record.
  std::string AddKey(const std::function<void(vault::v1::KeyRecord*)>& edit = [](auto*) {});
  void RevokeKey(const std::string& key_text);
  void SetAccount(const std::function<void(ledger::v1::ResolveAccountResponse*)>& edit);
  int lookups() const;
  void WaitLookups(int count);
  // Of every provider, instead of its usual one.
  void SetCredentials(vault::v1::GetCredentialResponse credentials);
  // When a key was last used, as the edge reported it; waits up to ten seconds. -1: it was not.
  int64_t WaitUse(const std::string& key_text);
  // Ends the vault's watches once; edges connect again and get a snapshot.
  void RestartVaultWatches();

  router::v1::PolicySnapshot policy;  // set before the edge starts

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
