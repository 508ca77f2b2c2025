// SPDX-License-Identifier: Apache-2.0
// Page decoders: an arbitrary page is read safely by everything an optimistic reader may call, and
// one that verify() accepts can be changed, split and merged and is valid afterwards. There is no
// checksum here: the page is what a hash has let through.
//
//   input := u8 flags | page bytes, zeros after them; flags: 1 = the page says it is page 7 of the
//   store and a leaf (with 2: an inner node), so that the rest is reached
#include <algorithm>
#include <cstring>
#include <memory>

#include "btree/node.hpp"
#include "btree/page_map.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace kessai::fuzz {
namespace {

using btree::LeafHit;
using btree::Node;
using btree::NodeView;

constexpr std::uint64_t kStore = 0x2222;
constexpr PageId kPage{7};

struct alignas(8) Page {
  std::byte bytes[kPageSize] = {};
};

void read_everything(NodeView node, std::string_view key) {
  std::string out;
  bool exact = false;
  const unsigned slot = node.lower_bound(key, exact);
  const unsigned child = node.child_index(key);
  (void)node.covers(key);
  (void)node.child(child);
  (void)node.room_for_leaf(key.size(), 10);
  (void)node.room_for_separator(key.size());
  node.prefetch();
  node.prefetch_match(key);
  expect(node.count() <= btree::kMaxInnerCount, "more entries than a page holds");
  for (const unsigned i : {slot, 0u, node.count() / 2, node.count()}) {
    LeafHit hit;
    if (node.leaf_at(i, hit)) node.copy_value(hit, out);
    node.copy_key(i, out);
    expect(out.size() <= btree::kMaxKey, "a key is too long");
    node.copy_separator(i, out);
    expect(out.size() <= btree::kMaxKey, "a separator is too long");
  }
  node.low_fence(out);
  (void)node.high_fence(out);
  (void)node.live_bytes();
  Page copy;
  if (node.is_leaf()) node.copy_leaf(copy.bytes);
}

void expect_valid(const Page& page, PageId id) {
  std::string what;
  expect(NodeView(page.bytes).verify(kStore, id, what), "a change broke a valid page: " + what);
}

void change_leaf(Page& page, const std::string& key, const std::string& value) {
  Node node(page.bytes);
  bool exact = false;
  const unsigned slot = node.lower_bound(key, exact);
  if (exact && !node.update_leaf(slot, 0, value)) {
    node.erase_leaf(slot);
  } else if (!exact && node.room_for_leaf(key.size(), value.size())) {
    node.insert_leaf(slot, key, 0, value);
  } else if (!exact) {
    Page left, right, merged;
    node.split_to(left.bytes, kPage, right.bytes, PageId{8},
                  node.plan_leaf_split(key, value.size(), slot, btree::LeafChange::insert));
    expect_valid(left, kPage);
    expect_valid(right, PageId{8});
    if (NodeView::merged_bytes(NodeView(left.bytes), NodeView(right.bytes)) > btree::kNodeUsable)
      return;
    NodeView::merge_to(merged.bytes, kPage, NodeView(left.bytes), NodeView(right.bytes));
    expect_valid(merged, kPage);
  }
}

void change_inner(Page& page, const std::string& key) {
  Node node(page.bytes);
  expect(node.child(node.child_index(key)) != kNoPage, "a valid inner node has no child for a key");
  if (node.count() > 1 && !node.room_for_separator(key.size())) {
    Page left, right;
    node.split_to(left.bytes, kPage, right.bytes, PageId{8}, node.plan_inner_split(key));
    expect_valid(left, kPage);
    expect_valid(right, PageId{8});
  }
  if (node.count() != 0) node.erase_separator(0);
}

/// A map chunk: whatever its entries say, loading it keeps to itself.
void load_as_map(const Page& page) {
  btree::PageMap map;
  map.begin_load(btree::kMapFanout, 1, {.slot = 1, .hash = {}});
  map.load_chunk(0, 0, page.bytes);
  std::uint64_t slots = 0;
  map.each_slot([&](btree::Slot) { ++slots; });
  expect(slots <= btree::kMapFanout + 1, "a map chunk has more entries than it can");
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const std::uint8_t flags = input.u8();
  const auto bytes = input.bytes(kPageSize);
  const auto page = std::make_unique<Page>();
  if (!bytes.empty()) std::memcpy(page->bytes, bytes.data(), bytes.size());
  if ((flags & 1) != 0) {
    const std::uint64_t id = raw(kPage);
    std::memcpy(page->bytes, &kStore, 8);
    std::memcpy(page->bytes + 8, &id, 8);
    page->bytes[24] = static_cast<std::byte>((flags & 2) != 0 ? 2 : 1);
    if ((flags & 2) == 0) page->bytes[25] = std::byte{0};
  }
  const std::string key(reinterpret_cast<const char*>(bytes.data()),
                        std::min<std::size_t>(bytes.size(), flags >> 2));
  read_everything(btree::NodeView(page->bytes), key);
  load_as_map(*page);
  std::string what;
  if (!btree::NodeView(page->bytes).verify(kStore, kPage, what)) {
    expect(!what.empty(), "a page is refused without a word");
    return 0;
  }
  btree::Node node(page->bytes);
  std::string low;
  node.low_fence(low);
  for (const std::string& k : {low, key}) {
    if (!node.covers(k)) continue;
    if (node.is_leaf()) {
      change_leaf(*page, k, std::string(flags, 'v'));
    } else {
      change_inner(*page, k);
    }
    expect_valid(*page, kPage);
  }
  node.compact();
  expect_valid(*page, kPage);
  return 0;
}
