// SPDX-License-Identifier: Apache-2.0
// SQLite: a WITHOUT ROWID table in WAL mode, one connection per thread, prepared statements.
// synchronous=FULL for durable commits, OFF for relaxed ones. Writers take turns on a mutex, as an
// application would do rather than poll SQLITE_BUSY.
#include <sqlite3.h>

#include <algorithm>
#include <mutex>

#include "bench/engine.hpp"

namespace kessai::bench {
namespace {

struct Shared {
  std::string path;
  EngineOptions options;
  std::mutex writer;
};

class Connection {
 public:
  explicit Connection(const Shared& shared) {
    constexpr int kFlags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    check(sqlite3_open_v2(shared.path.c_str(), &db_, kFlags, nullptr), "open");
    check(sqlite3_busy_timeout(db_, 10'000), "busy_timeout");
    run("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA temp_store=MEMORY");
    run(shared.options.durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF");
    if (shared.options.keep_log) run("PRAGMA wal_autocheckpoint=0");
    // Readers of many threads would each fill a cache of their own; up to two get the full size.
    const std::size_t share = shared.options.threads <= 2 ? 1 : shared.options.threads;
    run("PRAGMA cache_size=-" + std::to_string(shared.options.cache_mib * 1024 / share));
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    for (sqlite3_stmt* s : statements_) sqlite3_finalize(s);
    sqlite3_close(db_);
  }

  void check(int rc, const char* what) {
    if (rc != SQLITE_OK && rc != SQLITE_DONE && rc != SQLITE_ROW) {
      fail(std::string("sqlite ") + what + ": " +
           (db_ != nullptr ? sqlite3_errmsg(db_) : "no memory"));
    }
  }
  void run(const std::string& sql) {
    check(sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr), sql.c_str());
  }
  sqlite3_stmt* prepare(const char* sql) {
    sqlite3_stmt* s = nullptr;
    check(sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT, &s, nullptr), sql);
    return statements_.emplace_back(s);
  }
  bool step(sqlite3_stmt* s) {
    const int rc = sqlite3_step(s);
    check(rc, "step");
    return rc == SQLITE_ROW;
  }
  void once(sqlite3_stmt* s) {
    step(s);
    sqlite3_reset(s);
  }

 private:
  sqlite3* db_ = nullptr;
  std::vector<sqlite3_stmt*> statements_;
};

void bind(sqlite3_stmt* s, int index, std::string_view bytes) {
  sqlite3_bind_blob64(s, index, bytes.data(), bytes.size(), SQLITE_STATIC);
}
std::string_view column(sqlite3_stmt* s, int index) {
  const void* data = sqlite3_column_blob(s, index);
  return {static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(s, index))};
}

class SqliteSession final : public Session {
 public:
  explicit SqliteSession(Shared& shared) : shared_(shared), db_(shared) {
    begin_ = db_.prepare("BEGIN IMMEDIATE");
    commit_ = db_.prepare("COMMIT");
    get_ = db_.prepare("SELECT v FROM kv WHERE k=?");
    scan_ = db_.prepare("SELECT k,v FROM kv ORDER BY k");
    put_ = db_.prepare("INSERT INTO kv VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v");
    insert_ = db_.prepare("INSERT INTO kv VALUES(?,?)");
  }

  std::optional<std::string_view> get(std::string_view key) override {
    bind(get_, 1, key);
    std::optional<std::string_view> found;
    if (db_.step(get_)) found = value_ = column(get_, 0);
    sqlite3_reset(get_);
    return found ? std::optional<std::string_view>(value_) : found;
  }
  void scan(RecordSink& sink) override {
    while (db_.step(scan_) && sink.record(column(scan_, 0), column(scan_, 1))) {
    }
    sqlite3_reset(scan_);
  }
  void put_all(std::span<const Record> records, bool /*ascending*/) override {
    write(put_, records);
  }
  void put(std::string_view key, std::string_view value) override {
    const std::scoped_lock turn(shared_.writer);
    apply(put_, {key, value});
  }
  void insert_all(std::span<const Record> records) override { write(insert_, records); }
  void run(const std::string& sql) { db_.run(sql); }

 private:
  void apply(sqlite3_stmt* s, const Record& r) {
    bind(s, 1, r.key);
    bind(s, 2, r.value);
    db_.once(s);
  }
  void write(sqlite3_stmt* s, std::span<const Record> records) {
    const std::scoped_lock turn(shared_.writer);
    db_.once(begin_);
    for (const Record& r : records) apply(s, r);
    db_.once(commit_);
  }

  Shared& shared_;
  Connection db_;
  sqlite3_stmt *begin_, *commit_, *get_, *scan_, *put_, *insert_;
  std::string value_;
};

class SqliteSnapshot final : public Snapshot {
 public:
  explicit SqliteSnapshot(Shared& shared) : session_(shared) {
    session_.run("BEGIN; SELECT k FROM kv LIMIT 1");
  }
  std::optional<std::string_view> get(std::string_view key) override { return session_.get(key); }
  void scan(RecordSink& sink) override { session_.scan(sink); }

 private:
  SqliteSession session_;
};

class SqliteEngine final : public Engine {
 public:
  std::string name() const override { return "sqlite"; }
  std::string version() const override { return sqlite3_libversion(); }
  void open(const std::string& dir, const EngineOptions& options) override {
    shared_.path = dir + "/kv.sqlite";
    shared_.options = options;
    // Kept open: the last connection to close would checkpoint and delete the log.
    main_ = std::make_unique<Connection>(shared_);
    main_->run("CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID");
  }
  std::unique_ptr<Session> session() override { return std::make_unique<SqliteSession>(shared_); }
  std::unique_ptr<Snapshot> hold_snapshot() override {
    return std::make_unique<SqliteSnapshot>(shared_);
  }
  void settle() override { main_->run("PRAGMA wal_checkpoint(TRUNCATE)"); }
  std::optional<double> fill(std::size_t /*records*/, std::size_t /*record_bytes*/) override {
    sqlite3_stmt* s = main_->prepare(
        "SELECT sum(payload), sum(pgsize) FROM dbstat WHERE name='kv' AND pagetype='leaf'");
    std::optional<double> result;
    if (main_->step(s) && sqlite3_column_int64(s, 1) > 0) {
      result = sqlite3_column_double(s, 0) / sqlite3_column_double(s, 1);
    }
    sqlite3_reset(s);
    return result;
  }
  PageCacheUse page_cache_use() const override { return PageCacheUse::second_cache; }
  void close() override { main_.reset(); }

 private:
  Shared shared_;
  std::unique_ptr<Connection> main_;
};

}  // namespace

std::unique_ptr<Engine> make_sqlite_engine() { return std::make_unique<SqliteEngine>(); }

}  // namespace kessai::bench
