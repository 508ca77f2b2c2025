// SPDX-License-Identifier: Apache-2.0
// One run of one workload in the child process: what workloads.cc (loads, reads, writes, recovery)
// and transactions.cc (snapshots and transactions) share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bench/data.hpp"
#include "bench/engine.hpp"
#include "bench/measure.hpp"
#include "bench/workloads.hpp"

namespace kessai::bench {

using nlohmann::json;

/// Records that commit and transaction workloads find in the store, at most.
inline constexpr std::uint64_t kPreload = 100'000;

inline void verify(std::string_view value, std::uint64_t i, std::uint64_t bytes) {
  if (value.size() != bytes || stamp_of(value) != i)
    fail("wrong value read for record " + std::to_string(i));
}

class Run {
 public:
  explicit Run(const ChildSpec& spec) : spec_(spec), engine_(make_engine(spec.engine)) {
    if (engine_ == nullptr) fail("no engine " + spec.engine + " in this build");
  }

  json build();
  json run();
  json reopen();

 private:
  // -- reads
  json hot_reads();
  json cold_reads();
  std::function<void(Worker&)> reader(std::string_view kind, unsigned sample) const;
  void get_body(Worker& w, bool zipf, unsigned sample) const;
  void multi_get_body(Worker& w, unsigned sample) const;
  void scan_body(Worker& w) const;
  void warm_by_scan(Worker& w) const;
  // -- writes
  json load(KeyOrder order);
  json update();
  json commits();
  json right_edge();
  [[noreturn]] void recovery_writes();
  void ticket_body(Worker& w) const;
  void preload(std::uint64_t records, KeyOrder order, std::uint64_t batch);
  // -- snapshots and transactions (transactions.cc)
  json snapshot_get();
  json txn_update();
  json mixed();
  json hot_row();
  json long_reader();
  struct Cost {
    double wall_ns = 0, cpu_ns = 0;  ///< one record, of the reading thread
  };
  struct ReaderCosts {
    Cost scan, get;
  };
  ReaderCosts read_snapshot(Snapshot& snapshot, std::uint64_t records, unsigned writers,
                            const std::function<void(Worker&)>& write);

  void open(EngineOptions options) {
    options.threads = spec_.threads;
    if (!options.cold) options.cache_mib = spec_.cache_mib;
    engine_->open(spec_.dir, options);
  }
  Rng rng_of(const Worker& w) const { return Rng(spec_.seed * 1'000'003 + w.index); }
  std::uint64_t new_records_base(const Worker& w) const {
    return (std::uint64_t{w.index} + 1) << 40;
  }
  json finish(const Measured& m, json extra = json::object());
  /// Opens the store with min(n, kPreload) records, durable and at rest; answers how many.
  std::uint64_t open_small(KeyOrder order) {
    open({});
    preload(small_store(), order, 1000);
    engine_->settle();
    return small_store();
  }
  std::uint64_t small_store() const { return std::min(spec_.n, kPreload); }
  std::uint64_t record_bytes() const { return Key::kBytes + spec_.value_bytes; }

  static json retried(const Measured& m, std::uint64_t retries) {
    return {{"retries_per_op",
             m.ops == 0 ? 0.0 : static_cast<double>(retries) / static_cast<double>(m.ops)}};
  }

  const ChildSpec& spec_;
  std::unique_ptr<Engine> engine_;
  std::optional<std::uint64_t> snapshot_versions_;  ///< sum over the records of the held snapshot
};

}  // namespace kessai::bench
