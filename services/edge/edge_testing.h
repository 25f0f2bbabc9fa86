// The world around an edge, for its tests: the four services, a provider, a caller with a socket.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/app.h"
#include "tollhouse/enforcer/v1/enforcer.pb.h"
#include "tollhouse/ledger/v1/ledger.pb.h"
#include "tollhouse/router/v1/router.pb.h"
#include "tollhouse/vault/v1/vault.pb.h"

namespace tollhouse::edge {

// A TCP connection with deadlines, for callers and for the provider's side.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  static std::unique_ptr<Wire> Dial(int port);
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void Send(std::string_view bytes);
  // One HTTP message: head and whole body (chunks joined); "" if the connection ended first.
  struct Message {
    std::string head;  // with start line, without the empty line
    std::string body;
    bool whole = false;  // the body came to its end by its own framing
    int status = 0;      // of an answer
    std::string Header(std::string_view name) const;
  };
  Message Read();
  // Bytes until `text` has been seen or the connection ended.
  std::string ReadUntil(std::string_view text);
  // Whether the other side closes (now or within ten seconds).
  bool WaitClosed();
  void Close();
  // Closes so that the other side's writes fail at once.
  void Reset();

 private:
  bool More();

  int fd_;
  std::string buffer_;
};

// A scripted provider on a port of its own.
class TestProvider {
 public:
  // Called per request, on its connection's thread; the connection is closed after it returns false.
  using Script = std::function<bool(const Wire::Message& request, Wire& wire)>;

  explicit TestProvider(Script script);
  ~TestProvider();

  int port() const { return port_; }
  std::vector<Wire::Message> requests() const;
  int connections() const { return accepted_; }
  void SetScript(Script script);

 private:
  void Serve();

  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> accepted_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  mutable absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  std::vector<Wire::Message> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> serving_ ABSL_GUARDED_BY(mutex_);
  std::vector<Wire*> open_ ABSL_GUARDED_BY(mutex_);
};

std::string HttpAnswer(int status, std::string_view body,
                       std::string_view content_type = "application/json");
// The head of an SSE answer with chunked framing, and one chunk of it; "" is the last.
std::string SseHead();
std::string Chunk(std::string_view data);

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
  void MuteEnforcer(bool mute);  // operations are taken and never answered
  void BreakSessions();          // ends the streams of operations; edges connect again
  void MutePost(bool mute);      // likewise entries
  std::vector<enforcer::v1::Reserve> reserves() const;

  // What the ledger's journal says of a hold; waits up to ten seconds for an entry to be there.
  std::vector<ledger::v1::Entry> WaitEntries(size_t count);
  std::vector<ledger::v1::AnnounceHoldsRequest> WaitAnnouncements(size_t count);
  void WaitReserves(size_t count);
  // The number of acknowledged holds, once it is `count`.
  bool WaitAcknowledged(size_t count);
  void PublishEpoch(int64_t epoch);
  void SetPendingAnnouncement(int64_t epoch);

  // A valid key of acme/payments/laptop; `edit` may change its record.
  std::string AddKey(const std::function<void(vault::v1::KeyRecord*)>& edit = [](auto*) {});
  void RevokeKey(const std::string& key_text);
  void SetAccount(const std::function<void(ledger::v1::ResolveAccountResponse*)>& edit);
  int lookups() const;

  router::v1::PolicySnapshot policy;  // set before the edge starts

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tollhouse::edge
