// SPDX-License-Identifier: Apache-2.0
#include "wal/hash.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kessai::wal {
namespace {
Hash128 from(XXH128_hash_t h) noexcept { return {h.low64, h.high64}; }
}  // namespace

struct StreamHash::State {
  XXH3_state_t xxh;
};

Hash128 hash128(std::span<const std::byte> bytes) noexcept {
  return from(XXH3_128bits(bytes.data(), bytes.size()));
}

StreamHash::StreamHash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh); }
StreamHash::~StreamHash() = default;
void StreamHash::update(const void* data, std::size_t bytes) noexcept {
  XXH3_128bits_update(&state_->xxh, data, bytes);
}
Hash128 StreamHash::digest() const noexcept { return from(XXH3_128bits_digest(&state_->xxh)); }

Salt::Salt(const Bytes& bytes) noexcept : bytes_(bytes) {
  XXH3_generateSecret(secret_.data(), secret_.size(), bytes_.data(), bytes_.size());
}

Hash128 Salt::hash(std::span<const std::byte> bytes) const noexcept {
  return from(XXH3_128bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size()));
}

}  // namespace kessai::wal
