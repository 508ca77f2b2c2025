// SPDX-License-Identifier: Apache-2.0
// Overflow pages: long values as chains of pages.
//
// Layout after the 64-byte page header (type overflow): 64 u32 next page (0 = last) |
// 68 u32 bytes here | 72 bytes. Written once, in full, before the record that refers to them;
// immutable until freed.
#include <algorithm>
#include <cstring>

#include "btree/page_header.hpp"
#include "btree/race.hpp"
#include "btree/tree.hpp"
#include "io/check.hpp"

namespace kessai::btree {
namespace {
constexpr std::size_t kBytesAt = 72;
constexpr std::size_t kPerPage = kPageSize - kBytesAt;
}  // namespace

std::size_t Tree::overflow_pages(std::size_t bytes) noexcept {
  return std::max<std::size_t>(1, (bytes + kPerPage - 1) / kPerPage);
}

Result<void> Tree::prepare_overflow(std::string_view value, OverflowPages& out) {
  Pool& pool = store_->pool();
  const std::size_t count = overflow_pages(value.size());
  if (count > pool.frames() / 4) {
    return fail(Code::transaction_too_large,
                "a value of " + std::to_string(value.size()) +
                    " bytes needs more than a quarter of the page cache; raise Options::memory");
  }
  const auto undo_all = [&](const Error& e) {
    discard_overflow(out);
    return std::unexpected(e);
  };
  for (std::size_t i = 0; i < count; ++i) {
    auto frame = pool.take_frame();
    if (!frame) return undo_all(frame.error());
    auto id = store_->allocate();
    if (!id) {
      pool.return_frame(*frame);
      return undo_all(id.error());
    }
    Pool::Exclusive x = pool.adopt(*id, *frame);
    out.pages.push_back(*id);
    out.pins.push_back(pool.pin(x));
  }
  alignas(8) std::byte image[kPageSize];
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view part = value.substr(std::min(value.size(), i * kPerPage), kPerPage);
    std::memset(image, 0, sizeof image);
    PageHeader h;
    h.store = store_->id().lo;
    h.page = raw(out.pages[i]);
    h.type = PageType::overflow;
    h.tree = raw(id_);
    write_header(image, h);
    const auto next = static_cast<std::uint32_t>(i + 1 < count ? raw(out.pages[i + 1]) : 0);
    const auto bytes = static_cast<std::uint32_t>(part.size());
    std::memcpy(image + 64, &next, 4);
    std::memcpy(image + 68, &bytes, 4);
    std::memcpy(image + kBytesAt, part.data(), part.size());
    Pool::Exclusive x;
    KESSAI_CHECK(pool.latch(out.pages[i], x));
    race::copy_in(x.data(), image, kPageSize);
  }
  out.ref = {static_cast<std::uint32_t>(value.size()),
             static_cast<std::uint32_t>(raw(out.pages.front()))};
  return {};
}

void Tree::discard_overflow(OverflowPages& pages) {
  Pool& pool = store_->pool();
  for (std::size_t i = 0; i < pages.pages.size(); ++i) {
    if (i < pages.pins.size()) pages.pins[i].release();
    Pool::Exclusive x;
    // Clean, unmapped and unreferenced: it may have been evicted the moment the pin went.
    if (pool.latch(pages.pages[i], x)) pool.discard(std::move(x));
    store_->unallocate(pages.pages[i]);
  }
  pages = {};
}

void Tree::publish_overflow(OverflowPages& pages, Shadows& shadows, Lsn lsn) {
  for (const PageId p : pages.pages) {
    Pool::Exclusive x;
    KESSAI_CHECK(store_->pool().latch(p, x) && store_->touch(x, shadows));
    race::store<std::uint64_t>(x.data() + 16, lsn);
  }
  pages = {};  // reachable now, and dirty: no pins needed
}

Result<bool> Tree::read_overflow(OverflowRef ref, std::string& out) {
  if (ref.length / kPerPage >= store_->next_page())
    return false;  // believe no length the store cannot hold
  out.resize(ref.length);
  std::size_t at = 0;
  PageId page{ref.first_page};
  while (at < ref.length || at == 0) {
    if (page == kNoPage) return false;
    auto g = store_->pool().read(page);
    if (!g) {
      if (g.error() == Code::not_found) return false;
      return std::unexpected(g.error());
    }
    const std::byte* p = g->data();
    const auto next = race::load<std::uint32_t>(p + 64);
    const std::size_t bytes = race::load<std::uint32_t>(p + 68);
    const PageType type = NodeView(p).type();
    if (!g->valid()) continue;  // evicted, and the frame reused: believe nothing of it
    if (type != PageType::overflow || bytes > kPerPage || bytes > ref.length - at) return false;
    race::copy_out(out.data() + at, p + kBytesAt, bytes);
    if (!g->valid()) continue;  // busy being captured or published: read it again
    at += bytes;
    page = PageId{next};
    if (ref.length == 0 || bytes == 0) break;
  }
  return at == ref.length;
}

}  // namespace kessai::btree
