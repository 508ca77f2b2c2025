// SPDX-License-Identifier: Apache-2.0
// The catalog (I16): tree 1 maps names to ids (u32 little-endian, and a byte of flags where there
// are any: 1 = insert-only); the key "" holds the next id, so ids are never reused. Keys longer
// than a name can be belong to outcome.cc. Roots live in the image (btree/roots.hpp), never in the
// log.
#include <algorithm>
#include <cstring>

#include "engine/store.hpp"
#include "io/check.hpp"

namespace kessai::engine {
namespace {

std::string encode_id(std::uint32_t id) {
  std::string s(sizeof id, '\0');
  std::memcpy(s.data(), &id, sizeof id);
  return s;
}

std::uint32_t decode_id(std::string_view s) {
  std::uint32_t id = 0;
  if (s.size() >= sizeof id) std::memcpy(&id, s.data(), sizeof id);
  return id;
}

constexpr char kInsertOnly = 1;

std::unexpected<Error> no_tree(std::string_view name) {
  ErrorDetail d;
  d.what = "there is no tree of this name; create it first";
  d.tree = name;
  return std::unexpected(Error(Code::tree_not_found, std::move(d)));
}

Result<void> check_name(std::string_view name) {
  if (!name.empty() && name.size() <= kMaxTreeNameBytes) return {};
  return fail(Code::bad_tree_name,
              name.empty() ? std::string("a tree name must not be empty")
                           : "the tree name has " + std::to_string(name.size()) +
                                 " bytes; the limit is " + std::to_string(kMaxTreeNameBytes));
}

}  // namespace

Result<PageId> Store::make_root(TreeId id) {
  btree::Shadows shadows(*pages_);
  KESSAI_TRY(pages_->claim(btree::Tree::kClaimPerChange));
  Result<PageId> out = fail(Code::io_error);
  for (;;) {
    auto frame = pages_->pool().take_frame();
    auto ready = frame ? shadows.top_up(4) : Result<void>(std::unexpected(frame.error()));
    if (ready) ready = roots_->make_room(1, shadows);
    if (!ready) {
      if (frame) pages_->pool().return_frame(*frame);
      out = std::unexpected(ready.error());
      break;
    }
    btree::Gate::Pass gate(pages_->gate());
    if (!pages_->enough(shadows, 4)) {
      pages_->pool().return_frame(*frame);
      continue;
    }
    out = pages_->allocate();
    if (!out) {
      pages_->pool().return_frame(*frame);
      break;
    }
    auto x = pages_->pool().adopt(*out, *frame);
    KESSAI_CHECK(pages_->touch(x, shadows));
    btree::Tree::format_root(x, pages_->id().lo, id);
    x.release();
    roots_->add({btree::Roots::Kind::tree, id, *out}, shadows);
    break;
  }
  pages_->unclaim(btree::Tree::kClaimPerChange);
  return out;
}

Result<void> Store::mark_dropping(TreeId id, PageId root) {
  btree::Shadows shadows(*pages_);
  KESSAI_TRY(pages_->claim(btree::Tree::kClaimPerChange, true));
  Result<void> ok;
  for (;;) {
    ok = shadows.top_up(4);
    if (!ok) break;
    btree::Gate::Pass gate(pages_->gate());
    if (!pages_->enough(shadows, 4)) continue;
    roots_->replace({btree::Roots::Kind::tree, id, root}, {btree::Roots::Kind::dropping, id, root},
                    shadows);
    break;
  }
  pages_->unclaim(btree::Tree::kClaimPerChange);
  return ok;
}

std::shared_ptr<TreeState> Store::remember(const std::string& name, TreeId id, PageId root,
                                           bool insert_only) {
  auto t = std::make_shared<TreeState>(token_, name, context_, id, root, insert_only);
  io::MutexLock lock(trees_mutex_);
  return trees_.try_emplace(name, std::move(t)).first->second;
}

Result<std::vector<Store::CatalogRow>> Store::catalog() {
  std::vector<CatalogRow> out;
  btree::TreeCursor cursor(catalog_tree_->tree, "", history_prefix(), false);
  btree::TreeCursor::Row row;
  for (;;) {
    KESSAI_ASSIGN(more, cursor.next(row));
    if (!more) return out;
    if (btree::is_ghost(row.tag) || row.key.empty()) continue;
    if (row.value.size() > sizeof(std::uint32_t) + 1 ||
        (row.value.size() == sizeof(std::uint32_t) + 1 && row.value.back() != kInsertOnly)) {
      return fail(Code::newer_format, "the tree \"" + std::string(row.key) +
                                          "\" has options that this version does not know");
    }
    out.push_back({std::string(row.key), TreeId{decode_id(row.value)},
                   row.value.size() > sizeof(std::uint32_t)});
  }
}

Result<std::shared_ptr<TreeState>> Store::tree(std::string_view name, const TreeOptions& options) {
  KESSAI_TRY(check_name(name));
  const std::string key(name);
  {
    io::MutexLock lock(trees_mutex_);
    if (const auto it = trees_.find(key); it != trees_.end()) return it->second;
  }
  if (!options.create) return no_tree(name);
  KESSAI_TRY(writable());
  io::MutexLock ddl(ddl_mutex_);
  {
    io::MutexLock lock(trees_mutex_);
    if (const auto it = trees_.find(key); it != trees_.end()) return it->second;
  }
  // The root first: an image may hold a root without a catalog record (open drops it), never the
  // other way round.
  const TreeId id{next_tree_++};  // used up even if this fails: ids are never reused
  KESSAI_ASSIGN(root, make_root(id));
  WriteSet writes;
  writes.set(writes.add(catalog_tree_, ""), false, encode_id(next_tree_));
  std::string row = encode_id(raw(id));
  if (options.insert_only) row += kInsertOnly;
  writes.set(writes.add(catalog_tree_, key), false, row);
  mvcc::LockSet locks(next_owner());
  auto lsn = commit(writes, locks);
  if (lsn) {
    // Not waiting is safe: commits into the tree come later in the log (I3).
    if (options.durability == Durability::durable) KESSAI_TRY(wait_durable(*lsn));
    return remember(key, id, root, options.insert_only);
  }
  if (lsn.error() != Code::unknown_outcome) static_cast<void>(mark_dropping(id, root));
  return std::unexpected(lsn.error());
}

Result<void> Store::drop_tree(std::string_view name) {
  KESSAI_TRY(check_name(name));
  KESSAI_TRY(writable());
  if (name == kMainTreeName)
    return fail(Code::bad_tree_name, "the tree \"main\" always exists and cannot be dropped");
  io::MutexLock ddl(ddl_mutex_);
  KESSAI_ASSIGN(t, tree(name, TreeOptions{}));
  t->dropping.store(true, std::memory_order_seq_cst);
  // Commits and purges under way are CPU-bound here: they finish.
  while (t->writers.load(std::memory_order_seq_cst) != 0) io::yield_thread();
  WriteSet writes;
  writes.add(catalog_tree_, name).remove = true;
  mvcc::LockSet locks(next_owner());
  auto lsn = commit(writes, locks);
  if (!lsn) {
    if (lsn.error() != Code::unknown_outcome) t->dropping.store(false, std::memory_order_seq_cst);
    return std::unexpected(lsn.error());
  }
  t->dropped_at.store(*lsn, std::memory_order_release);
  {
    io::MutexLock lock(trees_mutex_);
    trees_.erase(std::string(name));
    dropped_.push_back(t);
  }
  return wait_durable(*lsn);
}

Result<std::vector<std::string>> Store::tree_names() {
  std::vector<std::string> out;
  io::MutexLock lock(trees_mutex_);
  out.reserve(trees_.size());
  for (const auto& [name, t] : trees_) out.push_back(name);
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace kessai::engine
