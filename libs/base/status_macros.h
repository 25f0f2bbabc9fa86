// Early return on a failed absl::Status, the only two macros of the code base.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TH_RETURN_IF_ERROR(expr)                         \
  do {                                                   \
    if (::absl::Status th_status = (expr); !th_status.ok()) return th_status; \
  } while (false)

#define TH_CONCAT_INNER(a, b) a##b
#define TH_CONCAT(a, b) TH_CONCAT_INNER(a, b)

// TH_ASSIGN_OR_RETURN(auto value, Function());
#define TH_ASSIGN_OR_RETURN(lhs, expr)                                     \
  auto TH_CONCAT(th_result_, __LINE__) = (expr);                           \
  if (!TH_CONCAT(th_result_, __LINE__).ok()) return TH_CONCAT(th_result_, __LINE__).status(); \
  lhs = std::move(TH_CONCAT(th_result_, __LINE__)).value()
