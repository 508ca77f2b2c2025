// SPDX-License-Identifier: Apache-2.0
// Planted bugs. `KESSAI_MUTANT(name)` is the constant false in every normal build: the installed
// libraries contain no mutant. The torture copies of the engine (KESSAI_TORTURE=1) compile it to a
// look-up of the one mutant that the test run enabled, so that each harness proves that it can
// fail.
#pragma once

#if defined(KESSAI_TORTURE)
#include <string_view>
namespace kessai::io {
/// Enables one planted bug for this process ("" = none). Not thread-safe; call between runs.
void set_mutant(std::string_view name);
[[nodiscard]] bool mutant_enabled(std::string_view name) noexcept;
}  // namespace kessai::io
#define KESSAI_MUTANT(name) (::kessai::io::mutant_enabled(#name))
#else
#define KESSAI_MUTANT(name) false
#endif
