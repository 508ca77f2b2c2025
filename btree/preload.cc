// SPDX-License-Identifier: Apache-2.0
// Reading many pages in the order of the file: recovery does.
#include <algorithm>
#include <cstring>

#include "btree/page_store.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {

constexpr Slot kRunSlots = 64;  // of one read
constexpr Slot kHole = 8;       // slots that are read for nothing rather than begin another read
constexpr unsigned kRuns = 16;  // reads in flight
constexpr std::size_t kRunBytes = kRunSlots * kPageSize;

}  // namespace

void PageStore::order_by_slot(std::vector<PageId>& pages) const {
  std::vector<std::pair<Slot, PageId>> by_slot;
  by_slot.reserve(pages.size());
  {
    io::MutexLock lock(map_mutex_);
    for (const PageId p : pages) by_slot.emplace_back(map_.live(p).slot, p);
  }
  std::ranges::sort(by_slot);
  pages.clear();
  for (const auto& [slot, page] : by_slot)
    if (slot != 0) pages.push_back(page);
}

void PageStore::read_runs(std::span<const PageId> pages, Arrivals& to) {
  struct Wanted {
    std::size_t index = 0;
    MapEntry entry;
    std::byte* into = nullptr;
  };
  struct Run {
    std::vector<Wanted> pages;
    Slot first = 0, end = 0;
    io::AlignedBuffer stage;  // a page alone is read where it belongs
  };
  auto queue = take_queue();
  if (!queue) return;
  io::Queue& q = **queue;
  Run runs[kRuns];
  std::vector<unsigned> idle;
  for (unsigned i = kRuns; i-- > 0;) idle.push_back(i);
  std::vector<io::Queue::Completion> done;
  for (std::size_t next = 0; next < pages.size() || idle.size() < kRuns;) {
    while (!idle.empty() && next < pages.size()) {
      Run& run = runs[idle.back()];
      run.pages.clear();
      for (; next < pages.size(); ++next) {
        const Slot slot = live_entry(pages[next]).slot;
        const bool joins = run.pages.empty() || (slot >= run.end && slot - run.end < kHole &&
                                                 slot - run.first < kRunSlots);
        if (slot != 0 && !joins) break;
        std::byte* into = slot != 0 ? to.begin(next) : nullptr;
        if (into == nullptr) continue;
        const MapEntry entry = live_entry(pages[next]);
        if (entry.slot != slot) {  // changed and written before it was ours
          to.end(next, false);
          continue;
        }
        if (run.pages.empty()) run.first = slot;
        run.end = slot + 1;
        run.pages.push_back({next, entry, into});
      }
      if (run.pages.empty()) continue;
      std::byte* at = run.pages.front().into;
      if (run.pages.size() > 1) {
        if (run.stage.size() == 0) run.stage = io::AlignedBuffer(kRunBytes);
        at = run.stage.data();
      }
      q.read(*file_, slot_offset(run.first), {at, (run.end - run.first) * kPageSize}, idle.back());
      idle.pop_back();
    }
    if (idle.size() == kRuns) continue;
    done.clear();
    q.reap(done, 1);
    for (const auto& c : done) {
      const Run& run = runs[c.tag];
      const bool alone = run.pages.size() == 1;
      for (const Wanted& w : run.pages) {
        const std::byte* page =
            alone ? w.into : run.stage.data() + (w.entry.slot - run.first) * kPageSize;
        const bool ok = c.result && (KESSAI_MUTANT(preload_not_verified) ||
                                     verify_image(pages[w.index], w.entry, page));
        if (ok && !alone) std::memcpy(w.into, page, kPageSize);
        to.end(w.index, ok);
      }
      idle.push_back(static_cast<unsigned>(c.tag));
    }
  }
  return_queue(std::move(*queue));
}

}  // namespace kessai::btree
