// Early return on a failed absl::Status, the only two macros of the code base.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Names are made with __COUNTER__, so that both nest in lambdas within their own arguments.
#define TH_RETURN_IF_ERROR(expr) TH_RETURN_IF_ERROR_AS(TH_CONCAT(th_status_, __COUNTER__), expr)
#define TH_RETURN_IF_ERROR_AS(status, expr)                         \
  do {                                                              \
    if (::absl::Status status = (expr); !status.ok()) return status; \
  } while (false)

#define TH_CONCAT_INNER(a, b) a##b
#define TH_CONCAT(a, b) TH_CONCAT_INNER(a, b)

// TH_ASSIGN_OR_RETURN(auto value, Function());
#define TH_ASSIGN_OR_RETURN(lhs, expr) \
  TH_ASSIGN_OR_RETURN_AS(TH_CONCAT(th_result_, __COUNTER__), lhs, expr)
#define TH_ASSIGN_OR_RETURN_AS(result, lhs, expr) \
  auto result = (expr);                           \
  if (!result.ok()) return result.status();       \
  lhs = std::move(result).value()
