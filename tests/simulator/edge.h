// One edge: the real journal, settlements and announcements, and around them an actor that follows
// the gateway's rules for a request without HTTP. What it calls the provider is a meter of its own.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/budget-enforcer/enforcer.h"
#include "services/edge/announcements.h"
#include "services/edge/journal.h"
#include "services/edge/settlements.h"
#include "tests/simulator/ledger.h"

namespace tollhouse::simulator {

// What the provider does with a request.
enum class Behaviour {
  kAnswer,
  kRefuse,         // a status >= 400, not billed
  kNoAnswer,       // billed, but no answer ever comes
  kNeverArrived,   // neither billed nor answered
  kNotSent,        // the connection fails before the first byte
  kBroken,         // billed, the answer breaks off without usage
  kBrokenFinal,    // billed, the answer breaks off after its usage
  kAboveHold,      // billed above the hold
};

// One request of a client.
struct Demand {
  int64_t at = 0;
  int edge = 0;
  int key = 0;         // of the world's keys
  std::string use_case;  // a tag, or ""
  std::string model;
  int64_t strict_nanos = 0, tight_nanos = 0;
  int64_t bill_nanos = 0;
  Behaviour behaviour = Behaviour::kAnswer;
  int64_t duration = 0;
  int64_t connect_time = 0;
  int64_t wait_ms = 0;
  bool probe = false;  // of the last phase: its answer is checked
};

// How a request ended for its caller.
struct Answer {
  enum class Kind { kServed, kRefused, kUnavailable };
  Kind kind = Kind::kUnavailable;
  std::string reason;                // kUnavailable
  enforcer::v1::Refused refused;     // kRefused
};

// Who watches: the world's oracle.
class Observer {
 public:
  virtual ~Observer() = default;
  // The first byte is about to leave.
  virtual void Forwarded(const ledger::v1::Entry& intent, const Demand& demand, int edge) = 0;
  // The provider will bill after that time.
  virtual void WillBill(const std::string& hold_id, int64_t nanos, int64_t delay) = 0;
  // The end of a forwarded hold is in its edge's journal.
  virtual void Written(const std::string& hold_id) = 0;
  virtual void Answered(const Demand& demand, const Answer& answer) = 0;
  virtual void Violation(std::string what) = 0;
};

class SimEnforcer;

struct EdgeOptions {
  int64_t time_to_live = 20 * kSecond;
  int64_t reserve_timeout = 2 * kSecond;
  int64_t first_byte_time = 8 * kSecond;
  int64_t backlog_max = 1000;
  int64_t expired_interval = 10 * kSecond;
};

class Edge {
 public:
  struct World {
    Runtime* runtime;
    Network* network;
    SimLedger* ledger;
    std::vector<std::unique_ptr<SimEnforcer>>* enforcers;
    const std::vector<int64_t>* keys;  // account ids
    Observer* observer;
    std::string dir;
    Mutant mutant;
  };

  Edge(const World& world, EdgeOptions options, int index);
  ~Edge();

  Actor* actor() const { return actor_; }
  bool lost() const { return lost_; }
  bool serving() const { return serving_; }
  const std::string& edge_id() const { return edge_id_; }
  const std::string& boot_id() const { return boot_id_; }

  void Arrive(const Demand& demand);

  void Boot();
  // SIGKILL; the machine lives on.
  void Kill();
  // The machine dies: what was written last is not on disk.
  void PowerLoss();
  // From here on the journal's sizes need not be known.
  void NoMorePowerLoss() { power_may_fail_ = false; }
  // The volume is gone, too.
  void Lose();

  // Nothing is under way: no request, no settlement, no operation without an answer.
  std::string Busy() const;

 private:
  struct Request;
  struct Pending {
    enforcer::v1::Operation operation;
    std::function<void(enforcer::v1::OperationResult)> waiter;  // null: nobody waits
    int64_t since = 0;
    bool twisted = false;  // asks for a hold that is in use, with other content
  };
  struct Sink;

  void TryReserve(const std::shared_ptr<Request>& request);
  void Reserved(const std::shared_ptr<Request>& request, const enforcer::v1::OperationResult& result);
  void Admitted(const std::shared_ptr<Request>& request);
  void Forward(const std::shared_ptr<Request>& request);
  void Conclude(const std::shared_ptr<Request>& request, ledger::v1::EntryKind kind, int64_t cost,
                const char* status);
  void Write(const std::shared_ptr<Request>& request, const ledger::v1::Entry& result);
  void Finish(const std::shared_ptr<Request>& request, Answer answer);
  void SubmitVoid(ledger::v1::Entry entry);
  void VoidOrphan(const enforcer::v1::Reserve& asked, const enforcer::v1::OperationResult& result);
  void Submit(std::shared_ptr<const ledger::v1::Entry> entry);
  std::string NewHoldId();

  uint64_t Enqueue(enforcer::v1::Operation operation,
                   std::function<void(enforcer::v1::OperationResult)> waiter);
  void ConnectSession();
  void SendOperations(std::vector<enforcer::v1::Operation> operations);
  void Results(std::vector<enforcer::v1::OperationResult> results);
  void ConnectPost();
  void PumpPost();
  void ConnectWatch();
  void Announce();
  void AnnounceNext(std::shared_ptr<edge::Announcements::Work> work,
                    std::shared_ptr<std::vector<ledger::v1::Epoch>> closed, size_t next);
  void Tick();
  void Stop();
  std::string JournalDir() const;

  const World world_;
  Runtime* const runtime_;
  const EdgeOptions options_;
  const int index_;
  Actor* const actor_;
  const std::unique_ptr<ActorClock> clock_;
  std::string edge_id_, boot_id_, machine_;
  int boots_ = 0, machines_ = 0;
  int64_t next_hold_ = 0;
  bool lost_ = false;
  bool power_may_fail_ = true;
  std::vector<std::pair<int64_t, int64_t>> sizes_;  // of the journal, by time

  // Of this life.
  std::unique_ptr<edge::Journal> journal_;
  std::unique_ptr<edge::Settlements> settlements_;
  std::unique_ptr<edge::Announcements> announcements_;
  bool serving_ = false, synced_ = false, announcing_ = false;
  std::shared_ptr<Stream> session_, post_, watch_;
  int64_t look_at_ = 0;  // for expired holds
  std::map<uint64_t, Pending> pending_;
  uint64_t next_sequence_ = 1;
  struct Principal {
    std::vector<int64_t> account_ids;
    std::string path;
    bool require_budget = false;
  };
  std::map<int, Principal> principals_;  // by key
  uint64_t generation_ = 0;
  std::map<std::string, std::shared_ptr<Request>> active_;  // forwarded, by hold
  int open_requests_ = 0;  // without an answer to the caller
};

// One enforcer process.
class SimEnforcer {
 public:
  SimEnforcer(Runtime* runtime, Network* network, class SimRedis* redis, SimLedger* ledger, int index,
              enforcer::EnforcerOptions options, int64_t tick, Mutant mutant);
  ~SimEnforcer();

  Actor* actor() const { return actor_; }
  class RedisClient* redis() { return redis_client_.get(); }
  enforcer::Enforcer* enforcer() { return enforcer_.get(); }

  void Boot();
  void Kill();
  // SIGTERM: gives its lease back, then ends.
  void Shutdown();
  void SetTick(int64_t tick) { tick_ = tick; }
  bool draining() const { return draining_; }

 private:
  void ConnectWatch();
  void ApplyChanges();
  void Tick();

  Runtime* const runtime_;
  Network* const network_;
  class SimRedis* const redis_;
  SimLedger* const ledger_;
  const int index_;
  const enforcer::EnforcerOptions options_;
  const Mutant mutant_;
  int64_t tick_;
  Actor* const actor_;
  const std::unique_ptr<ActorClock> clock_;
  int boots_ = 0;
  bool draining_ = false;
  std::unique_ptr<class RedisClient> redis_client_;
  std::unique_ptr<SimLedgerClient> ledger_client_;
  std::unique_ptr<enforcer::Enforcer> enforcer_;
  std::shared_ptr<Stream> watch_;
  std::deque<ledger::v1::WatchResponse> changes_;  // that wait
  bool applying_ = false;
};

}  // namespace tollhouse::simulator
