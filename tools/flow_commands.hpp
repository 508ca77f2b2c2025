// SPDX-License-Identifier: Apache-2.0
// The commands of kvpay that run the payment flow: recover, sweep, drain, load, compare, and the
// stub acquirer itself.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "tools/load.hpp"
#include "tools/stub_book.hpp"

namespace kessai::tools {

class FlowCommands {
 public:
  /// Adds the commands to `app`.
  explicit FlowCommands(CLI::App& app);
  /// Runs the one that was given; nothing when it was none of these. Answers the exit code.
  [[nodiscard]] std::optional<int> run(bool json);

 private:
  CLI::App* add(CLI::App& app, const char* name, const char* help, bool has_store);
  [[nodiscard]] int run_recover();
  [[nodiscard]] int run_sweep();
  [[nodiscard]] int run_drain();
  [[nodiscard]] int drain_to(payments::Acquirer* acquirer, std::chrono::seconds window);
  [[nodiscard]] int run_load_command();
  [[nodiscard]] int run_compare();
  [[nodiscard]] int run_stub();
  [[nodiscard]] int report(const Error& error, const std::string& where,
                           bool opening = false) const;
  /// Opens store and flow and hands them to `use`.
  template <class Use>
  int with_flow(bool create, payments::Acquirer* acquirer, payments::FlowOptions options, Use use);

  bool json_ = false;
  std::string store_, log_, acquirer_, answers_, a_, b_;
  std::string stub_ = "direct";
  unsigned memory_mib_ = 256, limit_seconds_ = 600, window_seconds_ = 60, worse_percent_ = 10,
           port_ = 0;
  std::size_t in_flight_ = 4096;
  bool until_eof_ = false;
  std::string keys_ = "hashed";
  StubProfile profile_;
  LoadOptions load_options_;
  CLI::App *recover_, *sweep_, *drain_, *load_, *compare_, *stub_command_;
};

}  // namespace kessai::tools
