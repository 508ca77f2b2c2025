// SPDX-License-Identifier: Apache-2.0
// The stub acquirer as a process: a book behind a loopback socket. One thread, any number of
// clients; what is held outlives them.
#pragma once

#include <cstdint>
#include <functional>

#include "tools/stub_book.hpp"

namespace kessai::tools {

struct StubServerOptions {
  std::uint16_t port = 0;  ///< 0: any free one
  bool until_eof = false;  ///< ends when its standard input does
  StubProfile profile;
  /// Told once it listens.
  std::function<void(std::uint16_t port)> listening;
};

/// Serves until interrupted (or the end of its input). Errors: the port cannot be had.
[[nodiscard]] Result<void> serve_stub(const StubServerOptions& options);

}  // namespace kessai::tools
