// SPDX-License-Identifier: Apache-2.0
#include "wal/record.hpp"

#include <bit>
#include <cstring>

#include "io/check.hpp"
#include "wal/hash.hpp"

namespace kessai::wal {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are written little-endian");

template <class T>
void put_int(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

/// Reads forward through untrusted bytes; `ok()` turns false at the first value that is not there.
class Reader {
 public:
  explicit Reader(std::string_view bytes) noexcept : rest_(bytes) {}
  [[nodiscard]] bool ok() const noexcept { return ok_; }
  [[nodiscard]] bool empty() const noexcept { return rest_.empty(); }

  template <class T>
  T fixed() noexcept {
    T value{};
    if (rest_.size() < sizeof(T)) return fail<T>();
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  std::uint64_t varint() noexcept {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return fail<std::uint64_t>();
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == 63 && byte > 1) return fail<std::uint64_t>();
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) {
        // One encoding per value: equal commits are equal bytes.
        return byte == 0 && shift > 0 ? fail<std::uint64_t>() : value;
      }
    }
    return fail<std::uint64_t>();
  }
  std::string_view bytes(std::uint64_t length) noexcept {
    if (length > rest_.size()) return fail<std::string_view>();
    const auto taken = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return taken;
  }

 private:
  template <class T>
  T fail() noexcept {
    ok_ = false;
    rest_ = {};
    return T{};
  }
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace

void encode_op(const Op& op, std::string& stream) {
  put_varint(stream, raw(op.tree));
  stream.push_back(static_cast<char>(op.kind));
  put_varint(stream, op.key.size());
  stream.append(op.key);
  if (op.kind == OpKind::put) {
    put_varint(stream, op.value.size());
    stream.append(op.value);
  }
}

Result<void> decode_ops(std::string_view stream, const std::function<bool(const Op&)>& fn) {
  Reader in(stream);
  while (!in.empty()) {
    Op op;
    const auto tree = in.varint();
    const auto kind = in.fixed<std::uint8_t>();
    if (tree > UINT32_MAX || (kind != 1 && kind != 2))
      return fail(Code::damaged, "a log record holds an operation that does not parse");
    op.tree = TreeId{static_cast<std::uint32_t>(tree)};
    op.kind = static_cast<OpKind>(kind);
    op.key = in.bytes(in.varint());
    if (op.kind == OpKind::put) op.value = in.bytes(in.varint());
    if (!in.ok()) return fail(Code::damaged, "a log record ends inside an operation");
    if (!fn(op)) return {};
  }
  return {};
}

void start_record(RecordKind kind, std::string& out) {
  out.assign(kRecordHeader, '\0');
  out[4] = static_cast<char>(kind);
}

void finish_record(std::string& out) {
  KESSAI_CHECK(out.size() >= kRecordHeader && out.size() <= UINT32_MAX);
  const auto length = static_cast<std::uint32_t>(out.size());
  std::memcpy(out.data(), &length, sizeof length);
}

std::optional<RecordView> decode_record(std::string_view bytes) {
  Reader in(bytes);
  RecordView record;
  record.length = in.fixed<std::uint32_t>();
  const auto kind = in.fixed<std::uint8_t>();
  const auto flags = in.fixed<std::uint8_t>();
  const auto reserved = in.fixed<std::uint16_t>();
  if (!in.ok() || record.length < kRecordHeader || record.length > bytes.size() || kind < 1 ||
      kind > 4 || flags != 0 || reserved != 0)
    return std::nullopt;
  record.kind = static_cast<RecordKind>(kind);
  record.body = bytes.substr(kRecordHeader, record.length - kRecordHeader);
  return record;
}

void encode_close(const Close& close, std::string& body) {
  put_int(body, close.first);
  put_int(body, close.stream_bytes);
  put_int(body, close.hash_low);
  put_int(body, close.hash_high);
  put_int(body, static_cast<std::uint32_t>(close.ranges.size()));
  for (const auto& r : close.ranges) {
    put_int(body, r.from);
    put_int(body, r.to);
  }
}

Result<Close> decode_close(std::string_view body) {
  Reader in(body);
  Close close;
  close.first = in.fixed<std::uint64_t>();
  close.stream_bytes = in.fixed<std::uint64_t>();
  close.hash_low = in.fixed<std::uint64_t>();
  close.hash_high = in.fixed<std::uint64_t>();
  const auto count = in.fixed<std::uint32_t>();
  if (!in.ok() || body.size() != 36 + std::size_t{count} * 16)
    return fail(Code::damaged, "a closing log record does not parse");
  Lsn last = close.first;
  std::uint64_t covered = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    PartRange r{in.fixed<std::uint64_t>(), in.fixed<std::uint64_t>()};
    if (r.from < last || r.to <= r.from || r.to > kMaxLsn)
      return fail(Code::damaged, "a closing log record names impossible parts");
    last = r.to;
    covered += r.to - r.from;
    close.ranges.push_back(r);
  }
  if (close.stream_bytes > covered)
    return fail(Code::damaged, "a closing log record names more bytes than its parts hold");
  return close;
}

struct CloseBuilder::State {
  Close close;
  StreamHash hash;
};

CloseBuilder::CloseBuilder() : state_(std::make_unique<State>()) {}
CloseBuilder::~CloseBuilder() = default;
CloseBuilder::CloseBuilder(CloseBuilder&&) noexcept = default;
CloseBuilder& CloseBuilder::operator=(CloseBuilder&&) noexcept = default;

void CloseBuilder::add_part(Lsn start, Lsn lsn, std::string_view body) {
  auto& c = state_->close;
  if (c.ranges.empty()) c.first = start;
  if (!c.ranges.empty() && c.ranges.back().to == start) {
    c.ranges.back().to = lsn;
  } else {
    c.ranges.push_back({start, lsn});
  }
  c.stream_bytes += body.size();
  state_->hash.update(body.data(), body.size());
}

void CloseBuilder::finish(std::string& record) const {
  const auto hash = state_->hash.digest();
  Close close = state_->close;
  close.hash_low = hash.low;
  close.hash_high = hash.high;
  start_record(RecordKind::close, record);
  encode_close(close, record);
  finish_record(record);
}

std::size_t CloseBuilder::record_bytes() const noexcept {
  return kRecordHeader + 36 + state_->close.ranges.size() * 16;
}

}  // namespace kessai::wal
