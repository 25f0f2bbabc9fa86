#include "services/ledger/store/chain.h"

namespace tollhouse::ledger {

void RowImage::Number(uint64_t value) {
  char bytes[8];
  for (char& byte : bytes) {
    byte = static_cast<char>(value);
    value >>= 8;
  }
  bytes_.append(bytes, sizeof(bytes));
}

void RowImage::Int(int64_t value) {
  bytes_.push_back('i');
  Number(static_cast<uint64_t>(value));
}

void RowImage::Text(std::string_view value) {
  if (value.find('\0') == std::string_view::npos) return Bytes(value);
  std::string text;
  for (const char c : value) {
    if (c == '\0') {
      text += "\xef\xbf\xbd";
    } else {
      text += c;
    }
  }
  Bytes(text);
}

void RowImage::Bytes(std::string_view value) {
  bytes_.push_back('b');
  Number(value.size());
  bytes_.append(value);
}

void RowImage::Null() { bytes_.push_back('n'); }

crypto::Sha256Digest RowImage::TakeDigest() {
  const crypto::Sha256Digest digest = crypto::Sha256(bytes_);
  bytes_.clear();
  return digest;
}

std::string ChainGenesis(int64_t org_id, int64_t unchained) {
  RowImage image;
  image.Text("tollhouse journal");
  image.Int(org_id);
  image.Int(unchained);
  return std::string(crypto::AsBytes(image.TakeDigest()));
}

std::string HashOfMovement(std::string_view previous, const MovementColumns& movement,
                           const std::vector<LineColumns>& lines,
                           const std::vector<crypto::Sha256Digest>& entries) {
  RowImage image;
  image.Bytes(previous);
  for (const int64_t value :
       {movement.org_id, movement.sequence, movement.kind, movement.at, movement.entries}) {
    image.Int(value);
  }
  image.Text(movement.note);
  image.Int(static_cast<int64_t>(lines.size()));
  for (const LineColumns& line : lines) {
    for (const int64_t value : line) image.Int(value);
  }
  image.Int(static_cast<int64_t>(entries.size()));
  for (const crypto::Sha256Digest& digest : entries) image.Bytes(crypto::AsBytes(digest));
  return std::string(crypto::AsBytes(image.TakeDigest()));
}

std::string ShortDigests(const std::vector<crypto::Sha256Digest>& entries) {
  std::string out;
  out.reserve(entries.size() * kShortDigest);
  for (const crypto::Sha256Digest& digest : entries)
    out += crypto::AsBytes(digest).substr(0, kShortDigest);
  return out;
}

}  // namespace tollhouse::ledger
