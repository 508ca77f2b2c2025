// SPDX-License-Identifier: Apache-2.0
// LMDB: big map, readers renewed (never begun anew), no read-ahead for random access, MDB_APPEND
// for ascending loads. Durable commits keep its default double sync; relaxed ones use MDB_NOSYNC.
#include <lmdb.h>

#include <cstring>

#include "bench/engine.hpp"

namespace kessai::bench {
namespace {

void check(int rc, const char* what) {
  if (rc != 0) fail(std::string("lmdb ") + what + ": " + mdb_strerror(rc));
}

MDB_val to_val(std::string_view s) { return {s.size(), const_cast<char*>(s.data())}; }
std::string_view to_view(const MDB_val& v) {
  return {static_cast<const char*>(v.mv_data), v.mv_size};
}

struct Env {
  MDB_env* env = nullptr;
  MDB_dbi dbi = 0;
};

std::optional<std::string_view> lookup(const Env& env, MDB_txn* txn, std::string_view key) {
  MDB_val k = to_val(key), v;
  const int rc = mdb_get(txn, env.dbi, &k, &v);
  if (rc == MDB_NOTFOUND) return {};
  check(rc, "get");
  return to_view(v);
}
void walk(const Env& env, MDB_txn* txn, RecordSink& sink) {
  MDB_cursor* cursor = nullptr;
  check(mdb_cursor_open(txn, env.dbi, &cursor), "cursor");
  MDB_val k, v;
  while (mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0 && sink.record(to_view(k), to_view(v))) {
  }
  mdb_cursor_close(cursor);
}

class LmdbSession final : public Session {
 public:
  explicit LmdbSession(const Env& env) : env_(env) {
    check(mdb_txn_begin(env_.env, nullptr, MDB_RDONLY, &reader_), "reader");
    mdb_txn_reset(reader_);
  }
  ~LmdbSession() override { mdb_txn_abort(reader_); }

  std::optional<std::string_view> get(std::string_view key) override {
    check(mdb_txn_renew(reader_), "renew");
    const auto found = lookup(env_, reader_, key);
    mdb_txn_reset(
        reader_);  // the view stays readable: nothing rewrites the page before the next call
    return found;
  }
  void multi_get(std::span<const std::string_view> keys, ValueSink& sink) override {
    check(mdb_txn_renew(reader_), "renew");
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (const auto found = lookup(env_, reader_, keys[i])) sink.value(i, *found);
    }
    mdb_txn_reset(reader_);
  }
  void scan(RecordSink& sink) override {
    check(mdb_txn_renew(reader_), "renew");
    walk(env_, reader_, sink);
    mdb_txn_reset(reader_);
  }
  void put_all(std::span<const Record> records, bool ascending) override {
    write(records, ascending ? MDB_APPEND : 0);
  }
  void put(std::string_view key, std::string_view value) override {
    const Record one{key, value};
    write({&one, 1}, 0);
  }
  void insert_all(std::span<const Record> records) override { write(records, MDB_NOOVERWRITE); }

 private:
  void write(std::span<const Record> records, unsigned flags) {
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_.env, nullptr, 0, &txn), "begin");
    for (const Record& r : records) {
      MDB_val k = to_val(r.key), v = to_val(r.value);
      check(mdb_put(txn, env_.dbi, &k, &v, flags), "put");
    }
    check(mdb_txn_commit(txn), "commit");
  }

  Env env_;
  MDB_txn* reader_ = nullptr;
};

class LmdbSnapshot final : public Snapshot {
 public:
  explicit LmdbSnapshot(const Env& env) : env_(env) {
    check(mdb_txn_begin(env_.env, nullptr, MDB_RDONLY, &txn_), "snapshot");
  }
  ~LmdbSnapshot() override { mdb_txn_abort(txn_); }
  std::optional<std::string_view> get(std::string_view key) override {
    return lookup(env_, txn_, key);
  }
  void scan(RecordSink& sink) override { walk(env_, txn_, sink); }

 private:
  Env env_;
  MDB_txn* txn_ = nullptr;
};

class LmdbEngine final : public Engine {
 public:
  explicit LmdbEngine(bool write_map) : write_map_(write_map) {}
  std::string name() const override { return write_map_ ? "lmdb_writemap" : "lmdb"; }
  std::string version() const override {
    int major, minor, patch;
    mdb_version(&major, &minor, &patch);
    return std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(patch);
  }
  void open(const std::string& dir, const EngineOptions& options) override {
    check(mdb_env_create(&env_.env), "create");
    check(mdb_env_set_mapsize(env_.env, std::size_t{64} << 30), "mapsize");
    check(mdb_env_set_maxreaders(env_.env, options.threads + 16), "maxreaders");
    unsigned flags = MDB_NOTLS;
    if (!options.durable) flags |= MDB_NOSYNC;
    if (write_map_) flags |= MDB_WRITEMAP;
    if (options.access == Access::random) flags |= MDB_NORDAHEAD;
    check(mdb_env_open(env_.env, dir.c_str(), flags, 0600), "open");
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_.env, nullptr, 0, &txn), "begin");
    check(mdb_dbi_open(txn, nullptr, 0, &env_.dbi), "dbi");
    check(mdb_txn_commit(txn), "commit");
  }
  std::unique_ptr<Session> session() override { return std::make_unique<LmdbSession>(env_); }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<LmdbSnapshot>(env_);
  }
  std::optional<double> fill(std::size_t records, std::size_t record_bytes) override {
    MDB_stat stat;
    MDB_txn* txn = nullptr;
    check(mdb_txn_begin(env_.env, nullptr, MDB_RDONLY, &txn), "begin");
    check(mdb_stat(txn, env_.dbi, &stat), "stat");
    mdb_txn_abort(txn);
    constexpr std::size_t kPageHeader = 16, kNode = 8 + 2;  // node header and its slot
    return static_cast<double>(records * (record_bytes + kNode)) /
           static_cast<double>(stat.ms_leaf_pages * (stat.ms_psize - kPageHeader));
  }
  PageCacheUse page_cache_use() const override { return PageCacheUse::only_cache; }
  void close() override {
    check(mdb_env_sync(env_.env, 1), "sync");
    mdb_env_close(env_.env);
  }

 private:
  Env env_;
  bool write_map_;
};

}  // namespace

std::unique_ptr<Engine> make_lmdb_engine() { return std::make_unique<LmdbEngine>(false); }
std::unique_ptr<Engine> make_lmdb_writemap_engine() { return std::make_unique<LmdbEngine>(true); }

}  // namespace kessai::bench
