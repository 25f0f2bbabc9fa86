#include "libs/policy/base_url.h"

#include "gtest/gtest.h"
#include "libs/base/error.h"

namespace tollhouse::policy {
namespace {

TEST(BaseUrlTest, TakesUrlsApart) {
  auto url = ParseBaseUrl("https://API.OpenAI.com/v1/");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->Origin(), "https://api.openai.com:443");
  EXPECT_EQ(url->path, "/v1");
  EXPECT_EQ(url->ToString(), "https://api.openai.com/v1");
  EXPECT_EQ(ParseBaseUrl("http://127.0.0.1:8181")->Origin(), "http://127.0.0.1:8181");
  EXPECT_EQ(ParseBaseUrl("http://[::1]:8181/a/b")->Origin(), "http://[::1]:8181");
  EXPECT_EQ(ParseBaseUrl("https://[2001:db8::1]")->port, 443);
  EXPECT_EQ(ParseBaseUrl("https://h:443/x")->ToString(), "https://h/x");
}

TEST(BaseUrlTest, RefusesWhatIsNotAPlainAbsoluteUrl) {
  for (const char* url :
       {"", "api.openai.com", "ftp://h", "https://", "https:///v1", "https://u:p@h/v1",
        "https://h?key=1", "https://h/v1#f", "https://h:0", "https://h:65536", "https://h:", "https://h:8a",
        "https://h/ v1", "https://h\\v1", "https://[::1", "https://[zz]", "https://[::1]x", "https://h/a/../b",
        "https://h//b", "https://h%2e/x", "https://h/\n", "https://h\xc3\xa4"}) {
    const auto parsed = ParseBaseUrl(url);
    EXPECT_EQ(ReasonOf(parsed.status()), "BAD_URL") << url;
  }
}

TEST(BaseUrlTest, ErrorsDoNotRepeatTheUrl) {
  EXPECT_EQ(ParseBaseUrl("https://user:hunter2@h").status().ToString().find("hunter2"),
            std::string::npos);
}

TEST(BaseUrlTest, KnowsPrivateLiterals) {
  for (const char* host : {"localhost", "a.localhost", "127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1",
                           "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::1]", "[fc00::1]",
                           "[fe80::1]", "[::ffff:10.0.0.1]", "[::]"}) {
    EXPECT_TRUE(IsPrivateHost(host)) << host;
  }
  for (const char* host : {"api.openai.com", "8.8.8.8", "172.32.0.1", "100.128.0.1", "[2001:db8::1]",
                           "[::ffff:8.8.8.8]", "10.example.com"}) {
    EXPECT_FALSE(IsPrivateHost(host)) << host;
  }
}

}  // namespace
}  // namespace tollhouse::policy
