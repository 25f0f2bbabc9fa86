// The journal as a chain of hashes, per org: every movement's hash covers its row, its lines, the
// rows of its entries, and the hash of the movement before.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libs/crypto/digest.h"
#include "libs/sql/database.h"

namespace tollhouse::ledger {

// The values of a row as bytes: no two different rows look the same, and a row looks the same as it
// is written and as it is read, from either database.
class RowImage {
 public:
  void Int(int64_t value);
  // U+FFFD for NUL, as PostgreSQL stores it.
  void Text(std::string_view value);
  void Bytes(std::string_view value);
  void Null();

  // Of all that was added since the last call.
  crypto::Sha256Digest TakeDigest();

 private:
  void Number(uint64_t value);

  std::string bytes_;
};

// Passes rows on to another insert and keeps a digest of each.
class DigestingInsert final : public sql::BulkInsert {
 public:
  explicit DigestingInsert(std::unique_ptr<sql::BulkInsert> insert) : insert_(std::move(insert)) {}

  void Int(int64_t value) override {
    image_.Int(value);
    insert_->Int(value);
  }
  void Text(std::string_view value) override {
    image_.Text(value);
    insert_->Text(value);
  }
  void Bytes(std::string_view value) override {
    image_.Bytes(value);
    insert_->Bytes(value);
  }
  void Uuid(std::string_view raw) override {
    image_.Bytes(raw);
    insert_->Uuid(raw);
  }
  void Null() override {
    image_.Null();
    insert_->Null();
  }
  void EndRow() override {
    digests_.push_back(image_.TakeDigest());
    insert_->EndRow();
  }
  absl::Status Finish() override { return insert_->Finish(); }

  // One for each row, in their order.
  std::vector<crypto::Sha256Digest> TakeDigests() { return std::move(digests_); }

 private:
  const std::unique_ptr<sql::BulkInsert> insert_;
  RowImage image_;
  std::vector<crypto::Sha256Digest> digests_;
};

// What the columns of a movement say.
struct MovementColumns {
  int64_t org_id = 0;
  int64_t sequence = 0;
  int64_t kind = 0;
  int64_t at = 0;
  int64_t entries = 0;
  std::string_view note;
};

// The columns of a line but for org and sequence: row, epoch, cap, overrun, avail, leased,
// suspense, spent, lost.
using LineColumns = std::array<int64_t, 9>;

// Before an org's first hash; `unchained` is the last number that was given without one.
std::string ChainGenesis(int64_t org_id, int64_t unchained);

// A movement's hash. `lines` by row and epoch, `entries` the digests of its entries by sequence.
std::string HashOfMovement(std::string_view previous, const MovementColumns& movement,
                           const std::vector<LineColumns>& lines,
                           const std::vector<crypto::Sha256Digest>& entries);

// What a batch keeps of its entries' digests, to tell which of them was changed: 8 bytes each.
inline constexpr size_t kShortDigest = 8;
std::string ShortDigests(const std::vector<crypto::Sha256Digest>& entries);

}  // namespace tollhouse::ledger
