// SPDX-License-Identifier: Apache-2.0
#include "io/check.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace kessai::io {

void check_failed(const char* what, const char* file, int line) noexcept {
  // write(2) on a stack buffer: the heap may be what is broken.
  char text[512];
  const int n =
      std::snprintf(text, sizeof text, "kessai: check failed: %s (%s:%d)\n", what, file, line);
  if (n > 0) {
    const auto len =
        static_cast<std::size_t>(n) < sizeof text ? static_cast<std::size_t>(n) : sizeof text - 1;
    if (::write(STDERR_FILENO, text, len) < 0) { /* nothing left to tell */
    }
  }
  std::abort();
}

}  // namespace kessai::io
