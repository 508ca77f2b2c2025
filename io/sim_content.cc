// SPDX-License-Identifier: Apache-2.0
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/sim_private.hpp"

namespace kessai::io {

const SimContent::Page* SimContent::find(std::uint64_t page) const {
  const std::uint64_t c = page / kFan;
  if (c >= chunks_.size() || !chunks_[c]) return nullptr;
  return (*chunks_[c])[page % kFan].get();
}

SimContent::Page& SimContent::own(std::uint64_t page) {
  const std::uint64_t c = page / kFan;
  if (c >= chunks_.size()) chunks_.resize(c + 1);
  auto& chunk = chunks_[c];
  if (!chunk) chunk = std::make_shared<Chunk>();
  if (chunk.use_count() > 1) chunk = std::make_shared<Chunk>(*chunk);
  auto& p = (*chunk)[page % kFan];
  if (!p) p = std::make_shared<Page>();
  if (p.use_count() > 1) p = std::make_shared<Page>(*p);
  p->hash.store(0, std::memory_order_relaxed);
  return *p;
}

void SimContent::read(std::uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const std::size_t in_page = offset % kPage;
    const std::size_t n = std::min(into.size(), kPage - in_page);
    if (const Page* p = find(offset / kPage)) {
      std::memcpy(into.data(), p->bytes.data() + in_page, n);
    } else {
      std::memset(into.data(), 0, n);
    }
    offset += n;
    into = into.subspan(n);
  }
}

void SimContent::write(std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const std::size_t in_page = offset % kPage;
    const std::size_t n = std::min(from.size(), kPage - in_page);
    std::memcpy(own(offset / kPage).bytes.data() + in_page, from.data(), n);
    offset += n;
    from = from.subspan(n);
  }
}

void SimContent::zero(std::uint64_t offset, std::uint64_t bytes) {
  while (bytes > 0) {
    const std::size_t in_page = offset % kPage;
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kPage - in_page));
    if (find(offset / kPage) != nullptr)
      std::memset(own(offset / kPage).bytes.data() + in_page, 0, n);
    offset += n;
    bytes -= n;
  }
}

void SimContent::truncate(std::uint64_t size) {
  static constexpr std::uint64_t kChunkBytes = kPage * kFan;
  const std::uint64_t keep = (size + kChunkBytes - 1) / kChunkBytes;
  if (chunks_.size() > keep) chunks_.resize(keep);
  if (const std::uint64_t end = chunks_.size() * kChunkBytes; end > size) zero(size, end - size);
}

std::vector<std::uint64_t> SimContent::differing(const SimContent& o, std::uint64_t size) const {
  static constexpr std::array<std::byte, kPage> kZero{};
  std::vector<std::uint64_t> out;
  for (std::uint64_t page = 0; page * kPage < size; ++page) {
    const Page *a = find(page), *b = o.find(page);
    if (a != b && (a != nullptr ? a->bytes : kZero) != (b != nullptr ? b->bytes : kZero))
      out.push_back(page * kPage);
  }
  return out;
}

void SimContent::mix_hash(std::uint64_t& hash) const {
  static const std::uint64_t kZeroHash = [] {
    const std::array<std::byte, kPage> zero{};
    return XXH3_64bits(zero.data(), zero.size());
  }();
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    for (std::size_t i = 0; chunks_[c] && i < kFan; ++i) {
      const Page* p = (*chunks_[c])[i].get();
      if (p == nullptr) continue;
      std::uint64_t h = p->hash.load(std::memory_order_relaxed);
      if (h == 0) {
        h = XXH3_64bits(p->bytes.data(), kPage);
        p->hash.store(h, std::memory_order_relaxed);
      }
      if (h == kZeroHash) continue;  // a page of zeros and a page never written are one image
      const std::uint64_t words[] = {hash, c * kFan + i, h};
      hash = XXH3_64bits(words, sizeof words);
    }
  }
}

}  // namespace kessai::io
