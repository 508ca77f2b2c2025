// SPDX-License-Identifier: Apache-2.0
#include "io/env.hpp"

#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "io/check.hpp"

namespace kessai::io {
namespace {

std::uint64_t read_clock(clockid_t id) {
  timespec t{};
  KESSAI_CHECK(::clock_gettime(id, &t) == 0);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(t.tv_nsec);
}

class SystemClock final : public Clock {
 public:
  std::uint64_t now_ns() override { return read_clock(CLOCK_MONOTONIC); }
  std::uint64_t unix_micros() override { return read_clock(CLOCK_REALTIME) / 1000; }
};

class SystemRandom final : public Random {
 public:
  void fill(std::span<std::byte> out) override {
    while (!out.empty()) {
      const ssize_t n = ::getrandom(out.data(), out.size(), 0);
      KESSAI_CHECK(n > 0 ||
                   errno == EINTR);  // a salt that is not random would be worse than stopping
      if (n > 0) out = out.subspan(static_cast<std::size_t>(n));
    }
  }
};

std::uint64_t split_mix(std::uint64_t& state) noexcept {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Clock& system_clock() {
  static SystemClock clock;
  return clock;
}

Random& system_random() {
  static SystemRandom random;
  return random;
}

SeededRandom::SeededRandom(std::uint64_t seed) noexcept : s_{} {
  for (auto& word : s_) word = split_mix(seed);
}

// xoshiro256** (Blackman, Vigna), public domain algorithm.
std::uint64_t SeededRandom::next() noexcept {
  const std::uint64_t result = std::rotl(s_[1] * 5, 7) * 9;
  const std::uint64_t t = s_[1] << 17;
  s_[2] ^= s_[0];
  s_[3] ^= s_[1];
  s_[1] ^= s_[2];
  s_[0] ^= s_[3];
  s_[2] ^= t;
  s_[3] = std::rotl(s_[3], 45);
  return result;
}

// Multiply and reject (Lemire): no modulo bias, one multiplication in nearly every call.
std::uint64_t SeededRandom::below(std::uint64_t bound) noexcept {
  KESSAI_DCHECK(bound > 0);
  __extension__ using Wide = unsigned __int128;
  Wide product = static_cast<Wide>(next()) * bound;
  if (static_cast<std::uint64_t>(product) < bound) {
    const std::uint64_t threshold = (0 - bound) % bound;
    while (static_cast<std::uint64_t>(product) < threshold)
      product = static_cast<Wide>(next()) * bound;
  }
  return static_cast<std::uint64_t>(product >> 64);
}

void SeededRandom::fill(std::span<std::byte> out) {
  while (!out.empty()) {
    const std::uint64_t word = next();
    const std::size_t n = std::min(out.size(), sizeof word);
    std::memcpy(out.data(), &word, n);
    out = out.subspan(n);
  }
}

}  // namespace kessai::io
