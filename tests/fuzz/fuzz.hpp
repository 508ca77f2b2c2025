// SPDX-License-Identifier: Apache-2.0
// What all fuzz harnesses share. A harness is one file with LLVMFuzzerTestOneInput(): with
// libFuzzer (preset `fuzz`) it is build/fuzz/bin/fuzz_NAME; in every build it is also the test
// fuzz_NAME, which runs it over the kept corpus and over mutations of it (corpus_test.cc).
//
// A finding ends the process: expect(), a sanitizer, KESSAI_CHECK.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "kessai/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace kessai::fuzz {

/// Reads the input as a sequence of small numbers and byte strings; 0 and "" at its end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : left_(data, size) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  std::uint8_t u8() {
    if (left_.empty()) return 0;
    const std::uint8_t out = left_.front();
    left_ = left_.subspan(1);
    return out;
  }
  std::uint16_t u16() {
    const unsigned low = u8();
    return static_cast<std::uint16_t>(low | static_cast<unsigned>(u8()) << 8);
  }
  std::span<const std::uint8_t> bytes(std::size_t n) {
    const auto out = left_.first(n < left_.size() ? n : left_.size());
    left_ = left_.subspan(out.size());
    return out;
  }
  std::string_view text() {
    const auto all = bytes(left_.size());
    return {reinterpret_cast<const char*>(all.data()), all.size()};
  }

 private:
  std::span<const std::uint8_t> left_;
};

inline void expect(bool good, std::string_view what) {
  if (good) return;
  std::fprintf(stderr, "finding: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}
/// What an error of the library must be like, whatever the bytes were: it says something, and no
/// promise of its own was broken.
inline void expect_honest(const Error& e) {
  expect(!e.message().empty() && e != Code::invalid_argument && e != Code::closed_handle,
         "a strange error: " + e.message());
}

}  // namespace kessai::fuzz
