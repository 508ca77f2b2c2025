// SPDX-License-Identifier: Apache-2.0
// kessai through its public API, defaults except for the memory budget.
#include <array>

#include "bench/engine.hpp"
#include "kessai/kessai.hpp"

namespace kessai::bench {
namespace {

void check(const Result<void>& r, const char* what) {
  if (!r) fail(std::string("kessai ") + what + ": " + r.error().message());
}
template <class T>
T check(Result<T> r, const char* what) {
  if (!r) fail(std::string("kessai ") + what + ": " + r.error().message());
  return std::move(*r);
}

class KessaiSession final : public Session {
 public:
  KessaiSession(Database& db, const Tree& tree, bool durable)
      : db_(db), tree_(tree), durability_(durable ? Durability::durable : Durability::relaxed) {}

  std::optional<std::string_view> get(std::string_view key) override {
    const Result<Lsn> r = db_.get(tree_, key, value_);
    if (r) return value_;
    if (r.error() == Code::not_found) return {};
    fail("kessai get: " + r.error().message());
  }
  void multi_get(std::span<const std::string_view> keys, ValueSink& sink) override {
    if (lookups_.size() < keys.size()) lookups_.resize(keys.size());
    check(db_.multi_get(tree_, keys, lookups_), "multi_get");
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (lookups_[i].found)
        sink.value(i, lookups_[i].value);
      else if (lookups_[i].code != Code::not_found)
        fail("kessai multi_get: a key failed");
    }
  }
  void scan(RecordSink& sink) override {
    Cursor c = db_.scan(tree_, {});
    while (c.next()) {
      if (!sink.record(c.key(), c.value())) return;
    }
    check(c.status(), "scan");
  }
  void put_all(std::span<const Record> records, bool /*ascending*/) override {
    Transaction txn = begin();
    for (const Record& r : records) check(txn.put(tree_, r.key, r.value), "put");
    check(txn.commit(), "commit");
  }
  void put(std::string_view key, std::string_view value) override {
    for (;;) {
      const Result<Lsn> r = db_.put(tree_, key, value, durability_);
      if (r) return;
      if (!r.error().retryable()) fail("kessai put: " + r.error().message());
    }
  }
  void insert_all(std::span<const Record> records) override {
    Transaction txn = begin();
    for (const Record& r : records) check(txn.insert(tree_, r.key, r.value), "insert");
    check(txn.commit(), "commit");
  }
  void put_ticket(std::size_t slot, std::string_view key, std::string_view value) override {
    Transaction txn = begin();
    check(txn.put(tree_, key, value), "put");
    tickets_[slot] = check(txn.commit_async(), "commit_async");
  }
  void await_ticket(std::size_t slot) override { check(tickets_[slot].wait(), "ticket"); }

 private:
  Transaction begin() { return check(db_.begin({.durability = durability_}), "begin"); }

  Database& db_;
  Tree tree_;
  Durability durability_;
  std::string value_;
  std::vector<Lookup> lookups_;
  std::array<CommitTicket, kTicketSlots> tickets_;
};

class KessaiSnapshot final : public Snapshot {
 public:
  KessaiSnapshot(Database& db, const Tree& tree) : txn_(check(db.read_only(), "read_only")) {
    std::string value;
    const auto r = txn_.get(tree, "none", value);
    if (!r && !(r.error() == Code::not_found)) fail("kessai snapshot: " + r.error().message());
  }

 private:
  Transaction txn_;
};

class KessaiEngine final : public Engine {
 public:
  std::string name() const override { return "kessai"; }
  std::string version() const override {
    const std::string_view v = kessai::version();
    return std::string(v.substr(v.find(' ') + 1));
  }
  void open(const std::string& dir, const EngineOptions& options) override {
    durable_ = options.durable;
    Options o;
    o.memory = options.cache_mib << 20;
    o.create = true;
    if (options.keep_log) o.wal_limit = 4_GiB;
    db_.emplace(check(Database::open(dir, o), "open"));
    tree_ = check(db_->tree("main", {.create = true}), "tree");
  }
  std::unique_ptr<Session> session() override {
    return std::make_unique<KessaiSession>(*db_, tree_, durable_);
  }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<KessaiSnapshot>(*db_, tree_);
  }
  bool has_tickets() const override { return true; }
  void settle() override { check(db_->checkpoint(), "checkpoint"); }
  std::optional<double> fill(std::size_t /*records*/, std::size_t /*record_bytes*/) override {
    return check(db_->tree_info(tree_), "tree_info").fill;
  }
  PageCacheUse page_cache_use() const override { return PageCacheUse::bypassed; }
  void close() override {
    tree_ = {};
    check(db_->close(), "close");
    db_.reset();
  }

 private:
  std::optional<Database> db_;
  Tree tree_;
  bool durable_ = false;
};

}  // namespace

std::unique_ptr<Engine> make_kessai_engine() { return std::make_unique<KessaiEngine>(); }

}  // namespace kessai::bench
