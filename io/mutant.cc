// SPDX-License-Identifier: Apache-2.0
#include "io/mutant.hpp"

#if defined(KESSAI_TORTURE)
#include <string>

namespace kessai::io {
namespace {
std::string& enabled() {
  static std::string name;
  return name;
}
}  // namespace

void set_mutant(std::string_view name) { enabled() = name; }
bool mutant_enabled(std::string_view name) noexcept { return !name.empty() && enabled() == name; }

}  // namespace kessai::io
#endif
