// SPDX-License-Identifier: Apache-2.0
// The workloads, each written once over Engine. They run in a child process: `run_child` takes what
// the parent asks for and answers one JSON object (see README.md for the definitions).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "bench/engine.hpp"

namespace kessai::bench {

/// Which store a run starts from. The parent prepares it.
enum class StoreKind : std::uint8_t {
  fresh,   ///< an empty directory
  loaded,  ///< n records, shared by all runs that only read
  copy,    ///< a copy of `loaded`, thrown away afterwards
};

struct Workload {
  std::string_view name;
  StoreKind store;
  std::string_view durability;  ///< of its writes; "none" where nothing is written
  bool in_floors = false;       ///< part of the set that --table runs by default
  Feature needs = Feature::any;
  std::span<const std::string_view> engines = {};  ///< when none are named; empty: all by default
  // what the command line does not say
  unsigned threads = 1;
  unsigned more_threads = 0;  ///< --table runs these, too
  unsigned runs = 5;
  double seconds = 3;
};

std::span<const Workload> workloads();
const Workload* find_workload(std::string_view name);

struct ChildSpec {
  std::string phase;  ///< "build" (the loaded store), "run", "reopen" (second half of recovery)
  std::string workload;
  std::string engine;
  std::string dir;
  std::uint64_t n = 0;
  std::uint64_t value_bytes = 0;
  std::uint64_t cache_mib = 0;
  std::uint64_t batch = 16;  ///< keys of one multi_get
  unsigned reads = 0;        ///< mixed: per cent of the operations
  unsigned threads = 1;
  double seconds = 3;
  std::uint64_t seed = 1;
  NLOHMANN_DEFINE_TYPE_INTRUSIVE(ChildSpec, phase, workload, engine, dir, n, value_bytes, cache_mib,
                                 batch, reads, threads, seconds, seed)
};

/// A quarter of the records' bytes: the cache of the cold workloads.
std::uint64_t cold_cache_mib(std::uint64_t n, std::uint64_t value_bytes);

/// Runs the child's part and writes its answer to `result_fd`. Does not return.
[[noreturn]] void run_child(const ChildSpec& spec, int result_fd);

}  // namespace kessai::bench
