// SPDX-License-Identifier: Apache-2.0
#include "kessai/error.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "io/check.hpp"

namespace kessai {
namespace {

// Goal: each code has its own name. Method: walk all numbers that fit the enum's ranges.
TEST(Error, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (int n = 0; n < 200; ++n) {
    const auto name = code_name(static_cast<Code>(n));
    if (name == "unknown_code") continue;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(names.size(), 40U);
  EXPECT_EQ(code_name(Code::key_exists), "key_exists");
  EXPECT_EQ(code_name(Code::interrupted), "interrupted");
}

// Goal: the message tells everything the error knows, in one line of printable ASCII.
TEST(Error, MessageNamesPlaceAndEscapesKeys) {
  const Error e(Code::damaged,
                ErrorDetail{.what = "checksum differs",
                            .path = "/data/store/data",
                            .tree = "acc\x1b[2J",
                            .key = std::string("a\"\\\0\n\xff", 6),
                            .offset = 8192,
                            .page = 2,
                            .lsn = 77},
                EIO);
  EXPECT_EQ(e.message(),
            "damaged: checksum differs [/data/store/data:8192] [tree \"acc\\x1b[2J\"] "
            "[key \"a\\\"\\\\\\x00\\x0a\\xff\"] [page 2] [lsn 77] [EIO]");
  EXPECT_EQ(e.os_error(), EIO);
}

TEST(Error, MessageShortensLongKeys) {
  const Error e(Code::key_exists, ErrorDetail{.key = std::string(1000, 'k')});
  EXPECT_EQ(e.message(), "key_exists [key \"" + std::string(64, 'k') + "...\"]");
}

TEST(Error, PlainCodeCarriesNothing) {
  const Error e = Code::not_found;
  EXPECT_EQ(e.message(), "not_found");
  EXPECT_EQ(e.detail().what, "");
  EXPECT_EQ(e.os_error(), 0);
  EXPECT_EQ(e, Code::not_found);
}

// Goal: retrying helps exactly for what a concurrent transaction caused.
TEST(Error, RetryableAreTheConcurrencyCodesButSelfDeadlock) {
  std::set<int> retryable;
  for (int n = 0; n < 200; ++n) {
    if (Error(static_cast<Code>(n)).retryable()) retryable.insert(n);
  }
  EXPECT_EQ(retryable, (std::set<int>{40, 41, 42, 43, 44}));
}

Result<int> twice(Result<int> in) {
  KESSAI_ASSIGN(value, std::move(in));
  return 2 * value;
}
Result<void> pass(Result<void> in) {
  KESSAI_TRY(in);
  return {};
}

TEST(Check, MacrosPassErrorsUpward) {
  EXPECT_EQ(*twice(21), 42);
  EXPECT_EQ(twice(fail(Code::deadlock)).error(), Code::deadlock);
  EXPECT_TRUE(pass({}));
  EXPECT_EQ(pass(fail(Code::io_error, "x")).error().detail().what, "x");
}

TEST(CheckDeathTest, FailedCheckNamesExpressionAndPlace) {
  EXPECT_DEATH(KESSAI_CHECK(1 + 1 == 3), "check failed: 1 \\+ 1 == 3 \\(.*error_test.cc:");
}

}  // namespace
}  // namespace kessai
