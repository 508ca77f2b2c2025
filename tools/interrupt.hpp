// SPDX-License-Identifier: Apache-2.0
// Ctrl-C: long loops ask `interrupted()` and end in order with exit code 130; a second Ctrl-C ends
// the process at once (the store recovers).
#pragma once

namespace kessai::tools {

void install_interrupt_handler();
[[nodiscard]] bool interrupted() noexcept;
void clear_interrupt() noexcept;

}  // namespace kessai::tools
