// SPDX-License-Identifier: Apache-2.0
// LevelDB: bloom filter, LRU block cache of the given size, 64 MiB write buffer (as RocksDB's
// default), no compression, fully compacted after a bulk load. It has no transactions: batches are
// atomic, and inserts look before they write without any lock.
#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/filter_policy.h>
#include <leveldb/write_batch.h>

#include "bench/engine.hpp"

namespace kessai::bench {
namespace {

void check(const leveldb::Status& s, const char* what) {
  if (!s.ok()) fail(std::string("leveldb ") + what + ": " + s.ToString());
}

leveldb::Slice to_slice(std::string_view s) { return {s.data(), s.size()}; }
std::string_view to_view(const leveldb::Slice& s) { return {s.data(), s.size()}; }

class LevelSession final : public Session {
 public:
  LevelSession(leveldb::DB* db, bool durable, const leveldb::Snapshot* snapshot = nullptr)
      : db_(db) {
    write_.sync = durable;
    read_.snapshot = snapshot;
  }

  std::optional<std::string_view> get(std::string_view key) override {
    const auto s = db_->Get(read_, to_slice(key), &value_);
    if (s.IsNotFound()) return {};
    check(s, "get");
    return value_;
  }
  void scan(RecordSink& sink) override {
    const std::unique_ptr<leveldb::Iterator> it(db_->NewIterator(read_));
    for (it->SeekToFirst(); it->Valid() && sink.record(to_view(it->key()), to_view(it->value()));) {
      it->Next();
    }
    check(it->status(), "scan");
  }
  void put_all(std::span<const Record> records, bool /*ascending*/) override {
    batch_.Clear();
    for (const Record& r : records) batch_.Put(to_slice(r.key), to_slice(r.value));
    check(db_->Write(write_, &batch_), "write");
  }
  void put(std::string_view key, std::string_view value) override {
    check(db_->Put(write_, to_slice(key), to_slice(value)), "put");
  }
  void insert_all(std::span<const Record> records) override {
    for (const Record& r : records) {
      if (get(r.key)) fail("leveldb insert: key exists");
    }
    put_all(records, false);
  }

 private:
  leveldb::DB* db_;
  leveldb::ReadOptions read_;
  leveldb::WriteOptions write_;
  leveldb::WriteBatch batch_;
  std::string value_;
};

class LevelSnapshot final : public Snapshot {
 public:
  explicit LevelSnapshot(leveldb::DB* db)
      : db_(db), snapshot_(db->GetSnapshot()), session_(db, false, snapshot_) {}
  ~LevelSnapshot() override { db_->ReleaseSnapshot(snapshot_); }
  std::optional<std::string_view> get(std::string_view key) override { return session_.get(key); }
  void scan(RecordSink& sink) override { session_.scan(sink); }

 private:
  leveldb::DB* db_;
  const leveldb::Snapshot* snapshot_;
  LevelSession session_;
};

class LevelEngine final : public Engine {
 public:
  std::string name() const override { return "leveldb"; }
  std::string version() const override {
    return std::to_string(leveldb::kMajorVersion) + '.' + std::to_string(leveldb::kMinorVersion);
  }
  void open(const std::string& dir, const EngineOptions& options) override {
    durable_ = options.durable;
    cache_.reset(leveldb::NewLRUCache(options.cache_mib << 20));
    filter_.reset(leveldb::NewBloomFilterPolicy(10));
    leveldb::Options o;
    o.create_if_missing = true;
    o.block_cache = cache_.get();
    o.filter_policy = filter_.get();
    o.compression = leveldb::kNoCompression;
    o.write_buffer_size = options.keep_log ? std::size_t{1} << 30 : std::size_t{64} << 20;
    leveldb::DB* db = nullptr;
    check(leveldb::DB::Open(o, dir, &db), "open");
    db_.reset(db);
  }
  std::unique_ptr<Session> session() override {
    return std::make_unique<LevelSession>(db_.get(), durable_);
  }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<LevelSnapshot>(db_.get());
  }
  void settle() override { db_->CompactRange(nullptr, nullptr); }
  // It maps its table files, and blocks of mapped files do not enter its block cache.
  PageCacheUse page_cache_use() const override { return PageCacheUse::only_cache; }
  void close() override { db_.reset(); }

 private:
  std::unique_ptr<leveldb::Cache> cache_;
  std::unique_ptr<const leveldb::FilterPolicy> filter_;
  std::unique_ptr<leveldb::DB> db_;
  bool durable_ = false;
};

}  // namespace

std::unique_ptr<Engine> make_leveldb_engine() { return std::make_unique<LevelEngine>(); }

}  // namespace kessai::bench
