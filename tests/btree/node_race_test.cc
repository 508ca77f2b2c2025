// SPDX-License-Identifier: Apache-2.0
// Optimistic readers beside a writer: race-free by the memory model, and never a torn answer.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "io/sync.hpp"
#include "tests/btree/node_support.hpp"

namespace kessai::btree {
namespace {

using testing::format_leaf;
using testing::Page;
using testing::Random;

constexpr unsigned kKeys = 40;

std::string key_number(unsigned i) {
  return "key" + std::string(1, static_cast<char>('A' + i)) + std::string(i % 9, 'x');
}
// A value that gives itself away when it is torn or paired with another tag or key.
std::string value_for(unsigned i, std::uint64_t tag) {
  std::string v;
  const std::size_t words = 1 + (tag >> 8) % 9;
  for (std::size_t w = 0; w < words; ++w) v.append(reinterpret_cast<const char*>(&tag), 8);
  v.append(tag >> 8 & 3, static_cast<char>(i));
  return v;
}

// Goal: every answer that a reader validates by the version is one that the writer wrote, and TSan
// finds no race. Method: one writer inserts, updates, erases, compacts and republishes whole pages
// under an external version word; one reader looks up, validates, then checks tag, key and value.
TEST(NodeRace, ValidatedReadsAreNeverTorn) {
  Page page;
  format_leaf(page.node(), "key", "kez");
  std::atomic<std::uint64_t> version{0};
  std::atomic<bool> done{false};
  constexpr unsigned kValidated = 3'000, kRefused = 200;

  io::Thread writer("node-writer", [&] {
    Random random(3);
    Node node = page.node();
    Page copy;
    for (std::uint64_t lsn = 1; !done.load(std::memory_order_relaxed); ++lsn) {
      // Odd before the first release store of the page, even with release after the last.
      version.store(2 * lsn - 1, std::memory_order_relaxed);
      const auto i = static_cast<unsigned>(random.below(kKeys));
      const std::string key = key_number(i);
      const std::uint64_t tag = make_tag(lsn, 0);
      bool exact;
      const unsigned slot = node.lower_bound(key, exact);
      const std::string value = value_for(i, tag);
      if (exact && random.one_in(3)) {
        node.erase_leaf(slot);
      } else if (exact) {
        if (!node.update_leaf(slot, tag, value)) node.erase_leaf(slot);
      } else if (node.room_for_leaf(key.size(), value.size())) {
        node.insert_leaf(slot, key, tag, value);
      } else if (node.count() != 0) {
        node.erase_leaf(0);
      }
      if (lsn % 64 == 0) node.compact();
      if (lsn % 256 == 0) {
        race::copy_out(copy.data(), page.data(), kPageSize);
        race::copy_in(page.data(), copy.data(), kPageSize);
      }
      version.store(2 * lsn, std::memory_order_release);
      if (lsn % 8 == 0) io::cpu_relax();
    }
  });

  Random random(4);
  const NodeView node = page.view();
  unsigned validated = 0, refused = 0;
  std::string value, slot_key, high;
  for (std::uint64_t attempt = 0; attempt < 100'000'000; ++attempt) {
    if (validated >= kValidated && refused >= kRefused) break;
    const auto i = static_cast<unsigned>(random.below(kKeys));
    const std::string key = key_number(i);
    const std::uint64_t before = version.load(std::memory_order_acquire);
    if (before % 2 != 0) continue;
    bool exact = false;
    LeafHit hit;
    bool complete = false;
    if (node.covers(key)) {
      const unsigned slot = node.lower_bound(key, exact);
      complete = !exact || node.leaf_at(slot, hit);
      // Now and then let the writer in between.
      for (unsigned spin = attempt % 64 == 0 ? 2'000 : 0; spin != 0; --spin) {
        if (version.load(std::memory_order_relaxed) != before) break;
        io::cpu_relax();
      }
      if (exact && complete) {
        node.copy_value(hit, value);
        node.copy_key(slot, slot_key);
      }
    }
    // Every load above is an acquire load, so this one cannot happen before them.
    if (version.load(std::memory_order_relaxed) != before) {
      ++refused;
      continue;
    }
    EXPECT_TRUE(complete);
    if (!exact) continue;
    ++validated;
    ASSERT_EQ(slot_key, key);
    ASSERT_EQ(value, value_for(i, hit.tag));
  }
  done.store(true, std::memory_order_relaxed);
  writer.join();
  EXPECT_GE(validated, kValidated);
  EXPECT_GE(refused, kRefused);
  testing::expect_valid(node);
}

// Goal: the copies of race.hpp move exactly the bytes asked for. Method: every alignment and length
// around two words, against memcpy and memmove.
TEST(NodeRace, CopiesMoveExactlyTheirBytes) {
  Random random(6);
  for (std::size_t off = 0; off < 10; ++off) {
    for (std::size_t n = 0; n < 34; ++n) {
      Page page, plain;
      race::copy_in(page.data(), random.bytes(64).data(), 64);
      race::copy_out(plain.data(), page.data(), 64);
      std::string source = random.bytes(n + 1), out(n + 2, '#'), expected(n + 2, '#');
      race::copy_in(page.data() + off, source.data() + 1, n);
      std::memcpy(plain.data() + off, source.data() + 1, n);
      EXPECT_EQ(std::memcmp(page.data(), plain.data(), 64), 0);
      race::copy_out(out.data() + 1, page.data() + off, n);
      std::memcpy(expected.data() + 1, plain.data() + off, n);
      EXPECT_EQ(out, expected);
      for (const std::size_t to : {std::size_t{0}, off + 4, std::size_t{17}}) {
        race::move_within(page.data(), to, off, n);
        std::memmove(plain.data() + to, plain.data() + off, n);
        ASSERT_EQ(std::memcmp(page.data(), plain.data(), kPageSize), 0);
      }
    }
  }
}

}  // namespace
}  // namespace kessai::btree
