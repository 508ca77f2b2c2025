// SPDX-License-Identifier: Apache-2.0
#include "io/mutant.hpp"

#if defined(KESSAI_TORTURE)
#include <string>
#include <utility>

namespace kessai::io {
namespace {
std::string& enabled() {
  static std::string name;
  return name;
}
std::function<bool(std::string_view)>& interrupter() {
  static std::function<bool(std::string_view)> fn;
  return fn;
}
}  // namespace

void set_mutant(std::string_view name) { enabled() = name; }
bool mutant_enabled(std::string_view name) noexcept { return !name.empty() && enabled() == name; }
void set_interrupter(std::function<bool(std::string_view)> fn) { interrupter() = std::move(fn); }
bool interrupted_here(std::string_view where) { return interrupter() && interrupter()(where); }

}  // namespace kessai::io
#endif
