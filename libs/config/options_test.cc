#include "libs/config/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "libs/testing/temp_dir.h"

namespace tollhouse::config {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    options_.Add("edge-listen", &listen_, "address");
    options_.Add("threads", &threads_, "count");
    options_.Add("wait", &wait_, "how long");
    options_.Add("verbose", &verbose_, "say more");
    options_.Add("api-secret", &secret_, "secret", true);
  }
  ~OptionsTest() override {
    unsetenv("TOLLHOUSE_THREADS");
    unsetenv("TOLLHOUSE_API_SECRET");
  }

  absl::StatusOr<Options::Outcome> Parse(std::vector<const char*> args) {
    args.insert(args.begin(), "program");
    return options_.Parse(static_cast<int>(args.size()), args.data());
  }
  std::string WriteFile(const std::string& text) {
    std::ofstream(dir_.File("c.yaml")) << text;
    return dir_.File("c.yaml");
  }

  testing::TempDir dir_;
  std::string listen_ = "127.0.0.1:8080", secret_;
  int64_t threads_ = 2;
  absl::Duration wait_ = absl::Seconds(1);
  bool verbose_ = false;
  Options options_{"program", "does things", ""};
};

TEST_F(OptionsTest, FlagWinsOverEnvironmentOverFileOverDefault) {
  const std::string file = WriteFile("threads: 3\nedge_listen: 'file:1'\nwait: 5s\n");
  setenv("TOLLHOUSE_THREADS", "4", 1);
  ASSERT_TRUE(Parse({"--config", file.c_str(), "--edge-listen=flag:1", "--verbose"}).ok());
  EXPECT_EQ(listen_, "flag:1");
  EXPECT_EQ(threads_, 4);
  EXPECT_EQ(wait_, absl::Seconds(5));
  EXPECT_TRUE(verbose_);
}

TEST_F(OptionsTest, MistakesAreNamedWithTheirPlace) {
  const std::string file = WriteFile("threads: 3\nedge_listn: x\n");
  EXPECT_THAT(Parse({"--config", file.c_str()}).status().message(), HasSubstr(":2: edge_listn: unknown key"));
  EXPECT_THAT(Parse({"--threads", "many"}).status().message(), HasSubstr("--threads: not a whole number"));
  EXPECT_THAT(Parse({"--nope"}).status().message(), HasSubstr("unknown argument --nope"));
  EXPECT_FALSE(Parse({"--threads"}).ok());
  EXPECT_FALSE(Parse({"--config", "/does/not/exist"}).ok());
}

TEST_F(OptionsTest, SecretsAreNoFlagsAndAreRedacted) {
  EXPECT_FALSE(Parse({"--api-secret", "s3cret"}).ok());
  setenv("TOLLHOUSE_API_SECRET", "s3cret", 1);
  ASSERT_EQ(*Parse({"--print-config"}), Options::Outcome::kExitOk);
  EXPECT_EQ(secret_, "s3cret");
  EXPECT_THAT(options_.output(), HasSubstr("(redacted)"));
  EXPECT_THAT(options_.output(), Not(HasSubstr("s3cret")));
}

}  // namespace
}  // namespace tollhouse::config
