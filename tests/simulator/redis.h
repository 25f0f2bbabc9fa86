// Redis as the enforcers meet it: processes that lead, follow, restart, forget and lie, around the
// real hold state machine; and each enforcer's client of it.
#pragma once

#include <any>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "services/budget-enforcer/store/hold_store.h"
#include "tests/simulator/mutants.h"
#include "tests/simulator/network.h"

namespace tollhouse::simulator {

// What a store keeps of one org.
struct OrgData {
  explicit OrgData(enforcer::CoreOptions options) : state(options) {}
  enforcer::OrgState state;
  std::string life;    // random marker: gone when the data are gone
  std::string replid;  // master_replid when the epoch was initialized
  int64_t ghosts = 0;  // made-up grants of a mutant: ids shift by as many
  std::set<Uuid> remade;  // holds that a mutant made again after their end, each under Twin of its id
};
// The other one of two ids; edges make only the first of each pair.
inline Uuid Twin(Uuid hold_id) {
  hold_id.bytes[15] ^= 1;
  return hold_id;
}
// A hold of the store as ledger and edges know it.
inline Uuid KnownAs(const OrgData& data, const Uuid& hold_id) {
  return data.remade.contains(Twin(hold_id)) ? Twin(hold_id) : hold_id;
}

using RedisData = std::map<int64_t, OrgData>;

struct RedisNode {
  Actor* actor = nullptr;
  std::string run_id, replid;
  bool leads = false;      // takes writes: the primary, and every zombie
  bool apply_slowly = false;  // answers come after the clients' patience
  bool repeats = false;       // what has run may run again, seconds later
  RedisData data;
};

class SimRedis {
 public:
  SimRedis(Runtime* runtime, enforcer::CoreOptions options, Mutant mutant);

  RedisNode& primary() { return *nodes_[primary_]; }
  const std::vector<std::unique_ptr<RedisNode>>& nodes() const { return nodes_; }

  // The replica has everything up to now.
  void Replicate() { replica_ = primary().data; }
  void Flush();
  // The replica leads, with what it has; the old primary lives on if `zombie`.
  void Failover(bool zombie);
  // An old process follows the primary, then leads again: its run_id is known, its data are the replica's.
  bool Failback();
  // The primary restarts from what was on disk (the replica's data).
  void Restart();
  void KillZombies();

  // The script of one batch, as it runs at the node. FAILED_PRECONDITION (INCARNATION_CHANGED).
  absl::Status Execute(RedisNode& node, int enforcer, const enforcer::StoreBatch& batch,
                       std::vector<enforcer::StoreEffect>* effects);
  absl::StatusOr<enforcer::StoreView> Read(RedisNode& node, int64_t org_id,
                                           const enforcer::StoreQuery& query);
  std::string Identify(RedisNode& node, int64_t org_id);

  // The data of this identity, nullptr if no process has them now.
  OrgData* Find(int64_t org_id, const std::string& identity);
  // Counts every script that may have changed something.
  int64_t changes() const { return changes_; }
  // Scripts that will run once more.
  int64_t repeats() const { return repeats_; }

 private:
  friend class RedisClient;
  OrgData& DataOf(RedisNode& node, int64_t org_id);
  std::string IdentityOf(const RedisNode& node, const OrgData& data) const;
  std::string NewId(std::string_view kind);
  enforcer::StoreEffect Apply(RedisNode& node, OrgData& data, int enforcer, bool same,
                              enforcer::StoreEvent event);
  // Makes lease out of nothing.
  static void Conjure(OrgData& data, int64_t budget_id, std::string_view period, int64_t nanos);

  Runtime* const runtime_;
  const enforcer::CoreOptions options_;
  const Mutant mutant_;
  std::vector<std::unique_ptr<RedisNode>> nodes_;
  size_t primary_ = 0;
  RedisData replica_;
  int64_t next_id_ = 0;
  int64_t changes_ = 0;
  int64_t repeats_ = 0;
};

// One enforcer's connection. Dies with it.
class RedisClient final : public enforcer::HoldStore {
 public:
  RedisClient(Runtime* runtime, Network* network, SimRedis* redis, Actor* actor, int index);

  void Identify(int64_t org_id, std::function<void(absl::StatusOr<std::string>)> done) override;
  void SetIncarnationChanged(std::function<void()> changed) override { changed_ = std::move(changed); }
  int64_t max_lease_nanos() const override { return int64_t{1} << 53; }
  bool shared() const override { return true; }
  void Run(enforcer::StoreBatch* batch, std::function<void()> done) override;
  void Read(int64_t org_id, const enforcer::StoreQuery& query,
            std::function<void(absl::StatusOr<enforcer::StoreView>)> done) override;

  // Where it looks for the primary next time: an old address (a zombie) rather than the right one.
  void SetStale(bool stale) { stale_ = stale; }
  // Looks for the primary again.
  void Reconnect();
  // The process ends: whoever waits hears nothing any more.
  void Clear();

 private:
  // What comes back: the effects with their status, a view, an identity.
  using Result = std::any;
  using Waiter = std::function<void(absl::StatusOr<Result>)>;
  // Sends `execute`; `done` gets what it returned, or why there is no answer.
  void Send(std::function<Result(RedisNode&)> execute, Waiter done);
  void Connect();
  void Broken();

  Runtime* const runtime_;
  Network* const network_;
  SimRedis* const redis_;
  Actor* const actor_;
  const int index_;
  std::function<void()> changed_;
  std::shared_ptr<Stream> stream_;
  RedisNode* node_ = nullptr;
  bool connecting_ = false;
  bool stale_ = false;
  int64_t next_call_ = 0;
  std::map<int64_t, Waiter> waiting_;  // by call
};

}  // namespace tollhouse::simulator
