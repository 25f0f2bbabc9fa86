#include "libs/redis/reply.h"

#include "absl/strings/str_cat.h"
#include "libs/base/error.h"
#include "libs/redis/reply_reader.h"

namespace tollhouse::redis {
namespace {

// Unused room that the parser's buffer keeps.
constexpr size_t kIdleBuffer = 64 << 10;
// The shortest element of an array on the wire, "$-1\r\n" but for an integer of one digit.
constexpr size_t kShortestElement = 4;

}  // namespace

std::string_view Value::text() const {
  switch (type()) {
    case Type::kString:
    case Type::kStatus:
    case Type::kError:
      return std::string_view(*bytes_).substr(static_cast<size_t>(node_->number), node_->length);
    case Type::kNil:
    case Type::kInteger:
    case Type::kArray:
      break;
  }
  return {};
}

Value Value::operator[](size_t index) const {
  const Node* child = node_ + 1;
  if (node_->end == static_cast<uint64_t>(node_->number) + 1) return {child + index, bytes_};
  for (size_t i = 0; i < index; ++i) child += child->end;
  return {child, bytes_};
}

redisReplyObjectFunctions ReplyReader::kFunctions = {
    [](const redisReadTask* task, char* text, size_t size) -> void* {
      return Self(task)->AddText(task->type, {text, size});
    },
    [](const redisReadTask* task, int elements) -> void* { return Self(task)->AddArray(elements); },
    [](const redisReadTask* task, long long value) -> void* {
      return Self(task)->AddLeaf(Value::Type::kInteger, value);
    },
    [](const redisReadTask* task) -> void* { return Self(task)->AddLeaf(Value::Type::kNil, 0); },
    [](void*) {},
};

ReplyReader::ReplyReader(size_t max_reply_bytes)
    : max_reply_bytes_(max_reply_bytes), reader_(redisReaderCreateWithFunctions(&kFunctions)) {
  reader_->privdata = this;
  reader_->maxbuf = kIdleBuffer;
}

ReplyReader* ReplyReader::Self(const redisReadTask* task) {
  return static_cast<ReplyReader*>(task->privdata);
}

void* ReplyReader::AddLeaf(Value::Type type, int64_t number) {
  if (!started_) {
    current_.nodes_.clear();
    current_.bytes_.clear();
    arrays_ = 0;
    started_ = true;
  }
  Value::Node& node = current_.nodes_.emplace_back();
  node.type = type;
  node.number = number;
  return this;
}

void* ReplyReader::AddText(int type, std::string_view text) {
  AddLeaf(type == REDIS_REPLY_STATUS  ? Value::Type::kStatus
          : type == REDIS_REPLY_ERROR ? Value::Type::kError
                                      : Value::Type::kString,
          static_cast<int64_t>(current_.bytes_.size()));
  Value::Node& node = current_.nodes_.back();
  node.number = static_cast<int64_t>(current_.bytes_.size());
  node.length = static_cast<uint32_t>(text.size());
  if (current_.bytes_.size() + text.size() > max_reply_bytes_) return nullptr;
  current_.bytes_.append(text);
  return this;
}

void* ReplyReader::AddArray(int elements) {
  AddLeaf(Value::Type::kArray, elements);
  ++arrays_;
  const size_t all = current_.nodes_.size() + static_cast<size_t>(elements);
  return all > max_reply_bytes_ / kShortestElement + 1 ? nullptr : this;
}

void ReplyReader::Feed(std::string_view bytes) {
  redisReaderFeed(reader_.get(), bytes.data(), bytes.size());
}

absl::StatusOr<std::optional<Reply>> ReplyReader::Next() {
  void* complete = nullptr;
  if (redisReaderGetReply(reader_.get(), &complete) != REDIS_OK) {
    return MakeError(absl::StatusCode::kInternal, "REDIS_PROTOCOL",
                     reader_->err == REDIS_ERR_OOM
                         ? absl::StrCat("the reply is longer than ", max_reply_bytes_, " bytes")
                         : absl::StrCat("no Redis reply: ", reader_->errstr));
  }
  if (complete == nullptr) {
    if (reader_->len - reader_->pos > max_reply_bytes_) {
      return MakeError(absl::StatusCode::kInternal, "REDIS_PROTOCOL",
                       absl::StrCat("the reply is longer than ", max_reply_bytes_, " bytes"));
    }
    return std::nullopt;
  }
  auto& nodes = current_.nodes_;
  if (arrays_ == 1) {
    nodes[0].end = static_cast<uint32_t>(nodes.size());
  } else if (arrays_ > 1) {
    for (size_t i = nodes.size(); i-- > 0;) {
      if (nodes[i].type != Value::Type::kArray) continue;
      size_t next = i + 1;
      for (int64_t child = 0; child < nodes[i].number; ++child) next += nodes[next].end;
      nodes[i].end = static_cast<uint32_t>(next - i);
    }
  }
  started_ = false;
  return std::move(current_);
}

}  // namespace tollhouse::redis
