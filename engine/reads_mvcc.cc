// SPDX-License-Identifier: Apache-2.0
// Reads of the MVCC build: at a snapshot, without locks. The leaf's version if the snapshot sees
// it, else the before-image that it sees.
#include "engine/policy.hpp"
#if !KESSAI_S2PL

#include <algorithm>

#include "engine/transaction.hpp"
#include "io/check.hpp"
#include "mvcc/record_hash.hpp"

namespace kessai::engine {

// ---- within a transaction ----------------------------------------------------------------------

void TransactionState::begin_view() {
  // Where validation starts to look is read before the snapshot is taken.
  if (isolation_ == Isolation::serializable && !options_.read_only) {
    certify_.emplace();
    certify_->start = store_->certifier().begin();
  }
  live_.end();
  live_ = store_->begin_snapshot(options_.read_only, options_.at_least);
  seen_ = std::max(seen_, live_.snapshot().w);
  snapshot_lsn_.store(live_.snapshot().w, std::memory_order_relaxed);
}

void TransactionState::refresh_view() {
  if (isolation_ == Isolation::read_committed) begin_view();
}

void TransactionState::renew_view() {
  const bool looked = (answered_ && !KESSAI_MUTANT(snapshot_moves_after_reads)) || !writes_.empty();
  if (!looked && !options_.read_only && isolation_ != Isolation::read_committed) begin_view();
}

Result<SnapshotRead> TransactionState::read_row(TreeState& t, std::string_view key,
                                                std::string* value) {
  auto r = store_->read_at(t, key, live_.snapshot(), value);
  // Before any error: what the snapshot needed may be gone.
  if (killed()) return std::unexpected(snapshot_given_up());
  if (r && certify_ && !(KESSAI_MUTANT(read_set_forgets_absent) && !r->found))
    certify_->reads.point(t.tree.id(), key);
  return r;
}

bool TransactionState::conflicts(std::uint64_t tag) const noexcept {
  if (judge_current_ || isolation_ == Isolation::read_committed ||
      KESSAI_MUTANT(first_updater_ignored))
    return false;
  return !live_.snapshot().sees(btree::tag_lsn(tag));
}

Lsn TransactionState::tree_view() const noexcept {
  return judge_current_ ? kMaxLsn : live_.snapshot().w;
}

// ---- without one -------------------------------------------------------------------------------

mvcc::Snapshots::Live Store::begin_snapshot(bool read_only, Lsn at_least) {
  return snapshots_.begin(
      [&] { return read_only ? std::max(at_least, std::min(applied(), durable())) : applied(); });
}

Result<SnapshotRead> Store::read_at(TreeState& t, std::string_view key, const mvcc::Snapshot& s,
                                    std::string* value, btree::LeafHint* hint) {
  std::uint64_t hash = s.w < undo_->old_below() ? mvcc::record_hash(t.tree.id(), key) : 0;
  if (hash != 0) undo_->prefetch_chain(hash);
  auto r = t.tree.get(key, value, hint);
  if (t.gone_at(s.w)) return std::unexpected(dropped_tree(t));
  if (!r) return std::unexpected(r.error());
  SnapshotRead out;
  out.page_lsn = r->page_lsn;
  if (!r->present) return out;
  if (s.sees(btree::tag_lsn(r->tag))) {
    out.found = !btree::is_ghost(r->tag);
    out.lsn = btree::tag_lsn(r->tag);
    return out;
  }
  mvcc::Version v;
  if (value != nullptr) v.value.swap(*value);  // for its capacity
  if (hash == 0) hash = mvcc::record_hash(t.tree.id(), key);
  out.found = undo_->find(hash, t.tree.id(), key, s, v) && v.present;
  if (value != nullptr) v.value.swap(*value);
  if (out.found) out.lsn = v.begin;
  return out;
}

Result<Lsn> Store::get(TreeState& t, std::string_view key, std::string& value) {
  KESSAI_TRY(check_key(key));
  for (;;) {
    const mvcc::Snapshot s{std::min(applied(), durable())};
    auto r = read_at(t, key, s, &value);
    // Not registered: if the collector passed this snapshot meanwhile, take a newer one. A row that
    // was found is right, unless it comes from a page that belonged to a dropped tree.
    const bool sure = r && r->found && t.dropped_at.load(std::memory_order_acquire) == 0;
    if (!sure && freed_since(s)) continue;
    if (!r) return std::unexpected(r.error());
    if (!r->found) return fail(Code::not_found);
    return r->lsn;
  }
}

Result<void> Store::multi_get(TreeState& t, std::span<const std::string_view> keys,
                              std::span<Lookup> out) {
  if (out.size() < keys.size())
    return fail(Code::invalid_argument, "multi_get: fewer answers than keys");
  for (const auto key : keys) KESSAI_TRY(check_key(key));
  constexpr std::size_t kMost = 64;
  btree::Tree::Lookup lookups[kMost];
  for (std::size_t from = 0; from < keys.size();) {
    const std::size_t n = std::min(kMost, keys.size() - from);
    const mvcc::Snapshot s{std::min(applied(), durable())};
    for (std::size_t i = 0; i < n; ++i) {
      lookups[i].key = keys[from + i];
      lookups[i].value = &out[from + i].value;
      lookups[i].status = {};
    }
    t.tree.multi_get({lookups, n});
    const bool freed = freed_since(s);
    if (t.gone_at(s.w)) return std::unexpected(dropped_tree(t));
    if (freed && t.dropped_at.load(std::memory_order_acquire) != 0)
      continue;  // again, at a newer snapshot
    for (std::size_t i = 0; i < n; ++i) {
      Lookup& o = out[from + i];
      const auto& record = lookups[i].record;
      o.found = false;
      o.lsn = 0;
      o.code = Code::not_found;
      if (!lookups[i].status) {
        o.code = lookups[i].status.error().code();
      } else if (record.present && s.sees(btree::tag_lsn(record.tag))) {
        o.found = !btree::is_ghost(record.tag);
        o.lsn = btree::tag_lsn(record.tag);
      } else if (record.present || freed) {
        // Newer than what is durable, or purged under us: the one-key path knows what to do.
        auto lsn = get(t, keys[from + i], o.value);
        // Dropped meanwhile: an answer of the call, as for any other moment of the drop.
        if (!lsn && lsn.error() == Code::tree_not_found) return std::unexpected(lsn.error());
        o.found = lsn.has_value();
        o.lsn = lsn.value_or(0);
        if (!lsn) o.code = lsn.error().code();
      }
      if (!o.found) o.value.clear();
    }
    from += n;
  }
  return {};
}

}  // namespace kessai::engine

#endif
