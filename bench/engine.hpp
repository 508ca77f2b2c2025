// SPDX-License-Identifier: Apache-2.0
// One face for all engines, so that each workload is written once.
//
// Promises: a `Session` method does what its comment says in the engine's own best form (LMDB hands
// out pointers into its map, RocksDB pins blocks, ...). Any failure ends the process through
// `fail()`: every engine runs in a child process of its own and a benchmark with errors has no
// rate. Threads: an Engine is shared, a Session belongs to one thread. Sessions and Snapshots are
// destroyed before `close()`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kessai::bench {

/// Reports `what` to the parent process and ends this one.
[[noreturn]] void fail(const std::string& what);

struct Record {
  std::string_view key;
  std::string_view value;
};

enum class Access : std::uint8_t { random, sequential };

struct EngineOptions {
  std::size_t cache_mib = 512;
  bool durable = false;            ///< each commit of this opening waits for the device
  Access access = Access::random;  ///< a hint for read-ahead
  bool cold = false;      ///< data larger than the cache: direct I/O where the engine has it
  bool keep_log = false;  ///< recovery: no checkpoint before the kill, all updates are redone
  unsigned threads = 1;
};

/// Receives values; `index` is the position in multi_get's keys.
class ValueSink {
 public:
  virtual ~ValueSink() = default;
  virtual void value(std::size_t index, std::string_view value) = 0;
};

/// Receives the records of a scan; false stops it.
class RecordSink {
 public:
  virtual ~RecordSink() = default;
  virtual bool record(std::string_view key, std::string_view value) = 0;
};

/// A transaction in progress. False: the engine gave it up; return at once.
class Txn {
 public:
  /// REQUIRES the key to exist. `value` stays valid until the next call.
  virtual bool get(std::string_view key, std::string_view& value) = 0;
  virtual bool get_for_update(std::string_view key, std::string_view& value) = 0;
  virtual bool put(std::string_view key, std::string_view value) = 0;

 protected:
  ~Txn() = default;
};
/// May run several times. False: a call of the transaction answered false.
using TxnBody = std::function<bool(Txn&)>;

class Session {
 public:
  virtual ~Session() = default;
  /// Views stay valid until the next call; nullopt when absent.
  virtual std::optional<std::string_view> get(std::string_view key) = 0;
  /// Absent keys are not reported. Engines without a batched lookup loop over get().
  virtual void multi_get(std::span<const std::string_view> keys, ValueSink& sink) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (const auto found = get(keys[i])) sink.value(i, *found);
    }
  }
  virtual void scan(RecordSink& sink) = 0;  ///< the whole tree in key order
  /// One transaction of blind writes. `ascending`: all keys lie behind the last one in the tree.
  virtual void put_all(std::span<const Record> records, bool ascending) = 0;
  /// One transaction of one blind write.
  virtual void put(std::string_view key, std::string_view value) = 0;
  /// One transaction of inserts, each of which must find its key absent.
  virtual void insert_all(std::span<const Record> records) = 0;
  /// Runs `body` as one transaction, anew until it is committed; answers how often it had to be
  /// run again. `read_only`: the body puts nothing. REQUIRES Feature::transactions.
  virtual std::uint64_t transact(const TxnBody& /*body*/, bool /*read_only*/) {
    fail("no transactions");
  }
  /// The record as the bare tree below the engine has it. REQUIRES Feature::bare_tree.
  virtual std::optional<std::string_view> tree_get(std::string_view /*key*/) {
    fail("no bare tree");
  }
  /// As put(), answered before it is durable; await_ticket() waits for it. REQUIRES
  /// Feature::tickets.
  virtual void put_ticket(std::size_t /*slot*/, std::string_view /*key*/,
                          std::string_view /*value*/) {
    fail("no tickets");
  }
  /// The same for insert_all().
  virtual void insert_ticket(std::size_t /*slot*/, std::span<const Record> /*records*/) {
    fail("no tickets");
  }
  virtual void await_ticket(std::size_t /*slot*/) { fail("no tickets"); }
  static constexpr std::size_t kTicketSlots = 1024;
};

/// What the store held when it was taken. Belongs to one thread at a time.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  virtual std::optional<std::string_view> get(std::string_view key) = 0;  ///< as Session::get
  virtual void scan(RecordSink& sink) = 0;
};

/// What not every engine has.
enum class Feature : std::uint8_t {
  any,           ///< all have it
  tickets,       ///< commits that are answered before they are durable
  transactions,  ///< Session::transact
  snapshots,     ///< that do not stop writers
  bare_tree,     ///< Session::tree_get
};

/// Totals since open.
struct Counters {
  std::uint64_t log_flushes = 0;
  double undo_mib = 0;  ///< now: before-images kept for snapshots
  double undo_limit_mib = 0;
  double leaf_split_s = 0, page_latch_s = 0;  ///< waited by all threads together
};

/// What the file cache of the kernel is to an engine whose data does not fit its own cache.
enum class PageCacheUse : std::uint8_t {
  bypassed,      ///< direct I/O
  second_cache,  ///< the engine caches on its own: the kernel's copy is dropped
  only_cache,    ///< the map is the cache: the kernel may keep `cache_mib` of it
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;
  virtual std::string version() const = 0;
  virtual void open(const std::string& dir, const EngineOptions& options) = 0;
  virtual std::unique_ptr<Session> session() = 0;
  virtual std::unique_ptr<Snapshot> hold_snapshot() = 0;
  virtual bool can(Feature feature) const {
    return feature == Feature::any || feature == Feature::snapshots;
  }
  virtual std::optional<Counters> counters() { return {}; }
  /// After a bulk load: brings the store into the shape that reads like best (compaction).
  virtual void settle() {}
  /// Live record bytes / usable leaf bytes, for B-trees.
  virtual std::optional<double> fill(std::size_t /*records*/, std::size_t /*record_bytes*/) {
    return {};
  }
  virtual PageCacheUse page_cache_use() const = 0;
  virtual void close() = 0;
};

/// The engines of this build that run by default, kessai first.
std::vector<std::string> engine_names();
/// By name, also those that do not run by default; nullptr when this build has no such engine.
std::unique_ptr<Engine> make_engine(std::string_view name);

/// kessai, kessai_rc, kessai_ser, kessai_s2pl (which opens only in the S2PL build's program).
std::unique_ptr<Engine> make_kessai_engine(std::string_view name);
std::unique_ptr<Engine> make_lmdb_engine();
std::unique_ptr<Engine> make_lmdb_writemap_engine();
std::unique_ptr<Engine> make_rocksdb_engine();
std::unique_ptr<Engine> make_leveldb_engine();
std::unique_ptr<Engine> make_sqlite_engine();

}  // namespace kessai::bench
