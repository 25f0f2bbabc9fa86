#include "libs/http/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/http/address.h"
#include "libs/testing/http_listener.h"

namespace tollhouse::http {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(IsPublicAddress, SpecialRangesAreNot) {
  for (const char* address :
       {"0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1",
        "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fc00::1", "fdff::1", "fe80::1", "febf::1", "ff02::1",
        "2001:db8::1", "2001::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1",
        "2002:7f00:1::1", "100::1", "localhost", "", "1.2.3"}) {
    EXPECT_FALSE(IsPublicAddress(address)) << address;
  }
}

TEST(IsPublicAddress, TheInternetIs) {
  for (const char* address : {"1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.0",
                              "126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.0",
                              "192.167.255.255", "192.169.0.0", "223.255.255.255", "2606:4700::1111",
                              "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"}) {
    EXPECT_TRUE(IsPublicAddress(address)) << address;
  }
}

TEST(Send, PostsBodyAndHeadersAndReadsTheAnswer) {
  testing::HttpListener server;
  server.QueueAnswer("HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
  const auto response = Send({.method = "POST",
                              .url = server.Url("/hook"),
                              .headers = {{"x-test", "1"}, {"content-type", "application/json"}},
                              .body = "{}"},
                             {.allow_private = true});
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 202);
  EXPECT_EQ(response->body, "hello");
  const auto received = server.received();
  ASSERT_EQ(received.size(), 1u);
  EXPECT_THAT(received[0].head, HasSubstr("POST /hook HTTP/1.1\r\n"));
  EXPECT_THAT(received[0].head, HasSubstr("x-test: 1\r\n"));
  EXPECT_EQ(received[0].body, "{}");
}

TEST(Send, RefusesPrivateAddressesWhenConnecting) {
  testing::HttpListener server;
  for (const std::string& url :
       {server.Url("/"), absl::StrCat("http://localhost:", server.port(), "/"),
        absl::StrCat("http://[::ffff:127.0.0.1]:", server.port(), "/"),
        absl::StrCat("http://2130706433:", server.port(), "/")}) {
    const auto response = Send({.url = url}, {});
    EXPECT_EQ(ReasonOf(response.status()), "HTTP_PRIVATE_ADDRESS") << url << response.status();
  }
  EXPECT_TRUE(server.received().empty());
}

TEST(Send, DoesNotFollowRedirects) {
  testing::HttpListener server;
  server.QueueAnswer("HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  const auto response = Send({.url = server.Url("/")}, {.allow_private = true});
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 302);
  EXPECT_EQ(server.received().size(), 1u);
}

TEST(Send, OtherProtocolsAndBrokenAnswersAreErrors) {
  testing::HttpListener server;
  EXPECT_FALSE(Send({.url = "file:///etc/hostname"}, {.allow_private = true}).ok());
  server.QueueAnswer("");
  EXPECT_EQ(ReasonOf(Send({.url = server.Url("/secret-path")}, {.allow_private = true}).status()),
            "HTTP_FAILED");
  server.QueueAnswer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + std::string(100, 'x'));
  EXPECT_EQ(ReasonOf(Send({.url = server.Url("/")}, {.response_bytes_max = 99, .allow_private = true})
                         .status()),
            "HTTP_TOO_LARGE");
  server.QueueAnswer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
  const auto cut = Send({.url = server.Url("/secret-path")}, {.allow_private = true});
  EXPECT_EQ(ReasonOf(cut.status()), "HTTP_FAILED");
  EXPECT_THAT(std::string(cut.status().message()), Not(HasSubstr("secret-path")));
}

}  // namespace
}  // namespace tollhouse::http
