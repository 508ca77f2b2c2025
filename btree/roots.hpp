// SPDX-License-Identifier: Apache-2.0
// The roots page (page 1): which trees the image holds and where their roots are, and what still
// has to be freed. It is part of the image, so it is consistent with every checkpoint's cut; the
// log never mentions a root (I2, I16).
//
// Layout after the 64-byte page header (type roots, chained by page id):
//   64 u32 next page (0 = last) | 68 u32 entries | 72 entries, 16 bytes each:
//     u32 kind (1 tree, 2 dropping tree, 3 overflow chain to free) | u32 tree id | u32 page | u32 0
//
// A pending entry (kind 2 or 3) is shortened in the same gated step that frees pages, so freeing
// resumes after a crash and no page of an image is unreachable.
//
// Threads: thread-safe; changes happen inside the gate under the page's latch, taken last. mutex_
// guards the in-memory copy and is taken under latches.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "btree/page_store.hpp"

namespace kessai::btree {

inline constexpr PageId kRootsPage{1};

class Roots {
 public:
  enum class Kind : std::uint32_t { tree = 1, dropping = 2, overflow = 3 };
  struct Entry {
    Kind kind{};
    TreeId tree{};
    PageId page{};
  };

  explicit Roots(PageStore& store) noexcept : store_(&store) {}
  /// Formats the page of a new store.
  [[nodiscard]] Result<void> create(Shadows& shadows);
  /// Reads the page (and pins it for good).
  [[nodiscard]] Result<void> load();

  [[nodiscard]] std::optional<PageId> root_of(TreeId tree) const;
  [[nodiscard]] std::vector<Entry> entries() const;
  /// What to free next: an overflow chain if there is one, else a dropping tree.
  [[nodiscard]] std::optional<Entry> next_pending() const;
  [[nodiscard]] std::vector<PageId> pages() const;

  /// Free entries; callers keep enough in reserve before they enter the gate (make_room()).
  [[nodiscard]] std::size_t room() const;
  /// Adds a page to the chain when fewer than `n` entries are free. Outside the gate, no latch.
  [[nodiscard]] Result<void> make_room(std::size_t n, Shadows& shadows);

  // Inside the gate, shadows at hand; each touches one roots page.
  void add(const Entry& e, Shadows& shadows);
  void replace(const Entry& from, const Entry& to, Shadows& shadows);
  void remove(const Entry& e, Shadows& shadows);

 private:
  struct Page {
    PageId id{};
    Pool::Pin pin;
    std::vector<Entry> entries;
  };
  void store_page(std::size_t index, Shadows& shadows) KESSAI_REQUIRES(mutex_);

  PageStore* store_;
  mutable io::Mutex mutex_;
  std::vector<Page> pages_ KESSAI_GUARDED_BY(mutex_);
};

}  // namespace kessai::btree
