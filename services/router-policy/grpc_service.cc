#include "services/router-policy/grpc_service.h"

#include <grpcpp/server_context.h>

#include <limits>
#include <utility>
#include <vector>

#include "libs/audit/admin_calls.h"
#include "libs/base/status_macros.h"
#include "libs/rpc/replicated_watch.h"
#include "libs/sql/for_caller.h"
#include "services/router-policy/catalog.h"
#include "tollhouse/router/v1/router.grpc.pb.h"
#include "tollhouse/router/v1/router_admin.grpc.pb.h"

namespace tollhouse::router {
namespace {

using PolicyWatch = rpc::ReplicatedWatch<v1::WatchRequest, v1::WatchResponse>;

v1::WatchResponse ToResponse(const policy::Policy& policy) {
  v1::WatchResponse response;
  *response.mutable_policy() = policy.snapshot();
  return response;
}

class RouterServiceImpl final
    : public v1::RouterService::WithCallbackMethod_Watch<v1::RouterService::Service> {
 public:
  explicit RouterServiceImpl(PolicyWatch* watch) : watch_(watch) {}

  grpc::ServerBidiReactor<v1::WatchRequest, v1::WatchResponse>* Watch(
      grpc::CallbackServerContext* context) override {
    return watch_->Serve(context);
  }

 private:
  PolicyWatch* const watch_;
};

class RouterAdminServiceImpl final : public v1::RouterAdminService::Service {
 public:
  RouterAdminServiceImpl(Catalog* catalog, PolicyWatch* watch,
                         const rpc::Authenticator* authenticator, audit::Log* log,
                         const Clock* clock, absl::Duration acknowledge_timeout)
      : catalog_(catalog),
        watch_(watch),
        log_(log),
        calls_(authenticator, log, "router"),
        clock_(clock),
        acknowledge_timeout_(acknowledge_timeout) {}

  grpc::Status SetProvider(grpc::ServerContext* context, const v1::SetProviderRequest* request,
                           v1::SetProviderResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(Catalog::ProviderChange change,
                          catalog_->SetProvider(&call, request->provider()));
      *response->mutable_provider() = std::move(change.provider);
      response->set_created(change.created);
      AwaitEdges(change.version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status ListProviders(grpc::ServerContext* context, const v1::ListProvidersRequest* request,
                             v1::ListProvidersResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) {
      const auto policy = catalog_->policy();
      for (const v1::Provider* provider : policy->providers()) {
        *response->add_providers() = *provider;
      }
      return absl::OkStatus();
    });
  }

  grpc::Status DeleteProvider(grpc::ServerContext* context,
                              const v1::DeleteProviderRequest* request,
                              v1::DeleteProviderResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const int64_t version, catalog_->DeleteProvider(&call, request->name()));
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) {
      for (auto& model : catalog_->ListModels(request->provider(), clock_->Wall())) {
        *response->add_models() = std::move(model);
      }
      return absl::OkStatus();
    });
  }

  grpc::Status ListPrices(grpc::ServerContext* context, const v1::ListPricesRequest* request,
                          v1::ListPricesResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) {
      for (auto& price : catalog_->ListPrices(*request, clock_->Wall())) {
        *response->add_prices() = std::move(price);
      }
      response->set_price_book_version(catalog_->policy()->price_book_version());
      return absl::OkStatus();
    });
  }

  grpc::Status ImportPrices(grpc::ServerContext* context, const v1::ImportPricesRequest* request,
                            v1::ImportPricesResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(
          const Catalog::PriceChange change,
          catalog_->ImportPrices(&call, {request->prices().begin(), request->prices().end()},
                                 request->dry_run()));
      response->set_added(change.added);
      response->set_changed(change.changed);
      response->set_unchanged(change.unchanged);
      response->set_price_book_version(change.price_book_version);
      if (change.version > 0) AwaitEdges(change.version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status SetAlias(grpc::ServerContext* context, const v1::SetAliasRequest* request,
                        v1::SetAliasResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const int64_t version,
                          catalog_->SetAlias(&call, request->alias(), request->remove()));
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status ListAliases(grpc::ServerContext* context, const v1::ListAliasesRequest* request,
                           v1::ListAliasesResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) {
      const auto policy = catalog_->policy();
      *response->mutable_aliases() = policy->snapshot().aliases();
      response->set_ceiling_input_nanousd_per_mtok(
          policy->snapshot().ceiling_input_nanousd_per_mtok());
      response->set_ceiling_output_nanousd_per_mtok(
          policy->snapshot().ceiling_output_nanousd_per_mtok());
      return absl::OkStatus();
    });
  }

  grpc::Status SetCeiling(grpc::ServerContext* context, const v1::SetCeilingRequest* request,
                          v1::SetCeilingResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(const int64_t version,
                          catalog_->SetCeiling(&call, {request->input_nanousd_per_mtok(),
                                                       request->output_nanousd_per_mtok()}));
      AwaitEdges(version, response);
      return absl::OkStatus();
    });
  }

  grpc::Status ExplainRoute(grpc::ServerContext* context, const v1::ExplainRouteRequest* request,
                            v1::ExplainRouteResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response, catalog_->ExplainRoute(*request, clock_->Wall()));
      return absl::OkStatus();
    });
  }

  grpc::Status ListAuditEvents(grpc::ServerContext* context,
                               const v1::ListAuditEventsRequest* request,
                               v1::ListAuditEventsResponse* response) override {
    return Answer(context, *request, [&](audit::Call& call) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_page(),
                          log_->List(request->query(), call.caller().subtree));
      return absl::OkStatus();
    });
  }

  grpc::Status VerifyAudit(grpc::ServerContext* context, const v1::VerifyAuditRequest* request,
                           v1::VerifyAuditResponse* response) override {
    return Answer(context, *request, [&](audit::Call&) -> absl::Status {
      TH_ASSIGN_OR_RETURN(*response->mutable_report(), log_->Verify(request->expected()));
      return absl::OkStatus();
    });
  }

 private:
  grpc::Status Answer(const grpc::ServerContext* context, const google::protobuf::Message& request,
                      audit::AdminCalls::Body body) {
    return calls_.Answer(*context, request, body);
  }

  template <typename Response>
  void AwaitEdges(int64_t version, Response* response) {
    for (std::string& name : watch_->WaitAcknowledged(version, acknowledge_timeout_)) {
      response->add_stragglers(std::move(name));
    }
  }

  Catalog* const catalog_;
  PolicyWatch* const watch_;
  audit::Log* const log_;
  const audit::AdminCalls calls_;
  const Clock* const clock_;
  const absl::Duration acknowledge_timeout_;
};

class ServicesImpl final : public Services {
 public:
  ServicesImpl(std::unique_ptr<PolicyWatch> watch, Catalog* catalog,
               const rpc::Authenticator* authenticator, audit::Log* log, const Clock* clock,
               absl::Duration acknowledge_timeout)
      : watch_(std::move(watch)),
        router_(watch_.get()),
        admin_(catalog, watch_.get(), authenticator, log, clock, acknowledge_timeout) {}

  grpc::Service* router() override { return &router_; }
  grpc::Service* admin() override { return &admin_; }
  void Shutdown() override { watch_->Shutdown(); }

 private:
  const std::unique_ptr<PolicyWatch> watch_;
  RouterServiceImpl router_;
  RouterAdminServiceImpl admin_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Services>> MakeServices(Catalog* catalog,
                                                       const rpc::Authenticator* authenticator,
                                                       audit::Log* log, const Clock* clock,
                                                       absl::Duration acknowledge_timeout,
                                                       sql::ChangeFeedOptions changes) {
  TH_ASSIGN_OR_RETURN(
      std::unique_ptr<PolicyWatch> watch,
      PolicyWatch::Start(
          std::move(changes), [catalog] { return ToResponse(*catalog->policy()); },
          [catalog](int64_t version, std::string_view) -> absl::StatusOr<v1::WatchResponse> {
            TH_ASSIGN_OR_RETURN(const auto policy, catalog->PolicyAt(version));
            return ToResponse(*policy);
          }));
  return std::make_unique<ServicesImpl>(std::move(watch), catalog, authenticator, log, clock,
                                        acknowledge_timeout);
}

}  // namespace tollhouse::router
