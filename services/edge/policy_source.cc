#include "services/edge/policy_source.h"

#include "libs/rpc/watch_client.h"
#include "tollhouse/router/v1/router.grpc.pb.h"

namespace tollhouse::edge {

struct PolicySource::Impl {
  using Watch = rpc::WatchClient<router::v1::WatchRequest, router::v1::WatchResponse>;

  Impl(std::shared_ptr<grpc::ChannelInterface> channel, const std::string& edge_id,
       const Clock* clock)
      : stub(router::v1::RouterService::NewStub(channel)),
        watch(
            "edge/" + edge_id,
            [this](grpc::ClientContext* context, Watch::Reactor* reactor) {
              stub->async()->Watch(context, reactor);
            },
            [this](const router::v1::WatchResponse& response) {
              auto compiled = policy::Policy::Compile(response.policy());
              absl::MutexLock lock(&mutex);
              current = std::move(compiled);
            },
            clock) {}

  const std::unique_ptr<router::v1::RouterService::Stub> stub;
  mutable absl::Mutex mutex;
  std::shared_ptr<const policy::Policy> current ABSL_GUARDED_BY(mutex);
  Watch watch;  // last: its callback uses the rest
};

PolicySource::PolicySource(std::shared_ptr<grpc::ChannelInterface> router,
                           const std::string& edge_id, const Clock* clock)
    : impl_(std::make_unique<Impl>(std::move(router), edge_id, clock)) {}

PolicySource::~PolicySource() { Stop(); }

void PolicySource::Start() { impl_->watch.Start(); }
void PolicySource::Stop() { impl_->watch.Stop(); }
bool PolicySource::WaitSynced(absl::Duration timeout) { return impl_->watch.WaitSynced(timeout); }

std::shared_ptr<const policy::Policy> PolicySource::Current() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->current;
}

}  // namespace tollhouse::edge
