// SPDX-License-Identifier: Apache-2.0
// Pages, random keys and seeds for the node tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "btree/node.hpp"

namespace kessai::btree::testing {

/// One page on its own heap block, so that ASan sees a step outside.
class Page {
 public:
  Page() : bytes_(new Bytes{}) {}
  [[nodiscard]] std::byte* data() const { return bytes_->b; }
  [[nodiscard]] Node node() const { return Node(data()); }
  [[nodiscard]] NodeView view() const { return NodeView(data()); }

 private:
  struct alignas(kPageSize) Bytes {
    std::byte b[kPageSize];
  };
  std::unique_ptr<Bytes> bytes_;
};

inline std::uint64_t seed() {
  static const std::uint64_t value = [] {
    const char* given = std::getenv("KESSAI_SEED");
    const std::uint64_t s =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("KESSAI_SEED=%llu\n", static_cast<unsigned long long>(s));
    return s;
  }();
  return value;
}

class Random {
 public:
  explicit Random(std::uint64_t salt = 0) : engine_(seed() + salt) {}
  /// 0..n-1
  std::size_t below(std::size_t n) { return engine_() % n; }
  bool one_in(std::size_t n) { return below(n) == 0; }
  std::uint64_t word() { return engine_(); }
  std::uint64_t tag() { return make_tag(engine_() & kMaxLsn, one_in(2) ? kGhost : 0); }
  std::string bytes(std::size_t n) {
    std::string s(n, '\0');
    for (char& c : s) c = static_cast<char>(engine_());
    return s;
  }

  /// Keys of one family collide often and share prefixes in a way of their own.
  enum Family { kTiny, kBinary, kPrefixed, kLong, kMixed, kFamilies };
  std::string key(Family family) {
    static const char alphabet[] = {'\0', '\x01', 'a', '\x7f', '\x80', '\xff'};
    std::string s;
    switch (family) {
      case kTiny:
        for (std::size_t n = below(7); n != 0; --n) s.push_back(alphabet[below(sizeof alphabet)]);
        return s;
      case kBinary:
        return bytes(below(40));
      case kPrefixed:
        return "account/0000/" + key(kTiny) + bytes(below(4));
      case kLong:
        s.assign(below(2) != 0 ? kMaxKey : kMaxKey - below(300), static_cast<char>('a' + below(2)));
        s.back() = static_cast<char>(engine_());
        if (one_in(4)) s[below(s.size())] = static_cast<char>(engine_());
        return s;
      default:
        return key(static_cast<Family>(below(kMixed)));
    }
  }
  std::string value(std::size_t klen) {
    const std::size_t most = kMaxInlineRecord - kRecordHeader - klen;
    if (one_in(8)) return bytes(most - below(std::min<std::size_t>(most, 3)));
    return bytes(below(std::min<std::size_t>(one_in(3) ? 300 : 30, most + 1)));
  }

 private:
  std::mt19937_64 engine_;
};

inline void expect_valid(NodeView node) {
  std::string what;
  EXPECT_TRUE(node.verify(node.store_id(), node.page_id(), what)) << what;
}

inline constexpr std::uint64_t kStore = 0x6b657373;

inline void format_leaf(Node node, std::string_view low = {},
                        std::optional<std::string_view> high = {}, PageId id = PageId{7}) {
  node.format({.store_id = kStore,
               .page = id,
               .tree = TreeId{3},
               .type = PageType::leaf,
               .low = low,
               .high = high});
  node.raise_max_ts(kMaxLsn);
}

inline void format_inner(Node node, std::string_view low = {},
                         std::optional<std::string_view> high = {}, PageId id = PageId{8}) {
  node.format({.store_id = kStore,
               .page = id,
               .tree = TreeId{3},
               .type = PageType::inner,
               .level = 1,
               .low = low,
               .high = high,
               .first_child = PageId{1000}});
}

inline std::string key_of(NodeView node, unsigned slot) {
  std::string s;
  node.copy_key(slot, s);
  return s;
}

}  // namespace kessai::btree::testing
