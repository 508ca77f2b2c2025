// SPDX-License-Identifier: Apache-2.0
// Rows (medians over the alternating runs) and the ratios that kessai is held to.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace kessai::bench {

/// All runs of one engine on one workload at one thread count.
struct Series {
  std::string workload;
  std::string engine;
  std::string version;
  std::string durability;
  unsigned threads = 1;
  std::optional<unsigned> reads;  ///< of `mixed`: per cent of the operations
  std::uint64_t n = 0;
  std::uint64_t value_bytes = 0;
  std::uint64_t cache_mib = 0;
  std::vector<nlohmann::json> runs;  ///< children's answers, plus "device_flush_us"
  std::string error;                 ///< set when a run failed

  /// Median over the runs of a numeric field.
  std::optional<double> median(const std::string& field) const;
};

/// The row as the command-line contract has it: medians, with the rate's min and max.
nlohmann::ordered_json row_of(const Series& series);
/// The row for people, one line.
std::string line_of(const Series& series);
std::string line_heading();

struct Floor {
  std::string name;             ///< e.g. "get_rand kessai/lmdb"
  std::optional<double> value;  ///< nullopt: the rows it needs were not measured
  double limit = 0;
  std::optional<double>
      by_cpu;            ///< the same ratio in CPU time per operation: steadier on a busy machine
  bool at_least = true;  ///< false: the value must stay at or below the limit
  bool met() const { return value && (at_least ? *value >= limit : *value <= limit); }
};

std::vector<Floor> floors_of(const std::vector<Series>& all);

/// The rows of `mixed` as a Markdown table: build, level and threads down, read shares across.
std::string modes_table(const std::vector<Series>& all);

}  // namespace kessai::bench
