// SPDX-License-Identifier: Apache-2.0
#include "bench/workloads.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <thread>
#include <vector>

#include "bench/probe.hpp"
#include "bench/run.hpp"

namespace kessai::bench {
namespace {

constexpr std::string_view kTransactional[] = {"kessai", "kessai_rc", "kessai_ser", "kessai_s2pl",
                                               "rocksdb"};

constexpr Workload kWorkloads[] = {
    {"load_rand", StoreKind::fresh, "relaxed", true},
    {"load_seq", StoreKind::fresh, "relaxed", true},
    {"get_rand", StoreKind::loaded, "none", true},
    {"get_zipf", StoreKind::loaded, "none"},
    {"multi_get", StoreKind::loaded, "none", true},
    {"scan", StoreKind::loaded, "none", true},
    {.name = "snapshot_get",
     .store = StoreKind::loaded,
     .durability = "none",
     .in_floors = true,
     .needs = Feature::snapshots,
     .runs = 3},
    {.name = "update",
     .store = StoreKind::copy,
     .durability = "relaxed",
     .in_floors = true,
     .more_threads = 2,
     .runs = 3},
    {.name = "txn_update",
     .store = StoreKind::fresh,
     .durability = "relaxed",
     .in_floors = true,
     .needs = Feature::transactions,
     .engines = kTransactional,
     .threads = 2,
     .runs = 3},
    {.name = "mixed",
     .store = StoreKind::fresh,
     .durability = "relaxed",
     .needs = Feature::transactions,
     .engines = kTransactional,
     .threads = 2,
     .runs = 3},
    {.name = "hot_row",
     .store = StoreKind::fresh,
     .durability = "durable",
     .in_floors = true,
     .needs = Feature::transactions,
     .engines = kTransactional,
     .threads = 64,
     .runs = 3},
    {.name = "commit_durable",
     .store = StoreKind::fresh,
     .durability = "durable",
     .in_floors = true,
     .more_threads = 64},
    {.name = "commit_ticket",
     .store = StoreKind::fresh,
     .durability = "durable",
     .in_floors = true,
     .needs = Feature::tickets,
     .more_threads = 2},
    {"payment", StoreKind::fresh, "durable"},
    {.name = "payment_waits", .store = StoreKind::fresh, .durability = "durable", .threads = 64},
    {.name = "payment_ticket",
     .store = StoreKind::fresh,
     .durability = "durable",
     .needs = Feature::tickets},
    {"right_edge", StoreKind::fresh, "relaxed"},
    {"hashed_edge", StoreKind::fresh, "relaxed"},
    {"cold_get", StoreKind::loaded, "none"},
    {"cold_multi_get", StoreKind::loaded, "none", true},
    {"recovery", StoreKind::copy, "relaxed", true},
    {.name = "long_reader",
     .store = StoreKind::fresh,
     .durability = "relaxed",
     .in_floors = true,
     .needs = Feature::snapshots,
     .runs = 3,
     .seconds = 60},
};

constexpr std::uint64_t kLoadBatch = 100;
constexpr double kLoadPatience = 10;  // a load may take this many times --seconds

int g_result_fd = -1;

[[noreturn]] void answer(const json& result, int code) {
  const std::string text = result.dump() + "\n";
  const char* what = text.data();
  for (std::size_t left = text.size(); left > 0 && g_result_fd >= 0;) {
    const ssize_t n = ::write(g_result_fd, what, left);
    if (n <= 0) break;
    what += n;
    left -= static_cast<std::size_t>(n);
  }
  ::_exit(code);  // no destructors: other threads may still be inside the engine
}

}  // namespace

json Run::finish(const Measured& m, json extra) {
  json r = std::move(extra);
  const double ops = static_cast<double>(m.ops);
  r["ops"] = m.ops;
  r["seconds"] = m.seconds;
  r["ops_per_s"] = ops / m.seconds;
  r["p50_us"] = m.latencies.quantile_us(0.50);
  r["p99_us"] = m.latencies.quantile_us(0.99);
  r["p999_us"] = m.latencies.quantile_us(0.999);
  r["cpu_us_per_op"] = m.ops == 0 ? 0 : m.cpu_us / ops;
  r["rss_mib"] = m.rss_mib;
  engine_->close();
  return r;
}

// ---- loading ------------------------------------------------------------------------------------

void Run::preload(std::uint64_t records, KeyOrder order, std::uint64_t batch) {
  const auto session = engine_->session();
  std::vector<Key> keys(batch);
  std::vector<Value> values(batch, Value(spec_.value_bytes, spec_.seed));
  std::vector<Record> put(batch);
  for (std::uint64_t i = 0; i < records;) {
    std::size_t count = 0;
    for (; count < batch && i < records; ++count, ++i) {
      keys[count] = Key(i, order);
      put[count] = {keys[count].view(), values[count].stamped(i)};
    }
    session->put_all(std::span(put).first(count), order == KeyOrder::ascending);
  }
}

json Run::build() {
  open({});
  const std::uint64_t start = now_ns();
  preload(spec_.n, KeyOrder::random,
          1000);  // larger batches than `load_rand`: same tree, less waiting
  engine_->settle();
  engine_->close();
  return {{"seconds", static_cast<double>(now_ns() - start) * 1e-9},
          {"disk_mib", static_cast<double>(allocated_bytes(spec_.dir)) / 1048576.0}};
}

json Run::load(KeyOrder order) {
  open({.access = order == KeyOrder::random ? Access::random : Access::sequential});
  const double fresh_mib = static_cast<double>(allocated_bytes(spec_.dir)) / 1048576.0;
  std::atomic<std::uint64_t> next{0};
  const auto body = [&](Worker& w) {
    std::vector<Key> keys(kLoadBatch);
    std::vector<Value> values(kLoadBatch, Value(spec_.value_bytes, spec_.seed + w.index));
    std::vector<Record> batch(kLoadBatch);
    w.loop(1, [&]() -> std::uint64_t {
      const std::uint64_t from = next.fetch_add(kLoadBatch),
                          to = std::min(from + kLoadBatch, spec_.n);
      if (from >= to) return 0;
      for (std::uint64_t i = from; i < to; ++i) {
        keys[i - from] = Key(i, order);
        batch[i - from] = {keys[i - from].view(), values[i - from].stamped(i)};
      }
      w.session->put_all(std::span(batch).first(to - from),
                         order == KeyOrder::ascending && spec_.threads == 1);
      return to - from;
    });
  };
  const Measured m = run_section(*engine_, {.threads = spec_.threads,
                                            .seconds = spec_.seconds * kLoadPatience,
                                            .warm = {},
                                            .body = body});
  json extra = {{"fresh_mib", fresh_mib}, {"complete", m.ops == spec_.n}};
  const auto fill = engine_->fill(m.ops, record_bytes());
  extra["fill"] = fill ? json(*fill) : json(nullptr);
  const std::uint64_t closing = now_ns();
  json r = finish(m, std::move(extra));
  r["close_s"] = static_cast<double>(now_ns() - closing) * 1e-9;
  r["disk_mib"] = static_cast<double>(allocated_bytes(spec_.dir)) / 1048576.0;
  return r;
}

// ---- reads --------------------------------------------------------------------------------------

void Run::get_body(Worker& w, bool zipf, unsigned sample) const {
  Rng rng = rng_of(w);
  ZipfDraws draws(zipf ? spec_.n : 1, spec_.seed + w.index, zipf ? std::size_t{1} << 20 : 1);
  w.loop(sample, [&] {
    const std::uint64_t i = zipf ? draws.next() : rng.below(spec_.n);
    const Key key(i, KeyOrder::random);
    const auto value = w.session->get(key.view());
    if (!value) fail("record " + std::to_string(i) + " is missing");
    verify(*value, i, spec_.value_bytes);
    return 1;
  });
}

void Run::multi_get_body(Worker& w, unsigned sample) const {
  struct Check final : ValueSink {
    std::vector<std::uint64_t> wanted;
    std::uint64_t bytes = 0, found = 0;
    void value(std::size_t index, std::string_view value) override {
      verify(value, wanted[index], bytes);
      ++found;
    }
  } check;
  check.wanted.resize(spec_.batch);
  check.bytes = spec_.value_bytes;
  std::vector<Key> keys(spec_.batch);
  std::vector<std::string_view> views(spec_.batch);
  Rng rng = rng_of(w);
  w.loop(sample, [&] {
    for (std::size_t k = 0; k < spec_.batch; ++k) {
      check.wanted[k] = rng.below(spec_.n);
      keys[k] = Key(check.wanted[k], KeyOrder::random);
      views[k] = keys[k].view();
    }
    check.found = 0;
    w.session->multi_get(views, check);
    if (check.found != spec_.batch) fail("multi_get missed a record");
    return spec_.batch;
  });
}

void Run::scan_body(Worker& w) const {
  struct Check final : RecordSink {
    Worker* worker = nullptr;
    std::uint64_t bytes = 0, seen = 0;
    bool record(std::string_view key, std::string_view value) override {
      verify(value, std::byteswap(stamp_of(key.substr(8))), bytes);
      return (++seen & 255) != 0 || worker->running();
    }
  } check;
  check.worker = &w;
  check.bytes = spec_.value_bytes;
  w.loop(1, [&] {
    check.seen = 0;
    w.session->scan(check);
    if (w.running() && check.seen != spec_.n)
      fail("scan saw " + std::to_string(check.seen) + " records");
    return check.seen;
  });
}

void Run::warm_by_scan(Worker& w) const {
  struct Touch final : RecordSink {
    bool record(std::string_view, std::string_view) override { return true; }
  } touch;
  if (w.index < 4) w.session->scan(touch);  // more connections than that only repeat each other
  const std::uint64_t gets = std::min<std::uint64_t>(spec_.n, 50'000);
  Rng rng = rng_of(w);
  for (std::uint64_t g = 0; g < gets; ++g) {
    (void)w.session->get(Key(rng.below(spec_.n), KeyOrder::random).view());
  }
}

std::function<void(Worker&)> Run::reader(std::string_view kind, unsigned sample) const {
  if (kind.ends_with("multi_get")) return [this, sample](Worker& w) { multi_get_body(w, sample); };
  if (kind == "scan") return [this](Worker& w) { scan_body(w); };
  return [this, sample, zipf = kind == "get_zipf"](Worker& w) { get_body(w, zipf, sample); };
}

json Run::hot_reads() {
  open({.access = spec_.workload == "scan" ? Access::sequential : Access::random});
  const SectionPlan plan{.threads = spec_.threads,
                         .seconds = spec_.seconds,
                         .warm = [this](Worker& w) { warm_by_scan(w); },
                         .body = reader(spec_.workload, spec_.workload == "multi_get" ? 4 : 16)};
  return finish(run_section(*engine_, plan));
}

json Run::cold_reads() {
  drop_page_cache(spec_.dir);
  const std::uint64_t cache_mib = cold_cache_mib(spec_.n, spec_.value_bytes);
  open({.cache_mib = cache_mib, .cold = true});
  std::optional<PageCacheLimit> limit;
  if (engine_->page_cache_use() == PageCacheUse::second_cache) limit.emplace(spec_.dir, 8u << 20);
  if (engine_->page_cache_use() == PageCacheUse::only_cache)
    limit.emplace(spec_.dir, cache_mib << 20);
  const auto body = reader(spec_.workload, 1);
  // The same reads, of other keys, fill each session's cache before the clock starts.
  const auto warm = [this, &body](Worker& w) {
    std::atomic<bool> filled{false};
    Worker filler{
        .index = w.index + 1000, .session = w.session, .stop = &filled, .ops = 0, .latencies = {}};
    const std::jthread timer([this, &filled] {
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(2.0, spec_.seconds)));
      filled.store(true);
    });
    body(filler);
  };
  const Measured m = run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = warm, .body = body});
  limit.reset();
  const unsigned depth =
      spec_.threads * (spec_.workload == "cold_multi_get" ? static_cast<unsigned>(spec_.batch) : 1);
  json extra = {{"depth", depth}, {"cold_cache_mib", cache_mib}};
  extra["read_kib_per_op"] =
      m.ops == 0 ? 0 : static_cast<double>(m.read_bytes) / 1024.0 / static_cast<double>(m.ops);
  json r = finish(m, std::move(extra));
  const auto device = probe_random_reads(spec_.dir, depth, std::clamp(spec_.seconds / 3, 0.1, 1.0));
  r["device_reads_per_s"] = device ? json(*device) : json(nullptr);
  return r;
}

// ---- writes -------------------------------------------------------------------------------------

json Run::update() {
  open({});
  const auto body = [this](Worker& w) {
    Rng rng = rng_of(w);
    Value value(spec_.value_bytes, spec_.seed + w.index);
    std::uint64_t version = 0;
    w.loop(4, [&] {
      const std::uint64_t i = rng.below(spec_.n);
      w.session->put(Key(i, KeyOrder::random).view(), value.stamped(i, ++version));
      return 1;
    });
  };
  return finish(run_section(*engine_, {.threads = spec_.threads,
                                       .seconds = spec_.seconds,
                                       .warm = [this](Worker& w) { warm_by_scan(w); },
                                       .body = body}));
}

void Run::ticket_body(Worker& w) const {
  Value value(spec_.value_bytes, spec_.seed + w.index);
  constexpr std::size_t kSlots = Session::kTicketSlots;
  std::vector<std::uint64_t> started(kSlots);
  std::uint64_t issued = 0, awaited = 0;
  const std::uint64_t base = new_records_base(w);
  const auto await = [&] {
    w.session->await_ticket(awaited % kSlots);
    w.latencies.add(now_ns() - started[awaited % kSlots]);
    ++awaited;
    ++w.ops;
  };
  // A full window waits for half of itself, so that each wait covers many commits of one flush.
  while (w.running()) {
    for (; issued - awaited < kSlots; ++issued) {
      started[issued % kSlots] = now_ns();
      const std::uint64_t i = base + issued;
      if (spec_.workload == "payment_ticket") {
        Key keys[3];
        Record rows[3];
        for (unsigned k = 0; k < 3; ++k) {
          keys[k] = Key(base + issued * 3 + k, KeyOrder::random);
          rows[k] = {keys[k].view(), value.stamped(i)};
        }
        w.session->insert_ticket(issued % kSlots, rows);
        continue;
      }
      w.session->put_ticket(issued % kSlots, Key(i, KeyOrder::random).view(), value.stamped(i));
    }
    while (issued - awaited > kSlots / 2) await();
  }
  while (awaited < issued) await();
}

json Run::commits() {
  open({.durable = true});
  preload(small_store(), KeyOrder::random, 10'000);
  const bool waits = spec_.workload == "payment_waits";
  const bool payment = waits || spec_.workload == "payment";
  const auto body = [this, payment, waits](Worker& w) {
    if (spec_.workload.ends_with("_ticket")) return ticket_body(w);
    Value values[3] = {{spec_.value_bytes, 1}, {spec_.value_bytes, 2}, {spec_.value_bytes, 3}};
    std::uint64_t i = new_records_base(w);
    w.loop(1, [&] {
      if (!payment) {
        w.session->put(Key(i, KeyOrder::random).view(), values[0].stamped(i));
        ++i;
        return 1;
      }
      Key keys[3];
      Record rows[3];
      for (unsigned k = 0; k < 3; ++k, ++i) {
        keys[k] = Key(i, KeyOrder::random);
        rows[k] = {keys[k].view(), values[k].stamped(i)};
      }
      if (!waits) {
        w.session->insert_all(rows);
      } else {  // request, transaction, result: each known to be durable before the next
        for (const Record& row : rows) w.session->insert_all({&row, 1});
      }
      return 1;
    });
  };
  return finish(run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = {}, .body = body}));
}

json Run::right_edge() {
  const KeyOrder order = spec_.workload == "hashed_edge" ? KeyOrder::random : KeyOrder::ascending;
  open({});
  const std::uint64_t first = small_store();
  preload(first, order, 1000);
  std::atomic<std::uint64_t> next{first};
  const auto before = engine_->counters();
  const auto body = [&](Worker& w) {
    Value value(spec_.value_bytes, spec_.seed + w.index);
    w.loop(4, [&] {
      const std::uint64_t i = next.fetch_add(1, std::memory_order_relaxed);
      w.session->put(Key(i, order).view(), value.stamped(i));
      return 1;
    });
  };
  const Measured m = run_section(
      *engine_, {.threads = spec_.threads, .seconds = spec_.seconds, .warm = {}, .body = body});
  const auto fill = engine_->fill(first + m.ops, record_bytes());
  json extra = {{"fill", fill ? json(*fill) : json(nullptr)}};
  if (const auto after = engine_->counters()) {  // shares of the threads' time
    const double all = m.seconds * spec_.threads;
    extra["leaf_split_share"] = (after->leaf_split_s - before->leaf_split_s) / all;
    extra["page_latch_share"] = (after->page_latch_s - before->page_latch_s) / all;
  }
  return finish(m, std::move(extra));
}

// ---- recovery: n/2 updates, kill -9 of ourselves, a new process opens
// -----------------------------

void Run::recovery_writes() {
  open({.keep_log = true});
  {
    const auto session = engine_->session();
    Rng rng(spec_.seed);
    Value value(spec_.value_bytes, spec_.seed);
    for (std::uint64_t u = 1; u <= spec_.n / 2; ++u) {
      const std::uint64_t i = rng.below(spec_.n);
      session->put(Key(i, KeyOrder::random).view(), value.stamped(i, u));
    }
  }
  ::kill(::getpid(), SIGKILL);
  ::_exit(5);
}

json Run::reopen() {
  const double cpu = process_cpu_us();
  const std::uint64_t start = now_ns();
  open({.keep_log = true});
  auto session = engine_->session();
  if (!session->get(Key(0, KeyOrder::random).view())) fail("record 0 is missing after recovery");
  Measured m;
  m.seconds = static_cast<double>(now_ns() - start) * 1e-9;
  m.cpu_us = process_cpu_us() - cpu;
  m.rss_mib = peak_rss_mib();
  m.ops = spec_.n / 2;
  m.latencies.add(now_ns() - start);
  // Relaxed commits may lose a tail: how many of the last thousand are there?
  Rng rng(spec_.seed);
  const std::uint64_t updates = spec_.n / 2, tail = std::min<std::uint64_t>(updates, 1000);
  std::uint64_t kept = 0;
  for (std::uint64_t u = 1; u <= updates; ++u) {
    const std::uint64_t i = rng.below(spec_.n);
    if (u <= updates - tail) continue;
    const auto value = session->get(Key(i, KeyOrder::random).view());
    if (!value) fail("record " + std::to_string(i) + " is missing after recovery");
    verify(*value, i, spec_.value_bytes);
    kept += version_of(*value) >= u ? 1 : 0;
  }
  session.reset();
  const double reopen_s = m.seconds;
  json r = finish(m, {{"reopen_s", reopen_s}});
  r["tail_kept"] = tail == 0 ? 1.0 : static_cast<double>(kept) / static_cast<double>(tail);
  return r;
}

json Run::run() {
  const std::string_view w = spec_.workload;
  if (w == "load_rand") return load(KeyOrder::random);
  if (w == "load_seq") return load(KeyOrder::ascending);
  if (w == "update") return update();
  if (w.ends_with("_edge")) return right_edge();
  if (w == "long_reader") return long_reader();
  if (w == "snapshot_get") return snapshot_get();
  if (w == "txn_update") return txn_update();
  if (w == "mixed") return mixed();
  if (w == "hot_row") return hot_row();
  if (w == "recovery") recovery_writes();
  if (w.starts_with("commit_") || w.starts_with("payment")) return commits();
  if (w.starts_with("cold_")) return cold_reads();
  return hot_reads();
}

std::span<const Workload> workloads() { return kWorkloads; }

const Workload* find_workload(std::string_view name) {
  const auto it = std::ranges::find(kWorkloads, name, &Workload::name);
  return it == std::end(kWorkloads) ? nullptr : it;
}

std::uint64_t cold_cache_mib(std::uint64_t n, std::uint64_t value_bytes) {
  return std::max<std::uint64_t>(1, n * (Key::kBytes + value_bytes) / 4 >> 20);
}

void fail(const std::string& what) {
  if (g_result_fd < 0) std::fprintf(stderr, "kvbench: %s\n", what.c_str());
  answer({{"error", what}}, 5);
}

void run_child(const ChildSpec& spec, int result_fd) {
  g_result_fd = result_fd;
  Run run(spec);
  if (spec.phase == "build") answer(run.build(), 0);
  if (spec.phase == "reopen") answer(run.reopen(), 0);
  answer(run.run(), 0);
}

}  // namespace kessai::bench
