#include "libs/sql/for_caller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "libs/base/error.h"

namespace tollhouse::sql {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kText[] = "postgres: relation \"orgs\" at 10.0.0.7";

absl::Status Of(absl::StatusCode code, const char* reason) {
  return ForCaller(MakeError(code, reason, kText), "vault");
}

TEST(ForCallerTest, WhatMayPassIsUnavailableWithItsReasonAndWithoutTheDriversText) {
  for (const char* const reason : {"SQL_BUSY", "SQL_RETRY", "SQL_TIMEOUT", "SQL_UNAVAILABLE",
                                   "SQL_READ_ONLY", "SQL_COMMIT_UNKNOWN"}) {
    const absl::Status status = Of(absl::StatusCode::kUnavailable, reason);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << reason;
    EXPECT_EQ(ReasonOf(status), reason);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the vault's database ")) << reason;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("postgres"))) << reason;
  }
  EXPECT_THAT(std::string(Of(absl::StatusCode::kUnavailable, "SQL_COMMIT_UNKNOWN").message()),
              HasSubstr("counts once"));
}

TEST(ForCallerTest, AFullDiskIsUnavailableAndSaysSo) {
  const absl::Status status = Of(absl::StatusCode::kResourceExhausted, "SQL_FULL");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "SQL_FULL");
  EXPECT_EQ(status.message(), "the vault's disk is full or failing; nothing was changed");
}

TEST(ForCallerTest, WhatNoCallerCanMendIsInternal) {
  for (const absl::Status& status :
       {Of(absl::StatusCode::kInternal, "SQL_FAILED"),
        Of(absl::StatusCode::kAlreadyExists, "SQL_CONSTRAINT_UNIQUE"),
        Of(absl::StatusCode::kFailedPrecondition, "SQL_CONSTRAINT")}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(status.message(), "the vault's store failed; its log says how");
    EXPECT_EQ(ReasonOf(status), "STORE_FAILED");
  }
}

TEST(ForCallerTest, ErrorsOfTheServiceItselfPass) {
  const absl::Status own = MakeError(absl::StatusCode::kNotFound, "BUDGET_NOT_FOUND", "no budget");
  EXPECT_EQ(ForCaller(own, "ledger"), own);
  EXPECT_EQ(ReasonOf(ForCaller(own, "ledger")), "BUDGET_NOT_FOUND");
  EXPECT_TRUE(ForCaller(absl::OkStatus(), "ledger").ok());
}

}  // namespace
}  // namespace tollhouse::sql
