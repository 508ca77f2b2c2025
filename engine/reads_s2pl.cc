// SPDX-License-Identifier: Apache-2.0
// Reads of the S2PL build: the current version, under a shared lock that is kept to the end of the
// transaction. Answers wait until what they saw is durable (I7).
#include "engine/policy.hpp"
#if KESSAI_S2PL

#include <algorithm>

#include "engine/transaction.hpp"
#include "io/check.hpp"

namespace kessai::engine {
namespace {

/// What must be durable before the answer goes out: the version seen. Where nothing is left of a
/// row, all that happened to its page.
Lsn seen_in(const btree::Tree::Record& r) noexcept {
  return r.present ? btree::tag_lsn(r.tag) : r.page_lsn;
}

struct Seen {
  bool found = false;
  Lsn lsn = 0;   ///< of the row
  Lsn seen = 0;  ///< I7
};

/// REQUIRES a lock on the key.
Result<Seen> read_current(TreeState& t, std::string_view key, std::string* value) {
  auto r = t.tree.get(key, value);
  if (t.gone_at(kMaxLsn)) return std::unexpected(dropped_tree(t));
  if (!r) return std::unexpected(r.error());
  return Seen{.found = r->present && !btree::is_ghost(r->tag),
              .lsn = btree::tag_lsn(r->tag),
              .seen = seen_in(*r)};
}

/// Locks of one call outside a transaction.
class CallLocks {
 public:
  explicit CallLocks(Store& store) : store_(store), locks_(store.next_owner()) {}
  ~CallLocks() { store_.locks().release_all(locks_); }
  CallLocks(const CallLocks&) = delete;
  CallLocks& operator=(const CallLocks&) = delete;
  [[nodiscard]] Result<void> share(const TreeState& t, std::string_view key) {
    auto taken = store_.locks().acquire(locks_, t.tree.id(), key, mvcc::LockMode::shared,
                                        to_ns(store_.options().lock_timeout));
    if (!taken) return lock_error(t, taken.error());
    return {};
  }

 private:
  Store& store_;
  mvcc::LockSet locks_;
};

}  // namespace

// ---- within a transaction ----------------------------------------------------------------------

void TransactionState::begin_view() {}
void TransactionState::refresh_view() {}
void TransactionState::renew_view() {}

Result<SnapshotRead> TransactionState::read_row(TreeState& t, std::string_view key,
                                                std::string* value) {
  auto taken = store_->locks().acquire(locks_, t.tree.id(), key, mvcc::LockMode::shared,
                                       lock_timeout_ns({}));
  if (!taken) return lock_error(t, taken.error());
  KESSAI_ASSIGN(r, read_current(t, key, value));
  answered(r.seen);
  return SnapshotRead{.found = r.found, .lsn = r.lsn, .page_lsn = r.seen};
}

bool TransactionState::conflicts(std::uint64_t) const noexcept { return false; }

Lsn TransactionState::tree_view() const noexcept { return kMaxLsn; }

// ---- without one -------------------------------------------------------------------------------

Result<Lsn> Store::get(TreeState& t, std::string_view key, std::string& value) {
  KESSAI_TRY(check_key(key));
  Seen r;
  {
    CallLocks locks(*this);
    KESSAI_TRY(locks.share(t, key));
    KESSAI_ASSIGN(current, read_current(t, key, &value));
    r = current;
  }
  KESSAI_TRY(wait_seen(r.seen));
  if (!r.found) return fail(Code::not_found);
  return r.lsn;
}

Result<void> Store::multi_get(TreeState& t, std::span<const std::string_view> keys,
                              std::span<Lookup> out) {
  if (out.size() < keys.size())
    return fail(Code::invalid_argument, "multi_get: fewer answers than keys");
  for (const auto key : keys) KESSAI_TRY(check_key(key));
  Lsn seen = 0;
  {
    std::vector<std::string_view> sorted(keys.begin(), keys.end());
    std::sort(sorted.begin(), sorted.end());
    CallLocks locks(*this);
    for (const auto key : sorted) KESSAI_TRY(locks.share(t, key));
    constexpr std::size_t kMost = 64;
    btree::Tree::Lookup lookups[kMost];
    for (std::size_t from = 0; from < keys.size(); from += kMost) {
      const std::size_t n = std::min(kMost, keys.size() - from);
      for (std::size_t i = 0; i < n; ++i) {
        lookups[i].key = keys[from + i];
        lookups[i].value = &out[from + i].value;
        lookups[i].status = {};
      }
      t.tree.multi_get({lookups, n});
      if (t.gone_at(kMaxLsn)) return std::unexpected(dropped_tree(t));
      for (std::size_t i = 0; i < n; ++i) {
        Lookup& o = out[from + i];
        const auto& [key, value, record, status] = lookups[i];
        o.found = status && record.present && !btree::is_ghost(record.tag);
        o.lsn = o.found ? btree::tag_lsn(record.tag) : 0;
        o.code = status ? Code::not_found : status.error().code();
        if (!o.found) o.value.clear();
        if (status) seen = std::max(seen, seen_in(record));
      }
    }
  }
  return wait_seen(seen);
}

}  // namespace kessai::engine

#endif
