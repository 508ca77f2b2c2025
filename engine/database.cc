// SPDX-License-Identifier: Apache-2.0
// The public handles: argument checks and forwarding.
#include "kessai/database.hpp"

#include "engine/scan.hpp"
#include "engine/transaction.hpp"
#include "io/check.hpp"

namespace kessai {

std::string_view version() noexcept { return "kessai " KESSAI_VERSION; }

namespace {
std::unexpected<Error> closed() { return fail(Code::closed_handle, "the database is closed"); }
}  // namespace

// ---- Tree, Range, Cursor -----------------------------------------------------------------------

const std::string& Tree::name() const noexcept {
  static const std::string kNone;
  return state_ ? state_->name : kNone;
}
std::uint32_t Tree::id() const noexcept { return state_ ? raw(state_->tree.id()) : 0; }
bool Tree::insert_only() const noexcept { return state_ && state_->insert_only; }

Range Range::prefix(std::string_view prefix, bool reverse) {
  Range r;
  r.from = prefix;
  r.reverse = reverse;
  std::string to(prefix);
  while (!to.empty() && static_cast<unsigned char>(to.back()) == 0xff) to.pop_back();
  if (!to.empty()) {
    to.back() = static_cast<char>(static_cast<unsigned char>(to.back()) + 1);
    r.to = std::move(to);
  }
  return r;
}

Cursor::Cursor(std::unique_ptr<engine::CursorState> s) noexcept : state_(std::move(s)) {}
Cursor::Cursor(Cursor&&) noexcept = default;
Cursor& Cursor::operator=(Cursor&&) noexcept = default;
Cursor::~Cursor() = default;
bool Cursor::next() { return state_ != nullptr && state_->next(); }
std::string_view Cursor::key() const noexcept { return state_->key(); }
std::string_view Cursor::value() const noexcept { return state_->value(); }
Lsn Cursor::lsn() const noexcept { return state_->lsn(); }
std::uint64_t Cursor::leaves() const noexcept { return state_->leaves(); }
const Result<void>& Cursor::status() const noexcept {
  static const Result<void> kMoved = closed();
  return state_ ? state_->status() : kMoved;
}

// ---- CommitTicket ------------------------------------------------------------------------------

CommitTicket::CommitTicket(std::shared_ptr<engine::Store> store, Lsn lsn, Lsn wait_for) noexcept
    : store_(std::move(store)), lsn_(lsn), wait_for_(wait_for) {}
Lsn CommitTicket::lsn() const noexcept { return lsn_; }

bool CommitTicket::ready() const {
  if (store_ == nullptr || wait_for_ == 0) return true;
  engine::Store::Use use(*store_);
  if (!use || store_->log() == nullptr) return true;  // durable already, or wait() tells
  const bool durable = store_->log()->poll() >= wait_for_ || store_->log()->poisoned();
  store_->run_due_callbacks();
  return durable;
}

Result<void> CommitTicket::wait() const {
  if (store_ == nullptr || wait_for_ == 0) return {};
  engine::Store::Use use(*store_);
  if (!use) return store_->outcome_at_close(wait_for_, lsn_ != 0);
  auto ok = lsn_ != 0 ? store_->wait_durable(wait_for_) : store_->wait_seen(wait_for_);
  store_->run_due_callbacks();
  return ok;
}

void CommitTicket::on_durable(std::function<void(Result<void>)> fn) const {
  if (store_ == nullptr || wait_for_ == 0) return fn({});
  engine::Store::Use use(*store_);
  if (!use) return fn(store_->outcome_at_close(wait_for_, lsn_ != 0));
  if (store_->log() == nullptr) return fn({});
  store_->log()->on_durable(wait_for_, std::move(fn));
}

// ---- Transaction -------------------------------------------------------------------------------

Transaction::Transaction(std::unique_ptr<engine::TransactionState> s) noexcept
    : state_(std::move(s)) {}
Transaction::Transaction(Transaction&&) noexcept = default;
Transaction& Transaction::operator=(Transaction&& o) noexcept {
  if (this != &o) {
    const Transaction old(std::move(*this));
    state_ = std::move(o.state_);
  }
  return *this;
}
Transaction::~Transaction() {
  // Ending it takes mutexes that a thread of the parent may have held when this child was forked.
  if (state_ && state_->store()->in_forked_child()) static_cast<void>(state_.release());
}

Result<std::string> Transaction::get(const Tree& tree, std::string_view key) {
  std::string value;
  KESSAI_TRY(get(tree, key, value));
  return value;
}
Result<Lsn> Transaction::get(const Tree& tree, std::string_view key, std::string& value) {
  return state_ ? state_->get(tree.state_, key, value) : closed();
}
Result<std::string> Transaction::get_for_update(const Tree& tree, std::string_view key,
                                                LockWait wait) {
  return state_ ? state_->get_for_update(tree.state_, key, wait) : closed();
}
Result<void> Transaction::put(const Tree& tree, std::string_view key, std::string_view value,
                              LockWait wait) {
  return state_ ? state_->put(tree.state_, key, value, wait) : closed();
}
Result<void> Transaction::insert(const Tree& tree, std::string_view key, std::string_view value,
                                 std::string* existing, LockWait wait) {
  return state_ ? state_->insert(tree.state_, key, value, existing, wait) : closed();
}
Result<void> Transaction::remove(const Tree& tree, std::string_view key, LockWait wait) {
  return state_ ? state_->remove(tree.state_, key, wait) : closed();
}
Result<bool> Transaction::update_if(const Tree& tree, std::string_view key, const Update& update,
                                    LockWait wait) {
  return state_ ? state_->update_if(tree.state_, key, update, wait) : closed();
}
Cursor Transaction::scan(const Tree& tree, const Range& range) {
  if (!state_) return Cursor(std::make_unique<engine::CursorState>(closed().error()));
  return Cursor(
      std::make_unique<engine::CursorState>(state_->store(), tree.state_, range, state_.get()));
}
Result<void> Transaction::lock_many(const Tree& tree, std::span<const std::string_view> keys,
                                    LockWait wait) {
  return state_ ? state_->lock_many(tree.state_, keys, wait) : closed();
}
Result<void> Transaction::lock_named(std::string_view name, LockMode mode, LockWait wait) {
  return state_ ? state_->lock_named(name, mode, wait) : closed();
}
Result<bool> Transaction::try_lock_named(std::string_view name, LockMode mode) {
  auto taken = lock_named(name, mode, kNoWait);
  if (taken) return true;
  // Also in the way of another transaction of this thread: that call does not wait, so cannot hang.
  if (taken.error() == Code::lock_timeout || taken.error() == Code::self_deadlock) return false;
  return std::unexpected(taken.error());
}
Result<Savepoint> Transaction::savepoint() { return state_ ? state_->savepoint() : closed(); }
Result<void> Transaction::rollback_to(const Savepoint& savepoint) {
  return state_ ? state_->rollback_to(savepoint) : closed();
}
Result<void> Transaction::on_commit(std::function<void(Lsn)> fn) {
  return state_ ? state_->on_commit(std::move(fn)) : closed();
}

Result<Lsn> Transaction::commit() {
  if (!state_) return closed();
  const bool durable = state_->options().durability == Durability::durable;
  engine::Store& s = *state_->store();
  engine::Store::Use use(s);  // before the commit, so that closing waits until it is answered
  KESSAI_ASSIGN(lsns, state_->commit());
  if (lsns.first == 0) {
    KESSAI_TRY(s.wait_seen(lsns.second));
  } else if (durable) {
    auto ok = s.wait_durable(lsns.second);
    s.run_due_callbacks();
    KESSAI_TRY(ok);
  }
  if (auto hooks = state_->take_hooks(); !hooks.empty()) {
    if (lsns.first == 0 || durable) {
      s.run_hooks(hooks, lsns.first);
    } else {
      hooks_when_durable(CommitTicket(state_->store(), lsns.first, lsns.second), std::move(hooks));
    }
  }
  return lsns.first;
}
Result<CommitTicket> Transaction::commit_async() {
  if (!state_) return closed();
  KESSAI_ASSIGN(lsns, state_->commit());
  CommitTicket ticket(state_->store(), lsns.first, lsns.second);
  if (auto hooks = state_->take_hooks(); !hooks.empty())
    hooks_when_durable(ticket, std::move(hooks));
  return ticket;
}
void Transaction::hooks_when_durable(const CommitTicket& ticket,
                                     std::vector<std::function<void(Lsn)>> hooks) {
  ticket.on_durable([store = state_->store(), lsn = ticket.lsn(),
                     hooks = std::move(hooks)](const Result<void>& durable) {
    if (durable) store->run_hooks(hooks, lsn);
  });
}
Result<void> Transaction::rollback() { return state_ ? state_->rollback() : closed(); }
bool Transaction::active() const noexcept { return state_ && state_->active(); }
std::uint64_t Transaction::id() const noexcept { return state_ ? state_->id() : 0; }
Isolation Transaction::isolation() const noexcept {
  return state_ ? state_->isolation() : Isolation::snapshot;
}
Lsn Transaction::snapshot() const noexcept { return state_ ? state_->snapshot_lsn() : 0; }

// ---- Database ----------------------------------------------------------------------------------

Database::Database(std::shared_ptr<engine::Store> s) noexcept : store_(std::move(s)) {}
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&& o) noexcept {
  if (this != &o) {
    if (store_) static_cast<void>(store_->close());
    store_ = std::move(o.store_);
  }
  return *this;
}
Database::~Database() {
  if (store_) static_cast<void>(store_->close());
}

Result<Database> Database::open(std::string_view path, const Options& options) {
  KESSAI_ASSIGN(s, engine::Store::open(path, options));
  return Database(std::move(s));
}
Result<void> Database::close() { return store_ ? store_->close() : closed(); }

#define KESSAI_ENTER()                    \
  if (store_ == nullptr) return closed(); \
  engine::Store::Use kessai_use(*store_); \
  if (!kessai_use) return closed()

Result<Tree> Database::tree(std::string_view name, const TreeOptions& options) {
  KESSAI_ENTER();
  KESSAI_ASSIGN(t, store_->tree(name, options));
  return Tree(std::move(t));
}
Result<void> Database::drop_tree(std::string_view name) {
  KESSAI_ENTER();
  return store_->drop_tree(name);
}
Result<std::vector<std::string>> Database::tree_names() {
  KESSAI_ENTER();
  return store_->tree_names();
}
Result<TreeInfo> Database::tree_info(const Tree& tree) {
  KESSAI_ENTER();
  KESSAI_TRY(store_->owns(tree.state_.get()));
  return store_->tree_info(*tree.state_);
}
Result<Transaction> Database::begin(const BeginOptions& options) {
  KESSAI_ENTER();
  if (store_->in_forked_child())
    return fail(Code::closed_handle, "this store was opened by the parent process");
  if (options.at_least != 0) KESSAI_TRY(store_->wait_applied(options.at_least));
  return Transaction(std::make_unique<engine::TransactionState>(store_, options));
}
Result<Transaction> Database::read_only() {
  BeginOptions o;
  o.read_only = true;
  return begin(o);
}
Result<std::string> Database::get(const Tree& tree, std::string_view key) {
  std::string value;
  KESSAI_TRY(get(tree, key, value));
  return value;
}
Result<Lsn> Database::get(const Tree& tree, std::string_view key, std::string& value) {
  KESSAI_ENTER();
  KESSAI_TRY(store_->owns(tree.state_.get()));
  return store_->get(*tree.state_, key, value);
}
Result<void> Database::multi_get(const Tree& tree, std::span<const std::string_view> keys,
                                 std::span<Lookup> out) {
  KESSAI_ENTER();
  KESSAI_TRY(store_->owns(tree.state_.get()));
  return store_->multi_get(*tree.state_, keys, out);
}
Cursor Database::scan(const Tree& tree, const Range& range) {
  Result<void> ok = store_ ? store_->owns(tree.state_.get()) : closed();
  if (ok) {
    engine::Store::Use use(*store_);
    if (use)
      return Cursor(std::make_unique<engine::CursorState>(store_, tree.state_, range, nullptr));
    ok = closed();
  }
  return Cursor(std::make_unique<engine::CursorState>(ok.error()));
}
Result<Lsn> Database::put(const Tree& tree, std::string_view key, std::string_view value,
                          Durability durability) {
  KESSAI_ENTER();
  return engine::autocommit(store_, tree.state_, key, value, 'p', durability);
}
Result<Lsn> Database::insert(const Tree& tree, std::string_view key, std::string_view value,
                             Durability durability) {
  KESSAI_ENTER();
  return engine::autocommit(store_, tree.state_, key, value, 'i', durability);
}
Result<Lsn> Database::remove(const Tree& tree, std::string_view key, Durability durability) {
  KESSAI_ENTER();
  return engine::autocommit(store_, tree.state_, key, {}, 'r', durability);
}
Result<void> Database::wait_durable(Lsn lsn) {
  KESSAI_ENTER();
  auto ok = store_->wait_durable(lsn);
  store_->run_due_callbacks();
  return ok;
}
Result<void> Database::checkpoint() {
  KESSAI_ENTER();
  return store_->checkpoint();
}
Result<CheckReport> Database::check(const std::function<void(const Progress&)>& progress) {
  KESSAI_ENTER();
  return store_->check(progress);
}
StoreInfo Database::info() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->info() : StoreInfo{};
}
Stats Database::stats() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->stats() : Stats{};
}
std::vector<WaitInfo> Database::waits() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->waits() : std::vector<WaitInfo>{};
}
UndoInfo Database::undo() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->undo_info() : UndoInfo{};
}
Result<std::vector<VersionInfo>> Database::versions(const Tree& tree, std::string_view key) {
  KESSAI_ENTER();
  KESSAI_TRY(store_->owns(tree.state_.get()));
  return store_->versions(*tree.state_, key);
}
std::vector<TransactionInfo> Database::transactions() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->transactions() : std::vector<TransactionInfo>{};
}
std::vector<LockInfo> Database::locks() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->lock_infos() : std::vector<LockInfo>{};
}
std::vector<DeadlockInfo> Database::deadlocks() const {
  if (store_ == nullptr) return {};
  engine::Store::Use use(*store_);
  return use ? store_->deadlocks() : std::vector<DeadlockInfo>{};
}
Result<PageDump> Database::page(std::uint64_t page_id) {
  KESSAI_ENTER();
  return store_->page(page_id);
}
Result<std::vector<TreeNode>> Database::tree_nodes(const Tree& tree) {
  KESSAI_ENTER();
  KESSAI_TRY(store_->owns(tree.state_.get()));
  return store_->tree_nodes(*tree.state_);
}
Result<void> Database::wal_records(const std::function<bool(const WalRecord&)>& fn) {
  KESSAI_ENTER();
  return store_->wal_records(fn);
}

}  // namespace kessai
