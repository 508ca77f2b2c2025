// SPDX-License-Identifier: Apache-2.0
// Snapshots and transactions: snapshot_get, txn_update, mixed, hot_row, long_reader.
#include <algorithm>
#include <atomic>
#include <thread>

#include "bench/probe.hpp"
#include "bench/run.hpp"

namespace kessai::bench {

json Run::snapshot_get() {
  open({});
  const bool bare = engine_->can(Feature::bare_tree);
  std::atomic<std::uint64_t> snapshot_ns{0}, tree_ns{0}, tree_gets{0};
  const auto body = [&](Worker& w) {
    constexpr std::uint64_t kBlock = 256;
    const auto snapshot = engine_->hold_snapshot();
    Rng rng = rng_of(w);
    const auto block = [&](auto&& get) {
      const std::uint64_t start = now_ns();
      for (std::uint64_t g = 0; g < kBlock; ++g) {
        const std::uint64_t i = rng.below(spec_.n);
        const std::optional<std::string_view> value = get(Key(i, KeyOrder::random).view());
        if (!value) fail("record " + std::to_string(i) + " is missing");
        verify(*value, i, spec_.value_bytes);
      }
      return now_ns() - start;
    };
    // In turns of a fraction of a millisecond: whatever else the machine does disturbs both alike.
    while (w.running()) {
      const std::uint64_t ns = block([&](std::string_view key) { return snapshot->get(key); });
      snapshot_ns += ns;
      w.ops += kBlock;
      w.latencies.add(ns / kBlock);
      if (!bare) continue;
      tree_ns += block([&](std::string_view key) { return w.session->tree_get(key); });
      tree_gets += kBlock;
    }
  };
  Measured m = run_section(*engine_, {.threads = spec_.threads,
                                      .seconds = spec_.seconds,
                                      .warm = [this](Worker& w) { warm_by_scan(w); },
                                      .body = body});
  // The snapshot's share of the section.
  const auto seconds = [this](std::uint64_t ns) {
    return static_cast<double>(ns) * 1e-9 / spec_.threads;
  };
  m.cpu_us *= static_cast<double>(snapshot_ns) / static_cast<double>(snapshot_ns + tree_ns);
  m.seconds = seconds(snapshot_ns);
  if (!bare) return finish(m);
  const double tree_rate = static_cast<double>(tree_gets) / seconds(tree_ns);
  const double rate = static_cast<double>(m.ops) / m.seconds;
  return finish(m, {{"tree_ops_per_s", tree_rate}, {"of_tree", rate / tree_rate}});
}

// ---- transactions -------------------------------------------------------------------------------

json Run::txn_update() {
  const std::uint64_t records = open_small(KeyOrder::ascending);
  std::atomic<std::uint64_t> retries{0};
  const auto body = [&](Worker& w) {
    const std::uint64_t first = records * w.index / spec_.threads;
    const std::uint64_t count = records * (w.index + 1) / spec_.threads - first;
    Rng rng = rng_of(w);
    Value value(spec_.value_bytes, spec_.seed + w.index);
    std::uint64_t i = 0, version = 0;
    const TxnBody txn = [&](Txn& t) {
      const Key key(i, KeyOrder::ascending);
      std::string_view current;
      if (!t.get(key.view(), current)) return false;
      verify(current, i, spec_.value_bytes);
      return t.put(key.view(), value.stamped(i, ++version));
    };
    w.loop(4, [&] {
      i = first + rng.below(count);
      retries += w.session->transact(txn, false);
      return 1;
    });
  };
  const Measured m = run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = {}, .body = body});
  return finish(m, retried(m, retries));
}

json Run::mixed() {
  const std::uint64_t records = open_small(KeyOrder::random);
  const std::uint64_t hot = std::min<std::uint64_t>(records, 1000);
  std::atomic<std::uint64_t> retries{0};
  const auto body = [&](Worker& w) {
    struct Op {
      std::uint64_t record = 0;
      bool read = false;
    };
    Op ops[8];
    Rng rng = rng_of(w);
    Value value(spec_.value_bytes, spec_.seed + w.index);
    std::uint64_t version = 0;
    const TxnBody txn = [&](Txn& t) {
      for (const Op& op : ops) {
        const Key key(op.record, KeyOrder::random);
        std::string_view current;
        if (!op.read) {
          if (!t.put(key.view(), value.stamped(op.record, ++version))) return false;
        } else if (t.get(key.view(), current)) {
          verify(current, op.record, spec_.value_bytes);
        } else {
          return false;
        }
      }
      return true;
    };
    w.loop(4, [&] {
      for (Op& op : ops) {
        op.record = rng.below(rng.below(2) == 0 ? hot : records);
        op.read = rng.below(100) < spec_.reads;
      }
      retries += w.session->transact(txn, std::ranges::all_of(ops, &Op::read));
      return 1;
    });
  };
  const Measured m = run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = {}, .body = body});
  return finish(m, retried(m, retries));
}

json Run::hot_row() {
  open({.durable = true});
  preload(small_store(), KeyOrder::random, 10'000);
  const Key row(0, KeyOrder::random);
  std::atomic<std::uint64_t> retries{0};
  const auto body = [&](Worker& w) {
    Value value(spec_.value_bytes, spec_.seed + w.index);
    const TxnBody txn = [&](Txn& t) {
      std::string_view current;
      return t.get_for_update(row.view(), current) &&
             t.put(row.view(), value.stamped(0, version_of(current) + 1));
    };
    w.loop(1, [&] {
      retries += w.session->transact(txn, false);
      return 1;
    });
  };
  const auto before = engine_->counters();
  const Measured m = run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = {}, .body = body});
  json extra = retried(m, retries);
  if (const auto after = engine_->counters()) {
    const auto flushes = static_cast<double>(after->log_flushes - before->log_flushes);
    extra["flushes_per_s"] = flushes / m.seconds;
    extra["flushes_per_op"] = flushes / static_cast<double>(m.ops);
  }
  {
    const auto session = engine_->session();
    const auto last = session->get(row.view());
    if (!last || version_of(*last) != m.ops)
      fail("the hot row counts " + std::to_string(last ? version_of(*last) : 0) + " of " +
           std::to_string(m.ops) + " updates");
  }
  return finish(m, std::move(extra));
}

// ---- a snapshot that stays open -----------------------------------------------------------------

/// Records a second of whole scans of `snapshot`, then of random gets in it, while `writers`
/// threads write.
Run::ReaderCosts Run::read_snapshot(Snapshot& snapshot, std::uint64_t records, unsigned writers,
                                    const std::function<void(Worker&)>& write) {
  struct Check final : RecordSink {
    std::uint64_t bytes = 0, seen = 0, versions = 0;
    bool record(std::string_view key, std::string_view value) override {
      verify(value, std::byteswap(stamp_of(key.substr(8))), bytes);
      versions += version_of(value);
      ++seen;
      return true;
    }
  };
  ReaderCosts costs;
  const double seconds = std::min(spec_.seconds, 2.0);
  const auto scan = [&] {
    Check check;
    check.bytes = spec_.value_bytes;
    snapshot.scan(check);
    if (check.seen != records) fail("the snapshot lost records");
    if (snapshot_versions_.value_or(check.versions) != check.versions) fail("the snapshot changed");
    snapshot_versions_ = check.versions;
    return check.seen;
  };
  const auto read_some = [&](Rng& rng) {
    constexpr std::uint64_t kGets = 256;
    for (std::uint64_t g = 0; g < kGets; ++g) {
      const std::uint64_t i = rng.below(records);
      const auto value = snapshot.get(Key(i, KeyOrder::random).view());
      if (!value) fail("the snapshot lost record " + std::to_string(i));
      verify(*value, i, spec_.value_bytes);
    }
    return kGets;
  };
  const auto cost_of = [](auto&& some, auto&& go_on) {
    const std::uint64_t start = now_ns();
    const double cpu = thread_cpu_ns();
    double done = 0, ns = 0;
    do {
      done += static_cast<double>(some());
      ns = static_cast<double>(now_ns() - start);
    } while (go_on(ns));
    return Cost{ns / done, (thread_cpu_ns() - cpu) / done};
  };
  const auto body = [&](Worker& w) {
    if (w.index < writers) return write(w);
    Rng rng = rng_of(w);
    costs.scan = cost_of(scan, [&](double ns) { return ns < seconds * 0.5e9; });
    costs.get = cost_of([&] { return read_some(rng); }, [&](double) { return w.running(); });
  };
  run_section(*engine_, {.threads = writers + 1, .seconds = seconds, .warm = {}, .body = body});
  return costs;
}

json Run::long_reader() {
  const std::uint64_t records = open_small(KeyOrder::random);
  const auto write = [this, records](Worker& w) {
    Rng rng = rng_of(w);
    Value value(spec_.value_bytes, spec_.seed + w.index);
    std::uint64_t version = 0;
    w.loop(4, [&] {
      const std::uint64_t i = rng.below(records);
      w.session->put(Key(i, KeyOrder::random).view(), value.stamped(i, ++version));
      return 1;
    });
  };
  SectionPlan plan{.threads = spec_.threads, .seconds = 0, .warm = {}, .body = write};
  plan.seconds = std::max(spec_.seconds / 6, std::min(spec_.seconds, 3.0));
  const Measured quiet = run_section(*engine_, plan);
  const double before = static_cast<double>(allocated_bytes(spec_.dir));
  auto snapshot = engine_->hold_snapshot();
  const ReaderCosts alone = read_snapshot(*snapshot, records, 0, write);
  double undo_mib = 0;
  plan.seconds = spec_.seconds;
  Measured held;
  {
    const std::jthread sampler([&](const std::stop_token& stop) {
      for (; !stop.stop_requested(); std::this_thread::sleep_for(std::chrono::milliseconds(20))) {
        if (const auto c = engine_->counters()) undo_mib = std::max(undo_mib, c->undo_mib);
      }
    });
    held = run_section(*engine_, plan);
  }
  const double grown = static_cast<double>(allocated_bytes(spec_.dir)) - before;
  const ReaderCosts beside = read_snapshot(*snapshot, records, spec_.threads, write);
  snapshot.reset();
  const double quiet_rate = static_cast<double>(quiet.ops) / quiet.seconds;
  json extra = {{"quiet_ops_per_s", quiet_rate},
                {"kept", static_cast<double>(held.ops) / held.seconds / quiet_rate},
                {"grown_mib", grown / 1048576.0},
                {"reader_slowdown", beside.get.wall_ns / alone.get.wall_ns},
                {"reader_slowdown_cpu", beside.get.cpu_ns / alone.get.cpu_ns},
                {"reader_get_ns", beside.get.cpu_ns},
                {"scan_slowdown", beside.scan.wall_ns / alone.scan.wall_ns},
                {"scan_slowdown_cpu", beside.scan.cpu_ns / alone.scan.cpu_ns},
                {"reader_scan_ns", beside.scan.cpu_ns}};
  if (const auto c = engine_->counters()) {
    extra["undo_mib"] = undo_mib;
    extra["undo_limit_mib"] = c->undo_limit_mib;
  }
  return finish(held, std::move(extra));
}

}  // namespace kessai::bench
