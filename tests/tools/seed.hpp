// SPDX-License-Identifier: Apache-2.0
// A seed for randomised tests: from KESSAI_SEED, or a fresh one; always printed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "io/env.hpp"

namespace kessai::tools {

inline std::uint64_t test_seed() {
  std::uint64_t seed = 0;
  if (const char* given = std::getenv("KESSAI_SEED")) {
    seed = std::strtoull(given, nullptr, 10);
  } else {
    io::system_random().fill(std::as_writable_bytes(std::span(&seed, 1)));
  }
  std::printf("seed: KESSAI_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

inline std::string random_bytes(io::SeededRandom& random, std::size_t length) {
  std::string out(length, '\0');
  random.fill(std::as_writable_bytes(std::span(out.data(), out.size())));
  return out;
}

}  // namespace kessai::tools
