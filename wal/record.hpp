// SPDX-License-Identifier: Apache-2.0
// Log records: what a commit writes. No page id, slot or root ever appears here (I2).
//
// Byte layout, little-endian:
//   record := u32 length (whole record) | u8 kind | u8 flags (0) | u16 reserved (0) | body
//   body of `commit`: ops; body of `part`: raw bytes of the op stream of a large commit;
//   body of `close`:  u64 start of the first part | u64 stream bytes | u128 XXH3-128 of the stream
//   |
//                     u32 n | n x (u64 from, u64 to): the runs of part records that count, as log
//                     positions [from, to) in ascending order; `from` is where a record starts
//   op   := varint tree id | u8 op kind | varint key length | key | [put: varint value length |
//   value]
// A record's LSN is the log position just past its last byte.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/types.hpp"
#include "kessai/error.hpp"

namespace kessai::wal {

enum class RecordKind : std::uint8_t { commit = 1, part = 2, close = 3, filler = 4 };
enum class OpKind : std::uint8_t { put = 1, remove = 2 };

/// Views into caller-owned (encoding) or frame-owned (decoding) bytes.
struct Op {
  TreeId tree{};
  OpKind kind = OpKind::put;
  std::string_view key;
  std::string_view value;
};

inline constexpr std::size_t kRecordHeader = 8;
/// Longest record; larger commits become parts plus a closing record.
inline constexpr std::size_t kMaxRecord = 256 * 1024;

/// Appends one encoded op to `stream`.
void encode_op(const Op& op, std::string& stream);
/// Decodes a stream of ops; `damaged` when it does not parse to its last byte. `fn` false stops.
[[nodiscard]] Result<void> decode_ops(std::string_view stream,
                                      const std::function<bool(const Op&)>& fn);

/// Starts a record of `kind` in `out` (cleared); append the body, then finish_record.
void start_record(RecordKind kind, std::string& out);
void finish_record(std::string& out);

/// One record at the front of `bytes`; nothing when it does not parse (bytes are untrusted).
struct RecordView {
  std::uint32_t length = 0;  ///< whole record
  RecordKind kind{};
  std::string_view body;
};
[[nodiscard]] std::optional<RecordView> decode_record(std::string_view bytes);

struct PartRange {
  Lsn from = 0, to = 0;
  friend bool operator==(const PartRange&, const PartRange&) = default;
};

/// The body of a closing record.
struct Close {
  Lsn first = 0;  ///< where the first part starts
  std::uint64_t stream_bytes = 0;
  std::uint64_t hash_low = 0, hash_high = 0;
  std::vector<PartRange> ranges;
};
void encode_close(const Close& close, std::string& body);
[[nodiscard]] Result<Close> decode_close(std::string_view body);

/// Writer's side of a large commit: tell it every part that counts, in log order, then get the
/// closing record. Parts never told are void.
class CloseBuilder {
 public:
  CloseBuilder();
  ~CloseBuilder();
  CloseBuilder(CloseBuilder&&) noexcept;
  CloseBuilder& operator=(CloseBuilder&&) noexcept;
  /// `body` without the record header; [start, lsn) is the part record's reservation.
  void add_part(Lsn start, Lsn lsn, std::string_view body);
  /// Size of the record that finish() makes (for the reservation).
  [[nodiscard]] std::size_t record_bytes() const noexcept;
  void finish(std::string& record) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kessai::wal
