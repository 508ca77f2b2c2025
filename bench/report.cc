// SPDX-License-Identifier: Apache-2.0
#include "bench/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

namespace kessai::bench {
namespace {

using nlohmann::ordered_json;

std::optional<double> median_of(std::vector<double> v) {
  if (v.empty()) return {};
  std::ranges::sort(v);
  const std::size_t half = v.size() / 2;
  return v.size() % 2 == 1 ? v[half] : (v[half - 1] + v[half]) / 2;
}

std::vector<double> values_of(const Series& s, const std::string& field) {
  std::vector<double> v;
  for (const auto& run : s.runs) {
    if (const auto it = run.find(field); it != run.end() && it->is_number())
      v.push_back(it->get<double>());
  }
  return v;
}

class Measurements {
 public:
  explicit Measurements(const std::vector<Series>& all) : all_(all) {}

  const Series* find(std::string_view workload, std::string_view engine, unsigned threads) const {
    const auto it = std::ranges::find_if(all_, [&](const Series& s) {
      return s.workload == workload && s.engine == engine && s.threads == threads &&
             s.error.empty();
    });
    return it == all_.end() ? nullptr : &*it;
  }
  std::optional<double> median(std::string_view workload, std::string_view engine, unsigned threads,
                               const std::string& field = "ops_per_s") const {
    const Series* s = find(workload, engine, threads);
    return s == nullptr ? std::nullopt : s->median(field);
  }
  /// The largest median over all thread counts.
  std::optional<double> best(std::string_view workload, std::string_view engine) const {
    std::optional<double> best;
    for (const Series& s : all_) {
      if (s.workload != workload || s.engine != engine || !s.error.empty()) continue;
      if (const auto m = s.median("ops_per_s"); m && (!best || *m > *best)) best = m;
    }
    return best;
  }
  /// The median of a number computed within each run, so that a drifting device cancels out.
  std::optional<double> paired(
      const Series* s,
      const std::function<std::optional<double>(const nlohmann::json&)>& of) const {
    std::vector<double> v;
    if (s == nullptr) return {};
    for (const auto& run : s->runs) {
      if (const auto x = of(run)) v.push_back(*x);
    }
    return median_of(std::move(v));
  }

 private:
  const std::vector<Series>& all_;
};

std::optional<double> ratio(std::optional<double> a, std::optional<double> b) {
  return a && b && *b > 0 ? std::optional(*a / *b) : std::nullopt;
}

}  // namespace

std::optional<double> Series::median(const std::string& field) const {
  return median_of(values_of(*this, field));
}

ordered_json row_of(const Series& s) {
  ordered_json row = {{"workload", s.workload}, {"engine", s.engine}, {"version", s.version}};
  row["threads"] = s.threads;
  if (s.reads) row["reads"] = *s.reads;
  if (!s.error.empty()) {
    row["error"] = s.error;
    return row;
  }
  const auto put = [&](const char* name) {
    const auto m = s.median(name);
    row[name] = m ? ordered_json(*m) : ordered_json(nullptr);
  };
  put("ops_per_s");
  const auto rates = values_of(s, "ops_per_s");
  row["ops_per_s_min"] = rates.empty() ? 0 : std::ranges::min(rates);
  row["ops_per_s_max"] = rates.empty() ? 0 : std::ranges::max(rates);
  for (const char* name : {"p50_us", "p99_us", "p999_us", "cpu_us_per_op", "rss_mib"}) put(name);
  row["n"] = s.n;
  row["value_bytes"] = s.value_bytes;
  row["durability"] = s.durability;
  put("device_flush_us");
  row["cache_mib"] = s.cache_mib;
  row["runs"] = s.runs.size();
  // What only some workloads have, e.g. fill, reopen_s, device_reads_per_s.
  if (!s.runs.empty()) {
    for (const auto& [name, first] : s.runs.front().items()) {
      if (row.contains(name)) continue;
      if (first.is_boolean()) {
        row[name] =
            std::ranges::all_of(s.runs, [&](const auto& r) { return r.value(name, false); });
      } else {
        put(name.c_str());
      }
    }
  }
  return row;
}

std::string line_heading() {
  return fmt::format("{:<15} {:<11} {:>3} {:>13} {:>22} {:>10} {:>10} {:>10} {:>9} {:>8} {:>9}",
                     "workload", "engine", "thr", "ops/s", "min..max", "p50 us", "p99 us",
                     "p99.9 us", "cpu us/op", "rss MiB", "flush us");
}

std::string line_of(const Series& s) {
  const std::string workload = s.reads ? fmt::format("{} {}%r", s.workload, *s.reads) : s.workload;
  if (!s.error.empty())
    return fmt::format("{:<15} {:<11} {:>3} failed: {}", workload, s.engine, s.threads, s.error);
  const auto m = [&](const char* field) { return s.median(field).value_or(0); };
  const auto rates = values_of(s, "ops_per_s");
  const std::string span =
      fmt::format("{:.0f}..{:.0f}", std::ranges::min(rates), std::ranges::max(rates));
  std::string line = fmt::format(
      "{:<15} {:<11} {:>3} {:>13.0f} {:>22} {:>10.2f} {:>10.2f} {:>10.2f} {:>9.3f} {:>8.1f} "
      "{:>9.1f}",
      workload, s.engine, s.threads, m("ops_per_s"), span, m("p50_us"), m("p99_us"), m("p999_us"),
      m("cpu_us_per_op"), m("rss_mib"), m("device_flush_us"));
  for (const char* extra : {"fill", "reopen_s", "tail_kept", "kept", "grown_mib", "undo_mib",
                            "reader_slowdown", "scan_slowdown", "of_tree", "flushes_per_op",
                            "retries_per_op", "device_reads_per_s", "read_kib_per_op"}) {
    if (const auto v = s.median(extra)) line += fmt::format("  {}={:.4g}", extra, *v);
  }
  return line;
}

std::vector<Floor> floors_of(const std::vector<Series>& all) {
  const Measurements m(all);
  const auto versus = [&](const char* name, const char* workload, const char* peer_workload,
                          const char* peer, unsigned threads, double limit,
                          const char* engine = "kessai") {
    return Floor{name,
                 ratio(m.median(workload, engine, threads), m.median(peer_workload, peer, threads)),
                 limit,
                 ratio(m.median(peer_workload, peer, threads, "cpu_us_per_op"),
                       m.median(workload, engine, threads, "cpu_us_per_op"))};
  };
  const auto field = [](const nlohmann::json& run, const char* name) -> std::optional<double> {
    const auto it = run.find(name);
    return it == run.end() || !it->is_number() ? std::nullopt : std::optional(it->get<double>());
  };
  const auto of_raw_flush =
      m.paired(m.find("commit_durable", "kessai", 1), [&](const nlohmann::json& run) {
        const auto flush = field(run, "device_flush_us");
        return flush ? std::optional(run.at("ops_per_s").get<double>() * *flush / 1e6)
                     : std::nullopt;
      });
  // Without early release of its lock, a row that each commit changes durably costs a flush each.
  const auto of_flushes = [&](const char* engine) {
    return m.paired(m.find("hot_row", engine, 64), [&](const nlohmann::json& run) {
      const auto rate = field(run, "ops_per_s"), flush = field(run, "device_flush_us");
      return rate && flush ? std::optional(*rate * *flush / 1e6) : std::nullopt;
    });
  };
  const auto of_undo = m.paired(m.find("long_reader", "kessai", 1), [&](const nlohmann::json& run) {
    return ratio(field(run, "undo_mib"), field(run, "undo_limit_mib"));
  });
  const auto of_device =
      m.paired(m.find("cold_multi_get", "kessai", 1), [&](const nlohmann::json& run) {
        return ratio(field(run, "ops_per_s"), field(run, "device_reads_per_s"));
      });
  std::optional<double> over_budget, fresh;
  for (const Series& s : all) {
    if (!s.engine.starts_with("kessai") || !s.error.empty()) continue;
    const auto budget = s.median("cold_cache_mib").value_or(static_cast<double>(s.cache_mib));
    if (const auto rss = s.median("rss_mib"))
      over_budget = std::max(over_budget.value_or(-1e9), *rss - budget);
    if (const auto f = s.median("fresh_mib")) fresh = std::max(fresh.value_or(0), *f);
  }
  return {
      versus("get_rand, 1 thread: kessai / lmdb", "get_rand", "get_rand", "lmdb", 1, 1.3),
      versus("get_rand, 1 thread: kessai / rocksdb", "get_rand", "get_rand", "rocksdb", 1, 3.0),
      versus("scan: kessai / lmdb", "scan", "scan", "lmdb", 1, 1.5),
      versus("multi_get kessai / get_rand lmdb", "multi_get", "get_rand", "lmdb", 1, 2.5),
      {"commit_durable, 1 thread: kessai / raw write+flush", of_raw_flush, 0.8, {}},
      versus("commit_durable, 64 threads: kessai / rocksdb", "commit_durable", "commit_durable",
             "rocksdb", 64, 1.5),
      versus("commit_durable, 64 threads: kessai / leveldb", "commit_durable", "commit_durable",
             "leveldb", 64, 1.0),
      {"commit_ticket kessai / best commit_durable rocksdb",
       ratio(m.best("commit_ticket", "kessai"), m.best("commit_durable", "rocksdb")),
       5.0,
       {}},
      versus("load_rand: kessai / lmdb without sync", "load_rand", "load_rand", "lmdb", 1, 1.0),
      {"load_seq: fill of kessai", m.median("load_seq", "kessai", 1, "fill"), 0.95, {}},
      {"cold_multi_get kessai / device at equal depth", of_device, 0.7, {}},
      {"recovery: sqlite's reopen time / kessai's",
       ratio(m.median("recovery", "sqlite", 1, "reopen_s"),
             m.median("recovery", "kessai", 1, "reopen_s")),
       1.0,
       {}},
      {"snapshot_get: kessai / the bare tree",
       m.median("snapshot_get", "kessai", 1, "of_tree"),
       0.9,
       {}},
      versus("update, 2 threads: kessai / rocksdb", "update", "update", "rocksdb", 2, 2.0),
      versus("txn_update, 2 threads: serializable / snapshot", "txn_update", "txn_update", "kessai",
             2, 0.7, "kessai_ser"),
      versus("txn_update, 2 threads: s2pl / snapshot", "txn_update", "txn_update", "kessai", 2, 0.7,
             "kessai_s2pl"),
      {"hot_row, 64 threads: kessai / a commit a flush", of_flushes("kessai"), 4.0, {}},
      {"hot_row, 64 threads: kessai_rc / a commit a flush", of_flushes("kessai_rc"), 4.0, {}},
      {"hot_row, 64 threads: kessai_s2pl / a commit a flush", of_flushes("kessai_s2pl"), 4.0, {}},
      {"long_reader: writers keep", m.median("long_reader", "kessai", 1, "kept"), 0.9, {}},
      {"long_reader: undo / its budget", of_undo, 1.0, {}, false},
      {"long_reader: the reader's gets, times slower",
       m.median("long_reader", "kessai", 1, "reader_slowdown"), 2.0,
       m.median("long_reader", "kessai", 1, "reader_slowdown_cpu"), false},
      {"long_reader: the reader's scans, times slower",
       m.median("long_reader", "kessai", 1, "scan_slowdown"), 2.0,
       m.median("long_reader", "kessai", 1, "scan_slowdown_cpu"), false},
      {"resident memory above the budget, MiB (worst workload)", over_budget, 64, {}, false},
      {"disk of a fresh store, MiB", fresh, 16, {}, false},
  };
}

std::string modes_table(const std::vector<Series>& all) {
  struct Mode {
    const char *engine, *build, *level;
  };
  static constexpr Mode kModes[] = {{"kessai_rc", "mvcc", "read_committed"},
                                    {"kessai", "mvcc", "snapshot"},
                                    {"kessai_ser", "mvcc", "serializable"},
                                    {"kessai_s2pl", "s2pl", "all (serializable)"},
                                    {"rocksdb", "RocksDB TransactionDB", "reads unprotected"}};
  std::set<unsigned> shares, threads;
  std::map<std::tuple<std::string, unsigned, unsigned>, const Series*> cells;
  for (const Series& s : all) {
    if (!s.reads) continue;
    shares.insert(*s.reads);
    threads.insert(s.threads);
    cells[{s.engine, s.threads, *s.reads}] = &s;
  }
  std::string text = "| build | level | threads |", rule = "|---|---|--:|";
  for (const unsigned share : shares) {
    text += fmt::format(" {} % reads |", share);
    rule += "--:|";
  }
  text += "\n" + rule + "\n";
  const auto cell = [&](const char* engine, unsigned t, unsigned share) -> std::string {
    const auto it = cells.find({engine, t, share});
    if (it == cells.end()) return "";
    const auto rate = it->second->median("ops_per_s");
    if (!it->second->error.empty() || !rate) return "failed";
    const double again = it->second->median("retries_per_op").value_or(0) * 100;
    const std::string retries = again >= 0.05 ? fmt::format(" ({:.1f} %)", again) : "";
    return fmt::format("{:.1f}{}", *rate / 1000, retries);
  };
  for (const Mode& mode : kModes) {
    if (std::ranges::none_of(all, [&](const Series& s) { return s.engine == mode.engine; }))
      continue;
    for (const unsigned t : threads) {
      text += fmt::format("| {} | {} | {} |", mode.build, mode.level, t);
      for (const unsigned share : shares) text += fmt::format(" {} |", cell(mode.engine, t, share));
      text += "\n";
    }
  }
  return text;
}

}  // namespace kessai::bench
