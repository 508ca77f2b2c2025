// SPDX-License-Identifier: Apache-2.0
#include "kessai/payments/request.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kessai::payments {

std::string_view kind_name(Kind kind) noexcept {
  switch (kind) {
    case Kind::payment:
      return "payment";
    case Kind::cancellation:
      return "cancellation";
    case Kind::adjustment:
      return "adjustment";
  }
  return "?";
}

Kind kind_of(std::string_view original_id) noexcept {
  if (original_id.empty()) return Kind::adjustment;
  const char first = original_id[0];
  if (first >= '0' && first <= '9') return Kind::payment;
  return first == 'C' ? Kind::cancellation : Kind::adjustment;
}

std::uint64_t request_id(std::string_view original_id) noexcept {
  return XXH3_64bits(original_id.data(), original_id.size());
}

std::string format_request_id(std::string_view original_id) {
  const std::uint64_t id = request_id(original_id);
  std::string out;
  for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789ABCDEF"[id >> shift & 15];
  return out;
}

std::string row_key(std::string_view original_id) {
  const std::uint64_t id = request_id(original_id);
  std::string key;
  key.reserve(8 + original_id.size());
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(id >> shift & 0xff);
  return key.append(original_id);
}

std::string_view original_id_of(std::string_view key) noexcept {
  return key.size() <= 8 || row_key(key.substr(8)) != key ? std::string_view() : key.substr(8);
}

}  // namespace kessai::payments
