// SPDX-License-Identifier: Apache-2.0
/// @file
/// Passing an Error upward, for code that stands on the public API alone.
#pragma once

#include <utility>

#include "kessai/error.hpp"

#define PAYMENTS_CAT2(a, b) a##b
#define PAYMENTS_CAT(a, b) PAYMENTS_CAT2(a, b)
#define PAYMENTS_TRY(expr)                                                    \
  do {                                                                        \
    if (auto payments_r = (expr); !payments_r) [[unlikely]]                   \
      return std::unexpected<::kessai::Error>(std::move(payments_r).error()); \
  } while (false)
#define PAYMENTS_ASSIGN_(tmp, var, expr)                             \
  auto tmp = (expr);                                                 \
  if (!tmp) [[unlikely]]                                             \
    return std::unexpected<::kessai::Error>(std::move(tmp).error()); \
  auto var = std::move(*tmp)
#define PAYMENTS_ASSIGN(var, expr) PAYMENTS_ASSIGN_(PAYMENTS_CAT(payments_t_, __LINE__), var, expr)
