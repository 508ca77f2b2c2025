// SPDX-License-Identifier: Apache-2.0
// The records of the benchmark: 16-byte keys made from a counter, values that carry the counter.
//
//   random keys      mix(i) big-endian, then i big-endian: insertion order is unrelated to key
//   order ascending keys   i big-endian, then mix(i) value            i (8 bytes), version (8
//   bytes), then bytes that do not compress
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace kessai::bench {

/// A bijection of 64-bit numbers that leaves no order (the finalizer of MurmurHash3).
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

class Rng {
 public:
  explicit Rng(std::uint64_t seed) : state_(mix(seed + 0x9e3779b97f4a7c15ULL) | 1) {}
  std::uint64_t next() {  // xorshift64*: two ns, good enough to spread keys
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dULL;
  }
  std::uint64_t below(std::uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  std::uint64_t state_;
};

enum class KeyOrder : std::uint8_t { random, ascending };

struct Key {
  static constexpr std::size_t kBytes = 16;
  char bytes[kBytes];

  Key() = default;
  Key(std::uint64_t i, KeyOrder order) {
    const std::uint64_t counter = std::byteswap(i), hash = std::byteswap(mix(i));
    const bool random = order == KeyOrder::random;
    std::memcpy(bytes, random ? &hash : &counter, 8);
    std::memcpy(bytes + 8, random ? &counter : &hash, 8);
  }
  std::string_view view() const { return {bytes, kBytes}; }
};

inline constexpr std::size_t kMinValueBytes = 16;

/// One value buffer, stamped anew for each record.
class Value {
 public:
  Value(std::size_t bytes, std::uint64_t seed) : bytes_(bytes, '\0') {
    Rng rng(seed);
    for (char& c : bytes_) c = static_cast<char>(rng.next() >> 32);
  }
  std::string_view stamped(std::uint64_t i, std::uint64_t version = 0) {
    std::memcpy(bytes_.data(), &i, 8);
    std::memcpy(bytes_.data() + 8, &version, 8);
    return bytes_;
  }

 private:
  std::string bytes_;
};

inline std::uint64_t stamp_of(std::string_view value) {
  std::uint64_t i = 0;
  std::memcpy(&i, value.data(), 8);
  return i;
}
inline std::uint64_t version_of(std::string_view value) { return stamp_of(value.substr(8)); }

/// Zipf(0.99) over [0, n), popular numbers scattered over the key space. Draws are made ahead, so
/// that the measured loop pays no pow().
class ZipfDraws {
 public:
  ZipfDraws(std::uint64_t n, std::uint64_t seed, std::size_t draws = std::size_t{1} << 20) {
    constexpr double kTheta = 0.99;
    double zeta = 0;
    for (std::uint64_t i = 1; i <= n; ++i) zeta += std::pow(1.0 / static_cast<double>(i), kTheta);
    // Gray et al., "Quickly generating billion-record synthetic databases", as YCSB uses it.
    const double alpha = 1.0 / (1.0 - kTheta), second = std::pow(0.5, kTheta);
    const double eta = (1.0 - std::pow(2.0 / static_cast<double>(n), 1.0 - kTheta)) /
                       (1.0 - (1.0 + second) / zeta);
    Rng rng(seed);
    draws_.reserve(draws);
    for (std::size_t d = 0; d < draws; ++d) {
      const double u = rng.unit(), uz = u * zeta;
      std::uint64_t rank = 0;
      if (uz >= 1.0) {
        rank = uz < 1.0 + second ? 1
                                 : static_cast<std::uint64_t>(static_cast<double>(n) *
                                                              std::pow(eta * u - eta + 1.0, alpha));
      }
      draws_.push_back(static_cast<std::uint32_t>(mix(rank) % n));
    }
  }
  std::uint64_t next() {
    at_ = at_ + 1 == draws_.size() ? 0 : at_ + 1;
    return draws_[at_];
  }

 private:
  std::vector<std::uint32_t> draws_;
  std::size_t at_ = 0;
};

}  // namespace kessai::bench
