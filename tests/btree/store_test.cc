// SPDX-License-Identifier: Apache-2.0
// Goal: what happens to a page while its image is on its way to disk reaches exactly the
// checkpoints it belongs to (I5b c). Method: the simulated disk's observer runs in the middle of an
// eviction's write and does there what another thread would do.
#include "btree/page_header.hpp"
#include "btree/race.hpp"
#include "tests/btree/world.hpp"

namespace kessai::btree {
namespace {

using test::World;

/// Pages outside the tree, enough of them that the pool evicts.
class PageStoreTest : public ::testing::Test {
 protected:
  void make_page() {
    PageStore& store = *w.store;
    const FrameId frame = store.pool().take_frame().value();
    Shadows shadows(store);
    ASSERT_TRUE(shadows.top_up(2).has_value());
    Gate::Pass gate(store.gate());
    const PageId p = store.allocate().value();
    Pool::Exclusive x = store.pool().adopt(p, frame);
    ASSERT_TRUE(store.touch(x, shadows));
    alignas(8) std::byte image[kPageSize] = {};
    PageHeader h;
    h.store = store.id().lo;
    h.page = raw(p);
    h.type = PageType::overflow;
    write_header(image, h);
    race::copy_in(x.data(), image, kPageSize);
    pages.push_back(p);
  }
  /// Runs `then` in the middle of the next eviction's write, with a page that is being written.
  void at_next_write(std::function<void(Pool::Exclusive&&)> then) {
    w.disk.set_observer(
        [this, then = std::move(then)](std::uint64_t, std::string_view kind, std::string_view) {
          if (kind != "write" || done) return;
          for (const PageId p : pages) {
            Pool::Exclusive x;
            if (!w.store->pool().try_latch(p, x) || x.frame().writing.load() == 0) continue;
            done = true;
            victim = p;
            return then(std::move(x));
          }
        });
  }
  void finish_checkpoint() {
    while (w.store->checkpoint_running()) ASSERT_TRUE(w.store->checkpoint_step().has_value());
  }

  World w{64 * kPageSize};
  std::vector<PageId> pages;
  PageId victim = kNoPage;
  bool done = false;
};

TEST_F(PageStoreTest, PageFreedBeforeTheCutIsNotInIt) {
  at_next_write([&](Pool::Exclusive&& x) {
    Shadows none(*w.store);
    {
      Gate::Pass gate(w.store->gate());
      w.store->free(std::move(x), none);
    }
    w.store->begin_checkpoint(false);
  });
  while (!done && pages.size() < 200) ASSERT_NO_FATAL_FAILURE(make_page());
  ASSERT_TRUE(done);
  finish_checkpoint();
  EXPECT_EQ(w.store->live_entry(victim).slot, 0u);
  const auto pages_before = w.store->usage().pages;
  ASSERT_NO_FATAL_FAILURE(w.reopen());
  EXPECT_EQ(w.store->live_entry(victim).slot, 0u);
  EXPECT_LE(w.store->usage().pages, pages_before);
  EXPECT_TRUE(w.store->audit_space().has_value());
}

TEST_F(PageStoreTest, PageFreedAfterTheCutIsInItAndNotInTheNext) {
  at_next_write([&](Pool::Exclusive&& x) {
    w.store->begin_checkpoint(false);
    Shadows none(*w.store);  // clean since its image was copied: no shadow is needed
    Gate::Pass gate(w.store->gate());
    w.store->free(std::move(x), none);
  });
  while (!done && pages.size() < 200) ASSERT_NO_FATAL_FAILURE(make_page());
  ASSERT_TRUE(done);
  EXPECT_EQ(w.store->live_entry(victim).slot, 0u);
  finish_checkpoint();
  EXPECT_EQ(w.store->live_entry(victim).slot, 0u);
  EXPECT_TRUE(w.store->audit_space().has_value());
  ASSERT_NO_FATAL_FAILURE(w.reopen());
  EXPECT_NE(w.store->live_entry(victim).slot, 0u) << "the image at the cut had the page";
  EXPECT_TRUE(w.store->verify_stored(victim).has_value());
}

TEST_F(PageStoreTest, PageChangedWhileItsImageIsUnderWayKeepsTheChange) {
  at_next_write([&](Pool::Exclusive&& x) {
    w.store->begin_checkpoint(false);
    Shadows none(*w.store);
    ASSERT_TRUE(w.store->touch(x, none));
    race::store<std::uint64_t>(x.data() + 80, 4711);
    x.release();
  });
  while (!done && pages.size() < 200) ASSERT_NO_FATAL_FAILURE(make_page());
  ASSERT_TRUE(done);
  finish_checkpoint();
  ASSERT_TRUE(w.store->checkpoint().has_value());
  ASSERT_NO_FATAL_FAILURE(w.reopen());
  const auto g = w.store->pool().read(victim);
  ASSERT_TRUE(g.has_value());
  EXPECT_EQ(race::load<std::uint64_t>(g->data() + 80), 4711u);
}

}  // namespace
}  // namespace kessai::btree
