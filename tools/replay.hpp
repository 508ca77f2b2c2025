// SPDX-License-Identifier: Apache-2.0
// kvpay replay: invoice files through the ledger, each request in a durable commit of its own.
//
// One thread reads files and queues requests (bounded); the others record them. A worker keeps a
// bounded window of commits in flight, so that a few threads fill every flush, and counts a request
// only once its ticket says durable. Killed at any moment and run again, it ends with the same
// rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kessai/database.hpp"
#include "kessai/payments/invoice_file.hpp"
#include "tools/latency.hpp"
#include "tools/output.hpp"

namespace kessai::tools {

struct ReplayOptions {
  unsigned threads = 1;
  bool progress = false;
  /// When that many percent of the input are durable, one JSON line says so at once; 0 = never.
  unsigned milestone = 0;
  /// Freeze the process there (SIGSTOP), so that whoever kills it surely does so in the middle.
  bool hold = false;
  Sink out;
};

struct Rejected {
  std::string file;
  std::size_t file_index = 0;
  std::uint64_t line = 0;
  std::string id;
  payments::Refusal reason = payments::Refusal::none;
};

struct ReplayResult {
  std::uint64_t lines = 0;
  std::uint64_t accepted = 0, already_done = 0;
  std::vector<Rejected> rejected;  ///< in file and line order
  payments::Milli sum = 0;         ///< of accepted and already done
  double seconds = 0;
  LatencyHistogram commit_latency;
};

struct InputFile {
  std::string path;
  std::uint64_t bytes = 0;
};

/// The files that the paths mean: a folder stands for its *.csv in name order. Every file's header
/// is checked, so that a foreign file is refused before anything is written.
[[nodiscard]] Result<std::vector<InputFile>> collect_invoice_files(
    const std::vector<std::string>& paths);

[[nodiscard]] Result<ReplayResult> replay(Database& db, const std::vector<InputFile>& files,
                                          const ReplayOptions& options);

}  // namespace kessai::tools
