// SPDX-License-Identifier: Apache-2.0
#include "io/memory.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "io/check.hpp"

namespace kessai::io {
namespace {
constexpr std::size_t kAlign = 4096;
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }
}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  data_ = static_cast<std::byte*>(std::aligned_alloc(kAlign, round_up(bytes, kAlign)));
  KESSAI_CHECK(data_ != nullptr);
  std::memset(data_, 0, bytes);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

AlignedBuffer::AlignedBuffer(AlignedBuffer&& o) noexcept
    : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

Result<Region> Region::map(std::size_t bytes, bool huge) {
  const std::size_t align = huge ? kHuge : kAlign;
  if (bytes == 0 || bytes > SIZE_MAX - 2 * align) {
    return fail(Code::invalid_argument, "impossible size of a memory region");
  }
  const std::size_t size = round_up(bytes, align);
  const std::size_t slack = huge ? kHuge : 0;
  void* p = ::mmap(nullptr, size + slack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    return fail(Code::out_of_memory,
                ErrorDetail{.what = "cannot map " + std::to_string(size) + " bytes of memory"},
                errno);
  }
  auto* base = static_cast<std::byte*>(p);
  if (huge) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(base) % kHuge;
    const std::size_t head = misaligned == 0 ? 0 : kHuge - misaligned;
    if (head != 0) ::munmap(base, head);
    base += head;
    if (slack != head) ::munmap(base + size, slack - head);
    ::madvise(base, size, MADV_HUGEPAGE);  // advice: small pages work as well
  }
  ::madvise(base, size, MADV_DONTDUMP);
  Region r;
  r.data_ = base;
  r.size_ = size;
  return r;
}

Region::~Region() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Region::Region(Region&& o) noexcept
    : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}

Region& Region::operator=(Region&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

}  // namespace kessai::io
