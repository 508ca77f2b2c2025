// SPDX-License-Identifier: Apache-2.0
// kessai through its public API, defaults except for the memory budget. One engine for each
// isolation level, and one for the S2PL build, which is a program of its own (kvbench-s2pl).
#include <algorithm>
#include <array>

#include "bench/engine.hpp"
#include "engine/store.hpp"
#include "kessai/kessai.hpp"

namespace kessai::bench {

// The bare tree is nobody's business but this comparison's, so no public call leads to it. An
// explicit instantiation may name a private member ([temp.spec.general]).
std::shared_ptr<engine::TreeState> state_of(const Tree& tree);
template <auto Member>
struct Opened {
  friend std::shared_ptr<engine::TreeState> state_of(const Tree& tree) { return tree.*Member; }
};
template struct Opened<&Tree::state_>;

namespace {

struct Variant {
  std::string_view name;
  Isolation isolation;
  std::string_view mode = "mvcc";
};
constexpr auto kVariants = std::to_array<Variant>({
    {"kessai", Isolation::snapshot},
    {"kessai_rc", Isolation::read_committed},
    {"kessai_ser", Isolation::serializable},
    {"kessai_s2pl", Isolation::serializable, "s2pl"},
});

void check(const Result<void>& r, const char* what) {
  if (!r) fail(std::string("kessai ") + what + ": " + r.error().message());
}
template <class T>
T check(Result<T> r, const char* what) {
  if (!r) fail(std::string("kessai ") + what + ": " + r.error().message());
  return std::move(*r);
}

class KessaiTxn final : public Txn {
 public:
  KessaiTxn(Transaction& txn, const Tree& tree, std::string& value)
      : txn_(txn), tree_(tree), value_(value) {}
  bool get(std::string_view key, std::string_view& value) override {
    const Result<Lsn> r = txn_.get(tree_, key, value_);
    value = value_;
    return go_on(r, "get");
  }
  bool get_for_update(std::string_view key, std::string_view& value) override {
    Result<std::string> r = txn_.get_for_update(tree_, key);
    if (!go_on(r, "get_for_update")) return false;
    value_ = std::move(*r);
    value = value_;
    return true;
  }
  bool put(std::string_view key, std::string_view value) override {
    return go_on(txn_.put(tree_, key, value), "put");
  }
  template <class T>
  static bool go_on(const Result<T>& r, const char* what) {
    if (r) return true;
    if (!r.error().retryable()) fail(std::string("kessai ") + what + ": " + r.error().message());
    return false;
  }

 private:
  Transaction& txn_;
  const Tree& tree_;
  std::string& value_;
};

class KessaiSession final : public Session {
 public:
  KessaiSession(Database& db, const Tree& tree, Isolation isolation, bool durable)
      : db_(db),
        tree_(tree),
        bare_(state_of(tree)),
        isolation_(isolation),
        durability_(durable ? Durability::durable : Durability::relaxed) {}

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
  std::uint64_t transact(const TxnBody& body, bool read_only) override {
    for (std::uint64_t again = 0;; ++again) {
      Transaction txn = begin(read_only);
      KessaiTxn calls(txn, tree_, value_);
      if (body(calls) && KessaiTxn::go_on(txn.commit(), "commit")) return again;
    }
  }
  std::optional<std::string_view> tree_get(std::string_view key) override {
    const auto r = bare_->tree.get(key, &value_);
    if (!r) fail("kessai tree: " + r.error().message());
    return r->present ? std::optional<std::string_view>(value_) : std::nullopt;
  }
  void put_ticket(std::size_t slot, std::string_view key, std::string_view value) override {
    Transaction txn = begin();
    check(txn.put(tree_, key, value), "put");
    tickets_[slot] = check(txn.commit_async(), "commit_async");
  }
  void insert_ticket(std::size_t slot, std::span<const Record> records) override {
    Transaction txn = begin();
    for (const Record& r : records) check(txn.insert(tree_, r.key, r.value), "insert");
    tickets_[slot] = check(txn.commit_async(), "commit_async");
  }
  void await_ticket(std::size_t slot) override { check(tickets_[slot].wait(), "ticket"); }

 private:
  Transaction begin(bool read_only = false) {
    BeginOptions o;
    o.isolation = isolation_;
    o.read_only = read_only;
    o.durability = durability_;
    return check(db_.begin(o), "begin");
  }

  Database& db_;
  Tree tree_;
  std::shared_ptr<engine::TreeState> bare_;
  Isolation isolation_;
  Durability durability_;
  std::string value_;
  std::vector<Lookup> lookups_;
  std::array<CommitTicket, kTicketSlots> tickets_;
};

class KessaiSnapshot final : public Snapshot {
 public:
  KessaiSnapshot(Database& db, const Tree& tree)
      : tree_(tree), txn_(check(db.read_only(), "read_only")) {}
  std::optional<std::string_view> get(std::string_view key) override {
    const Result<Lsn> r = txn_.get(tree_, key, value_);
    if (r) return value_;
    if (r.error() == Code::not_found) return {};
    fail("kessai snapshot: " + r.error().message());
  }
  void scan(RecordSink& sink) override {
    Cursor c = txn_.scan(tree_, {});
    while (c.next()) {
      if (!sink.record(c.key(), c.value())) return;
    }
    check(c.status(), "snapshot scan");
  }

 private:
  Tree tree_;
  Transaction txn_;
  std::string value_;
};

class KessaiEngine final : public Engine {
 public:
  explicit KessaiEngine(const Variant& variant) : variant_(variant) {}
  std::string name() const override { return std::string(variant_.name); }
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
    undo_limit_mib_ = static_cast<double>(o.undo_memory) / 1048576.0;
    db_.emplace(check(Database::open(dir, o), "open"));
    if (const std::string mode = db_->info().mode; mode != variant_.mode)
      fail(name() + " is not what the " + mode + " build runs");
    tree_ = check(db_->tree("main", {.create = true}), "tree");
  }
  std::unique_ptr<Session> session() override {
    return std::make_unique<KessaiSession>(*db_, tree_, variant_.isolation, durable_);
  }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<KessaiSnapshot>(*db_, tree_);
  }
  bool can(Feature feature) const override {
    // S2PL reads under shared locks: an old snapshot would stop every writer.
    return feature != Feature::snapshots || variant_.mode != "s2pl";
  }
  std::optional<Counters> counters() override {
    const Stats s = db_->stats();
    Counters c{.log_flushes = s.log_flushes,
               .undo_mib = static_cast<double>(s.undo_bytes) / 1048576.0,
               .undo_limit_mib = undo_limit_mib_};
    for (const WaitInfo& w : db_->waits()) {
      const double seconds = std::chrono::duration<double>(w.total).count();
      if (w.name == "leaf_split") c.leaf_split_s = seconds;
      if (w.name == "page_latch") c.page_latch_s = seconds;
    }
    return c;
  }
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
  const Variant& variant_;
  std::optional<Database> db_;
  Tree tree_;
  double undo_limit_mib_ = 0;
  bool durable_ = false;
};

}  // namespace

std::unique_ptr<Engine> make_kessai_engine(std::string_view name) {
  const auto it = std::ranges::find(kVariants, name, &Variant::name);
  return it == kVariants.end() ? nullptr : std::make_unique<KessaiEngine>(*it);
}

}  // namespace kessai::bench
