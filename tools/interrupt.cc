// SPDX-License-Identifier: Apache-2.0
#include "tools/interrupt.hpp"

#include <unistd.h>

#include <csignal>

#include "tools/exit_codes.hpp"

namespace kessai::tools {
namespace {

volatile std::sig_atomic_t g_interrupted = 0;

extern "C" void on_interrupt(int) {
  if (g_interrupted != 0) _exit(kExitInterrupted);
  g_interrupted = 1;
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: a read from the terminal returns
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() noexcept { return g_interrupted != 0; }
void clear_interrupt() noexcept { g_interrupted = 0; }

}  // namespace kessai::tools
