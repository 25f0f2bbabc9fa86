// What Redis answered to one command.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/container/inlined_vector.h"

namespace tollhouse::redis {

class ReplyReader;

// One value of a reply: a leaf, or an array with elements. A view into a Reply, cheap to copy, valid
// as long as that Reply stays where it is.
class Value {
 public:
  enum class Type : uint8_t { kNil, kInteger, kString, kStatus, kError, kArray };

  Type type() const { return node_->type; }
  bool is_nil() const { return type() == Type::kNil; }
  bool is_array() const { return type() == Type::kArray; }
  // 0 unless kInteger.
  int64_t integer() const { return type() == Type::kInteger ? node_->number : 0; }
  // The bytes of a string, status or error; "" for everything else.
  std::string_view text() const;
  // Elements of an array; 0 for everything else.
  size_t size() const { return is_array() ? static_cast<size_t>(node_->number) : 0; }
  // `index` < size(). Constant time where no element is an array, else linear.
  Value operator[](size_t index) const;

 protected:
  // Nodes are in pre-order; `end` is the distance to the node after the subtree.
  struct Node {
    Type type = Type::kNil;
    uint32_t end = 1;
    int64_t number = 0;   // the integer, the elements, or where the text begins
    uint32_t length = 0;  // of the text
  };

  Value(const Node* node, const std::string* bytes) : node_(node), bytes_(bytes) {}

  const Node* node_;
  const std::string* bytes_;

  friend class Reply;
  friend class ReplyReader;
};

// Owns the whole reply. An integer, a status or a short string needs no memory of its own.
class Reply {
 public:
  Reply() : nodes_(1) {}

  Value value() const { return {nodes_.data(), &bytes_}; }
  Value::Type type() const { return nodes_[0].type; }
  bool is_nil() const { return value().is_nil(); }
  int64_t integer() const { return value().integer(); }
  std::string_view text() const { return value().text(); }
  size_t size() const { return value().size(); }
  Value operator[](size_t index) const { return value()[index]; }

 private:
  friend class ReplyReader;

  absl::InlinedVector<Value::Node, 1> nodes_;
  std::string bytes_;
};

}  // namespace tollhouse::redis
