// SPDX-License-Identifier: Apache-2.0
// Goal: what fuzzing once found stays fixed, and every harness keeps working without libFuzzer.
// Method: the harness this file is linked with runs over its kept corpus, then over mutations of it
// from a printed seed. A finding ends the process.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "io/env.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tests/tools/seed.hpp"

namespace kessai::fuzz {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::vector<Bytes> corpus() {
  std::vector<std::filesystem::path> paths;
  for (const auto& file : std::filesystem::directory_iterator(KESSAI_CORPUS))
    paths.push_back(file.path());
  std::ranges::sort(paths);
  std::vector<Bytes> out;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    out.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return out;
}

TEST(Corpus, EveryKeptInputIsHandled) {
  const auto inputs = corpus();
  ASSERT_GE(inputs.size(), 3u) << "the corpus in " KESSAI_CORPUS " is gone";
  for (const Bytes& input : inputs)
    EXPECT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0);
  EXPECT_EQ(LLVMFuzzerTestOneInput(nullptr, 0), 0);
}

TEST(Corpus, MutationsOfItAreHandled) {
  auto inputs = corpus();
  io::SeededRandom random(tools::test_seed());
  for (int n = 0; n < KESSAI_MUTATIONS; ++n) {
    Bytes input = inputs[random.below(inputs.size())];
    for (std::uint64_t i = 1 + random.below(4); i != 0; --i) {
      const std::size_t at = random.below(input.size() + 1);
      const auto where = input.begin() + static_cast<std::ptrdiff_t>(at);
      switch (random.below(4)) {
        case 0:
          input.insert(where, static_cast<std::uint8_t>(random.next()));
          break;
        case 1:
          if (at < input.size()) input.erase(where);
          break;
        case 2: {
          const Bytes& other = inputs[random.below(inputs.size())];
          const std::size_t from = random.below(other.size() + 1);
          input.insert(where, other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
          break;
        }
        default:
          if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1u << random.below(8));
      }
    }
    if (input.size() > 8192) input.resize(8192);
    EXPECT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0);
  }
}

}  // namespace
}  // namespace kessai::fuzz
