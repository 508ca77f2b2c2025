// SPDX-License-Identifier: Apache-2.0
// The seed of a randomised engine test: KESSAI_SEED, or a fixed one; print it when a test fails.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace kessai::engine_test {

inline std::uint64_t seed(std::uint64_t fallback = 20240611) {
  const char* given = std::getenv("KESSAI_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : fallback;
}

}  // namespace kessai::engine_test
