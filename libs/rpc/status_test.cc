#include "libs/rpc/status.h"

#include <gtest/gtest.h>

#include "libs/base/error.h"

namespace tollhouse::rpc {
namespace {

TEST(StatusTest, ReasonAndMetadataCrossTheWire) {
  const absl::Status error =
      MakeError(absl::StatusCode::kFailedPrecondition, "EPOCH_MOVED", "epoch is 7", {{"epoch", "7"}});
  const absl::Status back = FromGrpc(ToGrpc(error));
  EXPECT_EQ(back.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(back.message(), "epoch is 7");
  EXPECT_EQ(ReasonOf(back), "EPOCH_MOVED");
  EXPECT_EQ(MetadataOf(back).at("epoch"), "7");
}

TEST(StatusTest, TextOfAnInternalErrorStaysInside) {
  EXPECT_EQ(ToGrpc(absl::InternalError("near \"SELECT\": syntax error")).error_message(),
            "internal error");
}

TEST(StatusTest, OkIsOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

}  // namespace
}  // namespace tollhouse::rpc
