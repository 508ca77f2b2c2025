// SPDX-License-Identifier: Apache-2.0
// A page store with one tree and a model on the simulated disk, for the tests of this folder.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include "btree/tree.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"

namespace kessai::btree::test {

inline std::uint64_t seed() {
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
    ASSERT_TRUE(std::equal(
        seen.begin(), seen.end(), model.begin(),
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

}  // namespace kessai::btree::test
