// SPDX-License-Identifier: Apache-2.0
// Assertions for our own mistakes (never for bytes read from disk, never for I/O errors) and the
// macros that pass an Error upward.
//
//   KESSAI_CHECK(x)        always on: write, commit and recovery paths
//   KESSAI_DCHECK(x)       debug and sanitizer builds
//   KESSAI_TRY(expr)       returns the error of a Result<void> expression
//   KESSAI_ASSIGN(var, e)  declares `auto var` from a Result<T>, or returns the error
#pragma once

#include <utility>

#include "kessai/error.hpp"

namespace kessai::io {
[[noreturn]] void check_failed(const char* what, const char* file, int line) noexcept;
}

#define KESSAI_CHECK(x) \
  ((x) ? static_cast<void>(0) : ::kessai::io::check_failed(#x, __FILE__, __LINE__))
#if defined(KESSAI_DEBUG_CHECKS)
#define KESSAI_DCHECK(x) KESSAI_CHECK(x)
#else
#define KESSAI_DCHECK(x) static_cast<void>(sizeof(!(x)))
#endif

#define KESSAI_CAT2(a, b) a##b
#define KESSAI_CAT(a, b) KESSAI_CAT2(a, b)
#define KESSAI_TRY(expr)                                                    \
  do {                                                                      \
    if (auto kessai_r = (expr); !kessai_r) [[unlikely]]                     \
      return std::unexpected<::kessai::Error>(std::move(kessai_r).error()); \
  } while (false)
#define KESSAI_ASSIGN_(tmp, var, expr)                               \
  auto tmp = (expr);                                                 \
  if (!tmp) [[unlikely]]                                             \
    return std::unexpected<::kessai::Error>(std::move(tmp).error()); \
  auto var = std::move(*tmp)
#define KESSAI_ASSIGN(var, expr) KESSAI_ASSIGN_(KESSAI_CAT(kessai_t_, __LINE__), var, expr)
