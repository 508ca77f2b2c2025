// SPDX-License-Identifier: Apache-2.0
// Log records: what a commit writes. No page id, slot or root ever appears here (I2).
//
// Byte layout, little-endian:
//   record := u32 length (whole record) | u8 kind | u8 flags (0) | u16 reserved (0) | body
//   body of `commit`: ops; body of `part`: raw bytes of the op stream of a large commit;
//   body of `close`:  u64 first part's LSN | u64 stream bytes | u128 XXH3-128 of the stream |
//                     u32 n | n x (u64 from LSN, u64 to LSN): the ranges of part records that count
//   op   := varint tree id | u8 op kind | varint key length | key | [put: varint value length | value]
// A record's LSN is the log position just past its last byte.
#pragma once

#include <cstdint>
#include <functional>
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

}  // namespace kessai::wal
