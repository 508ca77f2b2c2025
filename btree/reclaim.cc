// SPDX-License-Identifier: Apache-2.0
// Freeing what the image still lists as pending: overflow chains and dropped trees, in small gated
// steps that a crash may interrupt anywhere.
#include "btree/race.hpp"
#include "btree/tree.hpp"
#include "io/check.hpp"

namespace kessai::btree {
namespace {

Result<void> free_chain_page(TreeContext& context, const Roots::Entry& entry, Shadows& shadows) {
  PageStore& store = *context.store;
  for (;;) {
    KESSAI_TRY(shadows.top_up(4));
    KESSAI_TRY(store.pool().load(entry.page));
    Gate::Pass gate(store.gate());
    Pool::Exclusive x;
    if (!store.enough(shadows, 4) || !store.pool().latch(entry.page, x)) continue;
    const PageId next{race::load<std::uint32_t>(x.data() + 64)};
    if (next == kNoPage) {
      context.roots->remove(entry, shadows);
    } else {
      context.roots->replace(entry, {entry.kind, entry.tree, next}, shadows);
    }
    context.counters.structure_changes.fetch_add(1, std::memory_order_release);
    store.free(std::move(x), shadows);
    return {};
  }
}

}  // namespace

Result<bool> reclaim_step(TreeContext& context, Shadows& shadows) {
  constexpr std::uint64_t kClaim = 4;
  // Chains before trees: a tree being dropped turns its long values into chains one by one, so the
  // list never grows beyond a few entries.
  if (const auto next = context.roots->next_pending()) {
    const Roots::Entry& e = *next;
    if (e.kind == Roots::Kind::dropping) {
      Tree tree(context, e.tree, e.page);
      KESSAI_TRY(tree.drop_step(shadows));
      return true;
    }
    KESSAI_TRY(context.store->claim(kClaim, true));
    auto freed = free_chain_page(context, e, shadows);
    context.store->unclaim(kClaim);
    if (!freed) return std::unexpected(freed.error());
    return true;
  }
  return false;
}

}  // namespace kessai::btree
