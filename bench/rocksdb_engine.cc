// SPDX-License-Identifier: Apache-2.0
// RocksDB as a TransactionDB: OptimizeForPointLookup (hash index in data blocks, bloom filter, LRU
// block cache of the given size), no compression, fully compacted after a bulk load, direct reads
// when the data exceeds the cache. Loads skip the lock table. Transactions are pessimistic, with
// deadlock detection; their plain reads see what is committed and lock nothing.
#include <rocksdb/convenience.h>
#include <rocksdb/utilities/transaction_db.h>

#include "bench/engine.hpp"

namespace kessai::bench {
namespace {

void check(const rocksdb::Status& s, const char* what) {
  if (!s.ok()) fail(std::string("rocksdb ") + what + ": " + s.ToString());
}

rocksdb::Slice to_slice(std::string_view s) { return {s.data(), s.size()}; }
std::string_view to_view(const rocksdb::Slice& s) { return {s.data(), s.size()}; }

class RocksTxn final : public Txn {
 public:
  RocksTxn(rocksdb::Transaction& txn, rocksdb::ColumnFamilyHandle* family,
           const rocksdb::ReadOptions& read, rocksdb::PinnableSlice& value)
      : txn_(txn), family_(family), read_(read), value_(value) {}
  bool get(std::string_view key, std::string_view& value) override {
    value_.Reset();
    return answer(txn_.Get(read_, family_, to_slice(key), &value_), value);
  }
  bool get_for_update(std::string_view key, std::string_view& value) override {
    value_.Reset();
    return answer(txn_.GetForUpdate(read_, family_, to_slice(key), &value_), value);
  }
  bool put(std::string_view key, std::string_view value) override {
    return go_on(txn_.Put(family_, to_slice(key), to_slice(value)), "put");
  }
  static bool go_on(const rocksdb::Status& s, const char* what) {
    if (s.IsBusy() || s.IsTimedOut() || s.IsTryAgain()) return false;  // Busy: also deadlocks
    check(s, what);
    return true;
  }

 private:
  bool answer(const rocksdb::Status& s, std::string_view& value) {
    if (!go_on(s, "get")) return false;
    value = to_view(value_);
    return true;
  }

  rocksdb::Transaction& txn_;
  rocksdb::ColumnFamilyHandle* family_;
  const rocksdb::ReadOptions& read_;
  rocksdb::PinnableSlice& value_;
};

class RocksSession final : public Session {
 public:
  RocksSession(rocksdb::TransactionDB* db, bool durable,
               const rocksdb::Snapshot* snapshot = nullptr)
      : db_(db), family_(db->DefaultColumnFamily()) {
    write_.sync = durable;
    read_.snapshot = snapshot;
  }

  std::optional<std::string_view> get(std::string_view key) override {
    pinned_[0].Reset();
    const auto s = db_->Get(read_, family_, to_slice(key), &pinned_[0]);
    if (s.IsNotFound()) return {};
    check(s, "get");
    return to_view(pinned_[0]);
  }
  void multi_get(std::span<const std::string_view> keys, ValueSink& sink) override {
    if (pinned_.size() < keys.size()) pinned_ = std::vector<rocksdb::PinnableSlice>(keys.size());
    slices_.resize(keys.size());
    states_.resize(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      slices_[i] = to_slice(keys[i]);
      pinned_[i].Reset();
    }
    db_->MultiGet(read_, family_, keys.size(), slices_.data(), pinned_.data(), states_.data());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (states_[i].IsNotFound()) continue;
      check(states_[i], "multi_get");
      sink.value(i, to_view(pinned_[i]));
    }
  }
  void scan(RecordSink& sink) override {
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(read_));
    for (it->SeekToFirst(); it->Valid() && sink.record(to_view(it->key()), to_view(it->value()));) {
      it->Next();
    }
    check(it->status(), "scan");
  }
  void put_all(std::span<const Record> records, bool /*ascending*/) override {
    batch_.Clear();
    for (const Record& r : records) check(batch_.Put(to_slice(r.key), to_slice(r.value)), "batch");
    rocksdb::TransactionDBWriteOptimizations unlocked;
    unlocked.skip_concurrency_control = true;
    unlocked.skip_duplicate_key_check = true;
    check(db_->Write(write_, unlocked, &batch_), "write");
  }
  void put(std::string_view key, std::string_view value) override {
    check(db_->Put(write_, to_slice(key), to_slice(value)), "put");
  }
  void insert_all(std::span<const Record> records) override {
    txn_.reset(db_->BeginTransaction(write_, {}, txn_.release()));
    for (const Record& r : records) {
      const auto s = txn_->GetForUpdate(read_, to_slice(r.key), &scratch_);
      if (!s.IsNotFound()) fail("rocksdb insert: " + (s.ok() ? "key exists" : s.ToString()));
      check(txn_->Put(to_slice(r.key), to_slice(r.value)), "insert");
    }
    check(txn_->Commit(), "commit");
  }
  std::uint64_t transact(const TxnBody& body, bool /*read_only*/) override {
    rocksdb::TransactionOptions options;
    options.deadlock_detect = true;
    for (std::uint64_t again = 0;; ++again) {
      txn_.reset(db_->BeginTransaction(write_, options, txn_.release()));
      RocksTxn calls(*txn_, family_, read_, pinned_[0]);
      if (body(calls) && RocksTxn::go_on(txn_->Commit(), "commit")) return again;
      check(txn_->Rollback(), "rollback");
    }
  }

 private:
  rocksdb::TransactionDB* db_;
  rocksdb::ColumnFamilyHandle* family_;
  rocksdb::ReadOptions read_;
  rocksdb::WriteOptions write_;
  rocksdb::WriteBatch batch_;
  std::unique_ptr<rocksdb::Transaction> txn_;
  std::string scratch_;
  std::vector<rocksdb::PinnableSlice> pinned_{1};
  std::vector<rocksdb::Slice> slices_;
  std::vector<rocksdb::Status> states_;
};

class RocksSnapshot final : public Snapshot {
 public:
  explicit RocksSnapshot(rocksdb::TransactionDB* db)
      : db_(db), snapshot_(db->GetSnapshot()), session_(db, false, snapshot_) {}
  ~RocksSnapshot() override { db_->ReleaseSnapshot(snapshot_); }
  std::optional<std::string_view> get(std::string_view key) override { return session_.get(key); }
  void scan(RecordSink& sink) override { session_.scan(sink); }

 private:
  rocksdb::DB* db_;
  const rocksdb::Snapshot* snapshot_;
  RocksSession session_;
};

class RocksEngine final : public Engine {
 public:
  std::string name() const override { return "rocksdb"; }
  std::string version() const override { return rocksdb::GetRocksVersionAsString(); }
  void open(const std::string& dir, const EngineOptions& options) override {
    durable_ = options.durable;
    direct_ = options.cold;
    rocksdb::Options o;
    o.create_if_missing = true;
    o.OptimizeForPointLookup(options.cache_mib);
    o.compression = rocksdb::kNoCompression;
    o.max_background_jobs = 2;
    o.bytes_per_sync = 1 << 20;
    o.use_direct_reads = direct_;
    if (options.keep_log) o.write_buffer_size = std::size_t{1} << 30;
    rocksdb::TransactionDB* db = nullptr;
    check(rocksdb::TransactionDB::Open(o, {}, dir, &db), "open");
    db_.reset(db);
  }
  std::unique_ptr<Session> session() override {
    return std::make_unique<RocksSession>(db_.get(), durable_);
  }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<RocksSnapshot>(db_.get());
  }
  bool can(Feature feature) const override {
    return feature == Feature::transactions || Engine::can(feature);
  }
  void settle() override { check(db_->CompactRange({}, nullptr, nullptr), "compact"); }
  PageCacheUse page_cache_use() const override {
    return direct_ ? PageCacheUse::bypassed : PageCacheUse::second_cache;
  }
  void close() override {
    check(db_->Close(), "close");
    db_.reset();
  }

 private:
  std::unique_ptr<rocksdb::TransactionDB> db_;
  bool durable_ = false;
  bool direct_ = false;
};

}  // namespace

std::unique_ptr<Engine> make_rocksdb_engine() { return std::make_unique<RocksEngine>(); }

}  // namespace kessai::bench
