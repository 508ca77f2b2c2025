// SPDX-License-Identifier: Apache-2.0
// How every tool ends when its arguments ask for help or are wrong.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string_view>

#include "tools/exit_codes.hpp"
#include "tools/output.hpp"

namespace kessai::tools {

/// Help and version: printed, exit 0. Wrong arguments: said on stderr, as JSON under --json,
/// exit 2.
[[nodiscard]] inline int usage_exit(const CLI::App& app, const CLI::ParseError& e, int argc,
                                    char** argv) {
  if (e.get_exit_code() == 0) return app.exit(e);
  const bool json =
      std::any_of(argv, argv + argc, [](std::string_view a) { return a == "--json"; });
  if (json) {
    stderr_sink()(render_error(Error(Code::invalid_argument, e.what()), true, "arguments"));
  } else {
    app.exit(e);
  }
  return kExitUsage;
}

}  // namespace kessai::tools
