// SPDX-License-Identifier: Apache-2.0
#include "mvcc/record_hash.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kessai::mvcc {

std::uint64_t record_hash(TreeId tree, std::string_view key) noexcept {
  const std::uint64_t seed = raw(tree) * 0x9E3779B97F4A7C15ull;
  const std::uint64_t h = XXH3_64bits_withSeed(key.data(), key.size(), seed);
  return h != 0 ? h : 1;
}

}  // namespace kessai::mvcc
