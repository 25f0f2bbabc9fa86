#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "libs/obs/admin_server.h"
#include "libs/obs/log.h"
#include "libs/obs/metrics.h"

namespace tollhouse::obs {
namespace {

using ::testing::HasSubstr;
namespace http = boost::beast::http;

http::response<http::string_body> Get(const std::string& address, const std::string& target) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket socket(io);
  const size_t colon = address.find(':');
  socket.connect({boost::asio::ip::make_address(address.substr(0, colon)),
                  static_cast<uint16_t>(std::stoi(address.substr(colon + 1)))});
  http::request<http::empty_body> request(http::verb::get, target, 11);
  http::write(socket, request);
  boost::beast::flat_buffer buffer;
  http::response<http::string_body> response;
  http::read(socket, buffer, response);
  return response;
}

TEST(AdminServerTest, SaysWhetherItIsReadyAndServesMetrics) {
  Counter("tollhouse_test_events_total", "events", {{"kind", "a"}}).Increment();
  std::string reason = "starting";
  auto server = AdminServer::Start("127.0.0.1:0", [&] { return reason; });
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Get((*server)->address(), "/healthz").result_int(), 200u);
  const auto not_ready = Get((*server)->address(), "/readyz");
  EXPECT_EQ(not_ready.result_int(), 503u);
  EXPECT_THAT(not_ready.body(), HasSubstr("starting"));
  reason = "";
  EXPECT_EQ(Get((*server)->address(), "/readyz").result_int(), 200u);
  EXPECT_THAT(Get((*server)->address(), "/metrics").body(),
              HasSubstr("tollhouse_test_events_total{kind=\"a\"} 1"));
  EXPECT_EQ(Get((*server)->address(), "/secret").result_int(), 404u);
}

TEST(AdminServerTest, RefusesAnAddressItCannotBind) {
  EXPECT_FALSE(AdminServer::Start("nowhere", [] { return std::string(); }).ok());
  EXPECT_FALSE(AdminServer::Start("127.0.0.1:99999", [] { return std::string(); }).ok());
}

TEST(LogTest, WritesOneEscapedJsonObjectPerLine) {
  ::testing::internal::CaptureStderr();
  Info("tried", {{"text", "a\"b\n\x01"}, {"count", 3}, {"ok", true}});
  const std::string line = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(line, HasSubstr(R"("event":"tried","text":"a\"b\n\u0001","count":3,"ok":true})"));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

}  // namespace
}  // namespace tollhouse::obs
