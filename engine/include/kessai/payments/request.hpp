// SPDX-License-Identifier: Apache-2.0
/// @file
/// A payment request as the outside world sends it, and its identity.
///
/// REQUEST_ID is XXH3-64 (unseeded) of the original id. It goes in front of the original id in
/// every key: the hash scatters inserts over the leaves, the original keeps uniqueness exact, so
/// that a hash collision neither merges two payments nor needs a probe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "kessai/payments/dates.hpp"
#include "kessai/payments/money.hpp"

namespace kessai::payments {

/// Longest original request id in bytes.
inline constexpr std::size_t kMaxRequestIdBytes = 255;

enum class Kind : std::uint8_t { payment = 0, cancellation = 1, adjustment = 2 };
[[nodiscard]] std::string_view kind_name(Kind kind) noexcept;
/// Digits first: payment. `C`: cancellation. Anything else: adjustment.
[[nodiscard]] Kind kind_of(std::string_view original_id) noexcept;

/// XXH3-128 of the canonical form of a request; equal for equal requests whatever the order of
/// their lines.
using Fingerprint = std::array<std::uint8_t, 16>;

struct Request {
  std::string original_id;
  Kind kind = Kind::payment;
  Milli amount = 0;
  Micros time = 0;      ///< REQUEST_DATE: the earliest of its lines
  std::string account;  ///< customer; empty when unknown
  std::uint32_t lines = 0;
  Fingerprint fingerprint{};
};

/// REQUEST_ID as a number and as people see it (16 upper-case hex digits).
[[nodiscard]] std::uint64_t request_id(std::string_view original_id) noexcept;
[[nodiscard]] std::string format_request_id(std::string_view original_id);

/// REQUEST_ID big-endian || original id: the key of a row.
[[nodiscard]] std::string row_key(std::string_view original_id);
/// The original id in a row's key; empty when `key` is no such key.
[[nodiscard]] std::string_view original_id_of(std::string_view key) noexcept;

}  // namespace kessai::payments
