// SPDX-License-Identifier: Apache-2.0
// The tree over the page store, on the simulated disk, against a std::map: changes, scans both
// ways, long values, eviction with a pool smaller than the data, checkpoints stepped between
// changes, reopening, merging, dropping; the audits of structure and ownership after each phase.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include "btree/tree.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"

namespace kessai::btree {
namespace {

std::uint64_t seed() {
  const char* s = std::getenv("KESSAI_SEED");
  return s != nullptr ? std::strtoull(s, nullptr, 0) : 20111109;
}

/// A store with one tree and no log: durability is the checkpoint's.
struct World {
  io::SimDisk disk{seed()};
  std::unique_ptr<io::Directory> directory;
  io::Env env;
  std::unique_ptr<PageStore> store;
  std::unique_ptr<Roots> roots;
  std::unique_ptr<TreeContext> context;
  std::unique_ptr<Tree> tree;
  std::map<std::string, std::string> model;
  Lsn lsn = 100;
  PageStoreOptions options;

  explicit World(std::uint64_t memory = 1 << 20) {
    options.memory = memory;
    attach();
    store = PageStore::create(env, {7, 9}, options).value();
    make_roots();
    Shadows shadows(*store);
    EXPECT_TRUE(roots->create(shadows).has_value());
    const PageId root = store->allocate().value();
    {
      Pool::Exclusive x = store->pool().adopt(root, store->pool().take_frame().value());
      EXPECT_TRUE(store->touch(x, shadows));
      Tree::format_root(x, 9, TreeId{2});
      roots->add({Roots::Kind::tree, TreeId{2}, root}, shadows);
    }
    EXPECT_TRUE(store->checkpoint().has_value());
    EXPECT_TRUE(store->checkpoint().has_value());
    EXPECT_TRUE(store->publish_new().has_value());
    tree = std::make_unique<Tree>(*context, TreeId{2}, root);
  }
  void attach() {
    directory = disk.attach();
    env = {};
    env.directory = directory.get();
    env.background = false;
  }
  void make_roots() {
    roots = std::make_unique<Roots>(*store);
    context = std::make_unique<TreeContext>();
    context->store = store.get();
    context->roots = roots.get();
  }
  void close() {
    tree.reset();
    roots.reset();
    store.reset();
    context.reset();
    directory.reset();
  }
  void reopen() {
    close();
    attach();
    auto opened = PageStore::open(env, options);
    ASSERT_TRUE(opened.has_value()) << opened.error().message();
    store = std::move(*opened);
    make_roots();
    ASSERT_TRUE(roots->load().has_value());
    tree = std::make_unique<Tree>(*context, TreeId{2}, *roots->root_of(TreeId{2}));
  }
  void put(const std::string& k, const std::string& v) { change(k, &v); }
  void remove(const std::string& k) { change(k, nullptr); }
  void change(const std::string& k, const std::string* v) {
    Shadows shadows(*store);
    ASSERT_TRUE(store->claim(16).has_value());
    Change c;
    OverflowPages pages;
    c.key = k;
    c.remove = v == nullptr;
    c.lsn = ++lsn;
    if (v != nullptr) {
      c.value = *v;
      if (!fits_inline(k.size(), v->size())) {
        ASSERT_TRUE(tree->prepare_overflow(*v, pages).has_value());
        c.overflow = &pages;
      }
      model[k] = *v;
    } else {
      model.erase(k);
    }
    const auto ok = tree->apply(c, {}, shadows, nullptr);
    ASSERT_TRUE(ok.has_value()) << ok.error().message();
    store->unclaim(16);
  }
  void reclaim_all() {
    Shadows shadows(*store);
    for (;;) {
      const auto more = reclaim_step(*context, shadows);
      ASSERT_TRUE(more.has_value()) << more.error().message();
      if (!*more) break;
    }
  }
  void verify() {
    std::string value;
    for (const auto& [k, v] : model) {
      const auto r = tree->get(k, &value);
      ASSERT_TRUE(r.has_value()) << r.error().message();
      ASSERT_TRUE(r->present && !is_ghost(r->tag)) << k;
      ASSERT_EQ(value, v);
    }
    scan(false);
    scan(true);
    audit();
  }
  void scan(bool reverse) {
    TreeCursor cursor(*tree, "", std::nullopt, reverse);
    TreeCursor::Row row;
    std::vector<std::pair<std::string, std::string>> seen;
    for (;;) {
      const auto more = cursor.next(row);
      ASSERT_TRUE(more.has_value());
      if (!*more) break;
      if (is_ghost(row.tag)) continue;
      std::string v(row.value);
      if (is_overflow(row.tag)) {
        ASSERT_TRUE(cursor.overflow_value(row, v).value());
      }
      seen.emplace_back(row.key, v);
    }
    if (reverse) std::reverse(seen.begin(), seen.end());
    ASSERT_EQ(seen.size(), model.size());
    ASSERT_TRUE(std::equal(seen.begin(), seen.end(), model.begin(),
                           [](const auto& a, const auto& b) { return a.first == b.first && a.second == b.second; }));
  }
  void audit() {
    const auto a = tree->audit(true, false);
    ASSERT_TRUE(a.has_value()) << a.error().message();
    for (const auto& d : a->damage) ADD_FAILURE() << d.message();
    EXPECT_EQ(a->records, model.size());
    // Ownership: each page in use is reachable exactly once.
    std::set<std::uint64_t> reachable;
    for (const PageId p : a->reachable) EXPECT_TRUE(reachable.insert(raw(p)).second) << raw(p);
    for (const PageId p : roots->pages()) EXPECT_TRUE(reachable.insert(raw(p)).second);
    for (std::uint64_t p = 1; p < store->next_page(); ++p) {
      if (store->live_entry(PageId{p}).slot != 0) {
        EXPECT_TRUE(reachable.contains(p)) << "page " << p << " leaked";
      }
    }
    EXPECT_EQ(store->usage().pages, reachable.size());
    const auto space = store->audit_space();
    EXPECT_TRUE(space.has_value()) << space.error().message();
  }
};

std::string key(io::SeededRandom& r, unsigned space) {
  const std::uint64_t n = r.below(space);
  std::string k = "key" + std::to_string(n * 7919 % space);
  if (n % 17 == 0) k += std::string(n % 900, 'x');
  return k;
}
std::string value(io::SeededRandom& r) {
  const std::uint64_t kind = r.below(100);
  const std::size_t n = kind < 80 ? r.below(200) : kind < 97 ? r.below(1500) : r.below(60000);
  std::string v(n, '\0');
  for (auto& c : v) c = static_cast<char>(r.next());
  return v;
}

// Random changes against the model; the pool is smaller than the data, so pages are evicted dirty.
TEST(Tree, AgreesWithMapWhenLargerThanThePool) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed()));
  io::SeededRandom r(seed());
  World w(1 << 20);
  for (int i = 0; i < 20000; ++i) {
    const std::string k = key(r, 3000);
    if (r.below(4) == 0 && w.model.contains(k)) {
      w.remove(k);
    } else {
      w.put(k, value(r));
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
  w.reclaim_all();
  w.verify();
  EXPECT_GT(w.store->pool().counters().evicted.load(), 0u);
  EXPECT_GT(w.context->counters.leaf_splits.load(), 50u);
}

// A checkpoint advanced one step between changes: what is reopened is a state between the cut and
// the end; a checkpoint at rest reopens to exactly the model.
TEST(Tree, CheckpointsInterleavedWithChangesReopenToTheModel) {
  io::SeededRandom r(seed() + 1);
  World w(2 << 20);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 3000; ++i) {
      const std::string k = key(r, 1500);
      if (r.below(3) == 0 && w.model.contains(k)) {
        w.remove(k);
      } else {
        w.put(k, value(r));
      }
      if (::testing::Test::HasFatalFailure()) return;
      if (w.store->checkpoint_running()) {
        const auto ok = w.store->checkpoint_step();
        ASSERT_TRUE(ok.has_value()) << ok.error().message();
      } else if (r.below(200) == 0) {
        w.store->begin_checkpoint(false);
      }
    }
    while (w.store->checkpoint_running()) ASSERT_TRUE(w.store->checkpoint_step().has_value());
    w.reclaim_all();
    ASSERT_TRUE(w.store->checkpoint().has_value());
    ASSERT_NO_FATAL_FAILURE(w.verify());
    ASSERT_NO_FATAL_FAILURE(w.reopen());
    ASSERT_NO_FATAL_FAILURE(w.verify());
  }
}

// Deleting nearly everything and purging merges leaves and lowers the tree; pages are freed.
TEST(Tree, PurgingGhostsMergesAndShrinks) {
  World w(8 << 20);
  for (int i = 0; i < 20000; ++i) {
    char k[16];
    std::snprintf(k, sizeof k, "%08d", i);
    w.put(k, std::string(100, 'v'));
  }
  const auto before = w.tree->audit(false, false).value();
  EXPECT_GE(static_cast<double>(before.live_bytes) / static_cast<double>(before.leaves * NodeView::usable_bytes()), 0.95);
  w.context->horizon = [] { return kMaxLsn; };
  Shadows shadows(*w.store);
  for (int i = 0; i < 20000; ++i) {
    if (i % 50 == 0) continue;
    char k[16];
    std::snprintf(k, sizeof k, "%08d", i);
    w.remove(k);
    ASSERT_TRUE(w.tree->purge_ghost(k, w.lsn, shadows).has_value());
  }
  w.verify();
  const auto after = w.tree->audit(false, false).value();
  EXPECT_LT(after.pages * 10, before.pages);
  EXPECT_EQ(after.ghosts, 0u);
  EXPECT_LE(after.depth, before.depth);
}

TEST(Tree, DroppingFreesEveryPage) {
  io::SeededRandom r(seed() + 2);
  World w(4 << 20);
  for (int i = 0; i < 3000; ++i) w.put(key(r, 3000), value(r));
  Shadows shadows(*w.store);
  {
    Gate::Pass gate(w.store->gate());
    w.roots->replace({Roots::Kind::tree, TreeId{2}, w.tree->root()}, {Roots::Kind::dropping, TreeId{2}, w.tree->root()}, shadows);
  }
  w.reclaim_all();
  EXPECT_EQ(w.store->usage().pages, w.roots->pages().size());
  EXPECT_TRUE(w.store->audit_space().has_value());
}

// multi_get answers what get answers, resident or not.
TEST(Tree, MultiGetAgreesWithGet) {
  io::SeededRandom r(seed() + 3);
  World w(1 << 20);
  for (int i = 0; i < 8000; ++i) w.put(key(r, 6000), std::string(r.below(300), 'a'));
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> keys, values(37);
    for (int i = 0; i < 37; ++i) keys.push_back(key(r, 9000));
    std::vector<Tree::Lookup> lookups;
    for (int i = 0; i < 37; ++i) lookups.push_back({keys[i], &values[i]});
    w.tree->multi_get(lookups);
    for (int i = 0; i < 37; ++i) {
      ASSERT_TRUE(lookups[i].status.has_value());
      const auto it = w.model.find(keys[i]);
      ASSERT_EQ(lookups[i].record.present, it != w.model.end());
      if (it != w.model.end()) {
        ASSERT_EQ(values[i], it->second);
      }
    }
  }
}

}  // namespace
}  // namespace kessai::btree
