// SPDX-License-Identifier: Apache-2.0
// Memory from the operating system: aligned I/O buffers and large lazily backed regions.
#pragma once

#include <cstddef>
#include <span>

#include "kessai/error.hpp"

namespace kessai::io {

/// Zero-initialised, 4096-aligned heap memory for direct I/O. Move-only.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes);  ///< KESSAI_CHECKs that memory was there
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& o) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& o) noexcept;
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<std::byte> span() const noexcept { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A mapped region, zero on first touch, physical memory only where touched. `huge` asks for 2 MiB
/// pages (madvise) and aligns to them. MADV_DONTDUMP: page contents stay out of core files.
/// Move-only.
class Region {
 public:
  Region() = default;
  [[nodiscard]] static Result<Region> map(std::size_t bytes, bool huge);
  ~Region();
  Region(Region&& o) noexcept;
  Region& operator=(Region&& o) noexcept;
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace kessai::io
