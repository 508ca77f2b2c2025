// SPDX-License-Identifier: Apache-2.0
// Planted bugs. `KESSAI_MUTANT(name)` is the constant false in every normal build: the installed
// libraries contain no mutant. The torture copies of the engine (KESSAI_TORTURE=1) compile it to a
// look-up of the one mutant that the test run enabled, so that each harness proves that it can
// fail.
//
// `KESSAI_INTERRUPT(where)` is a seam of the same copies (else the constant false): code that runs
// without threads asks whether a harness wants something to happen right here, for example a step
// of a checkpoint in the middle of a commit.
#pragma once

#if defined(KESSAI_TORTURE)
#include <functional>
#include <string_view>
namespace kessai::io {
/// Enables one planted bug for this process ("" = none). Not thread-safe; call between runs.
void set_mutant(std::string_view name);
[[nodiscard]] bool mutant_enabled(std::string_view name) noexcept;
/// Answers for every KESSAI_INTERRUPT (null = never). Not thread-safe; call between runs.
void set_interrupter(std::function<bool(std::string_view where)> fn);
[[nodiscard]] bool interrupted_here(std::string_view where);
}  // namespace kessai::io
#define KESSAI_MUTANT(name) (::kessai::io::mutant_enabled(#name))
#define KESSAI_INTERRUPT(where) (::kessai::io::interrupted_here(#where))
#else
#define KESSAI_MUTANT(name) false
#define KESSAI_INTERRUPT(where) false
#endif
