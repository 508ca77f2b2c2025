// SPDX-License-Identifier: Apache-2.0
#include "btree/roots.hpp"

#include <algorithm>
#include <cstring>

#include "btree/page_header.hpp"
#include "btree/race.hpp"
#include "io/check.hpp"

namespace kessai::btree {
namespace {

constexpr std::size_t kEntryBytes = 16;
constexpr std::size_t kEntriesAt = 72;
constexpr std::size_t kPerPage = (kPageSize - kEntriesAt) / kEntryBytes;
/// Others may add between somebody's make_room() and add(): room for all threads at once.
constexpr std::size_t kSlack = 128;

bool same(const Roots::Entry& a, const Roots::Entry& b) {
  return a.kind == b.kind && a.tree == b.tree && a.page == b.page;
}

}  // namespace

void Roots::store_page(std::size_t index, Shadows& shadows) {
  const Page& p = pages_[index];
  alignas(8) std::byte image[kPageSize] = {};
  Pool::Exclusive x;
  KESSAI_CHECK(store_->pool().latch(p.id, x));  // pinned: always resident
  PageHeader h;
  h.store = store_->id().lo;
  h.page = raw(p.id);
  h.type = PageType::roots;
  write_header(image, h);
  const auto next =
      static_cast<std::uint32_t>(index + 1 < pages_.size() ? raw(pages_[index + 1].id) : 0);
  const auto n = static_cast<std::uint32_t>(p.entries.size());
  std::memcpy(image + 64, &next, 4);
  std::memcpy(image + 68, &n, 4);
  for (std::size_t i = 0; i < n; ++i) {
    const Entry& e = p.entries[i];
    const std::uint32_t words[4] = {static_cast<std::uint32_t>(e.kind), raw(e.tree),
                                    static_cast<std::uint32_t>(raw(e.page)), 0};
    std::memcpy(image + kEntriesAt + i * kEntryBytes, words, sizeof words);
  }
  KESSAI_CHECK(store_->touch(x, shadows));
  race::copy_in(x.data(), image, kPageSize);
}

Result<void> Roots::create(Shadows& shadows) {
  KESSAI_ASSIGN(id, store_->allocate());
  KESSAI_CHECK(id == kRootsPage);
  KESSAI_ASSIGN(frame, store_->pool().take_frame());
  io::MutexLock lock(mutex_);
  Page p;
  p.id = id;
  {
    Pool::Exclusive x = store_->pool().adopt(id, frame);
    p.pin = store_->pool().pin(x);
  }
  pages_.push_back(std::move(p));
  store_page(0, shadows);
  return {};
}

Result<void> Roots::load() {
  io::MutexLock lock(mutex_);
  pages_.clear();
  for (PageId id = kRootsPage; id != kNoPage;) {
    const auto bad = [&](const char* what) {
      ErrorDetail d;
      d.path = store_->path();
      d.page = raw(id);
      d.what = what;
      return std::unexpected(Error(Code::damaged, std::move(d)));
    };
    auto g = store_->pool().read(id);
    if (!g && g.error() == Code::not_found)
      return bad("the roots page is missing from the page map");
    if (!g) return std::unexpected(g.error());
    Page p;
    p.id = id;
    if (!store_->pool().pin(*g, p.pin)) continue;
    const std::byte* data = g->data();
    if (read_header(data).type != PageType::roots || pages_.size() > store_->next_page())
      return bad("this is no roots page");
    std::uint32_t next = 0, n = 0;
    std::memcpy(&next, data + 64, 4);
    std::memcpy(&n, data + 68, 4);
    if (n > kPerPage) return bad("the roots page has an impossible entry count");
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t words[4];
      std::memcpy(words, data + kEntriesAt + i * kEntryBytes, sizeof words);
      p.entries.push_back({Kind{words[0]}, TreeId{words[1]}, PageId{words[2]}});
    }
    pages_.push_back(std::move(p));
    id = PageId{next};
  }
  return {};
}

std::optional<PageId> Roots::root_of(TreeId tree) const {
  io::MutexLock lock(mutex_);
  for (const Page& p : pages_) {
    for (const Entry& e : p.entries) {
      if (e.kind == Kind::tree && e.tree == tree) return e.page;
    }
  }
  return std::nullopt;
}

std::vector<Roots::Entry> Roots::entries() const {
  io::MutexLock lock(mutex_);
  std::vector<Entry> out;
  for (const Page& p : pages_) out.insert(out.end(), p.entries.begin(), p.entries.end());
  return out;
}

std::optional<Roots::Entry> Roots::next_pending() const {
  io::MutexLock lock(mutex_);
  std::optional<Entry> dropping;
  for (const Page& p : pages_) {
    for (const Entry& e : p.entries) {
      if (e.kind == Kind::overflow) return e;
      if (e.kind == Kind::dropping) dropping = e;
    }
  }
  return dropping;
}

std::vector<PageId> Roots::pages() const {
  io::MutexLock lock(mutex_);
  std::vector<PageId> out;
  out.reserve(pages_.size());
  for (const Page& p : pages_) out.push_back(p.id);
  return out;
}

std::size_t Roots::room() const {
  io::MutexLock lock(mutex_);
  std::size_t n = 0;
  for (const Page& p : pages_) n += kPerPage - p.entries.size();
  return n;
}

Result<void> Roots::make_room(std::size_t n, Shadows& shadows) {
  while (room() < n + kSlack) {
    KESSAI_ASSIGN(frame, store_->pool().take_frame());
    KESSAI_TRY(shadows.top_up(4));
    Gate::Pass gate(store_->gate());
    if (!store_->enough(shadows, 2)) {
      store_->pool().return_frame(frame);
      continue;
    }
    auto id = store_->allocate();
    if (!id) {
      store_->pool().return_frame(frame);
      return std::unexpected(id.error());
    }
    io::MutexLock lock(mutex_);
    Page p;
    p.id = *id;
    {
      Pool::Exclusive x = store_->pool().adopt(*id, frame);
      p.pin = store_->pool().pin(x);
    }
    pages_.push_back(std::move(p));
    store_page(pages_.size() - 1, shadows);
    store_page(pages_.size() - 2, shadows);
  }
  return {};
}

void Roots::add(const Entry& e, Shadows& shadows) {
  io::MutexLock lock(mutex_);
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    if (pages_[i].entries.size() < kPerPage) {
      pages_[i].entries.push_back(e);
      return store_page(i, shadows);
    }
  }
  KESSAI_CHECK(!"make_room() was not called");
}

void Roots::replace(const Entry& from, const Entry& to, Shadows& shadows) {
  io::MutexLock lock(mutex_);
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    for (Entry& e : pages_[i].entries) {
      if (same(e, from)) {
        e = to;
        return store_page(i, shadows);
      }
    }
  }
  KESSAI_CHECK(!"the entry to replace is not there");
}

void Roots::remove(const Entry& e, Shadows& shadows) {
  io::MutexLock lock(mutex_);
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    auto& entries = pages_[i].entries;
    const auto it =
        std::find_if(entries.begin(), entries.end(), [&](const Entry& x) { return same(x, e); });
    if (it != entries.end()) {
      *it = entries.back();
      entries.pop_back();
      return store_page(i, shadows);
    }
  }
  KESSAI_CHECK(!"the entry to remove is not there");
}

}  // namespace kessai::btree
