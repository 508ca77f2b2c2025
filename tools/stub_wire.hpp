// SPDX-License-Identifier: Apache-2.0
// The conversation with the stub acquirer over a loopback socket.
//
//   frame := length:4 (little-endian, of the rest) | serial:8 | kind:1 | fields
//
// Each request is answered by a frame with its serial, some by none (a timeout). Both sides refuse
// a frame that is longer than kMostBytes or does not decode. The fields are encoded as table rows
// are (kessai/payments/encoding.hpp).
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "kessai/payments/encoding.hpp"

namespace kessai::tools::wire {

enum class Kind : std::uint8_t { authorise, cancel, list, authorised, cancelled, entry, end };
constexpr Kind last_of(Kind) noexcept { return Kind::end; }

inline constexpr std::uint32_t kMostBytes = 64u << 10;

/// One frame with `fields` behind its head.
[[nodiscard]] inline std::string frame(std::uint64_t serial, Kind kind, std::string_view fields) {
  payments::Encoder e;
  e.put(serial);
  e.put(kind);
  e.raw(fields);
  const std::string rest = e.take();
  const auto length = static_cast<std::uint32_t>(rest.size());
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + rest;
}

struct Head {
  std::uint64_t serial = 0;
  Kind kind{};
  std::string_view fields;
  std::size_t bytes = 0;  ///< of the whole frame
};

/// The frame at the start of `bytes`. Nothing: not yet whole; `broken` then says whether it never
/// will be.
[[nodiscard]] inline std::optional<Head> next_frame(std::string_view bytes, bool& broken) {
  constexpr std::size_t kHead = sizeof(std::uint64_t) + 1;
  std::uint32_t length = 0;
  if (bytes.size() < sizeof length) return std::nullopt;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length < kHead || length > kMostBytes) {
    broken = true;
    return std::nullopt;
  }
  if (bytes.size() < sizeof length + length) return std::nullopt;
  payments::Decoder d(bytes.substr(sizeof length, kHead));
  Head h;
  d.get(h.serial);
  d.get(h.kind);
  broken = !d.good();
  if (broken) return std::nullopt;
  h.fields = bytes.substr(sizeof length + kHead, length - kHead);
  h.bytes = sizeof length + length;
  return h;
}

}  // namespace kessai::tools::wire
