// SPDX-License-Identifier: Apache-2.0
// XXH3-128 as the log uses it: plain, streaming, and keyed by a generation's salt.
//
// A salted hash derives XXH3's whole secret (192 bytes) from the 128-bit salt. Who does not know
// the salt cannot prepare bytes that verify, which is what keeps recycled frames and user values
// that imitate frames apart from the real ones (I9). It is no MAC against someone who reads the
// files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace kessai::wal {

struct Hash128 {
  std::uint64_t low = 0, high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

[[nodiscard]] Hash128 hash128(std::span<const std::byte> bytes) noexcept;

class StreamHash {
 public:
  StreamHash();
  ~StreamHash();
  StreamHash(const StreamHash&) = delete;
  StreamHash& operator=(const StreamHash&) = delete;
  void update(const void* data, std::size_t bytes) noexcept;
  [[nodiscard]] Hash128 digest() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Salt {
 public:
  using Bytes = std::array<std::byte, 16>;
  Salt() : Salt(Bytes{}) {}
  explicit Salt(const Bytes& bytes) noexcept;
  [[nodiscard]] const Bytes& bytes() const noexcept { return bytes_; }
  [[nodiscard]] Hash128 hash(std::span<const std::byte> bytes) const noexcept;

 private:
  Bytes bytes_;
  std::array<std::byte, 192> secret_;
};

}  // namespace kessai::wal
