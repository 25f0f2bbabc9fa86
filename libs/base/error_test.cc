#include "libs/base/error.h"

#include <gtest/gtest.h>

namespace tollhouse {
namespace {

TEST(ErrorTest, KeepsReasonAndMetadata) {
  const absl::Status error =
      MakeError(absl::StatusCode::kNotFound, "ACCOUNT_NOT_FOUND", "no such account", {{"path", "acme"}, {"x", ""}});
  EXPECT_EQ(error.message(), "no such account");
  EXPECT_EQ(ReasonOf(error), "ACCOUNT_NOT_FOUND");
  EXPECT_EQ(MetadataOf(error), (ErrorMetadata{{"path", "acme"}, {"x", ""}}));
}

TEST(ErrorTest, OtherStatusesHaveNoReason) {
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), "");
}

}  // namespace
}  // namespace tollhouse
