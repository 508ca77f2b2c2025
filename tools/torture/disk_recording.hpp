// SPDX-License-Identifier: Apache-2.0
// What a disk was told, in order, and what it would hold if the power had failed in between.
//
// A recording is a list of events: writes with their bytes, and flushes. A flush covers the writes
// recorded before it. A power cut at event n means that events [0, n) had happened: everything up
// to the last flush among them is on the medium; of the writes after it (the window) a subset is,
// drawn from the seed in one of the ways of CutKind, in units of a whole write, 4 KiB or 512 bytes.
// Blocks that two writes of a window overwrite keep the later one that survives.
//
// The recording lies in memory that is shared with processes forked later. Threads: one writer; who
// reads looks at events below count() only.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace kessai::torture {

struct DiskEvent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;  ///< 0: a flush
  std::uint64_t data = 0;   ///< where the recording keeps the bytes
  [[nodiscard]] bool is_flush() const noexcept { return bytes == 0; }
};

class DiskRecording {
 public:
  /// Room for so many events and bytes; memory is used as it is filled.
  DiskRecording(std::uint64_t most_events, std::uint64_t most_bytes);
  ~DiskRecording();
  DiskRecording(const DiskRecording&) = delete;
  DiskRecording& operator=(const DiskRecording&) = delete;

  /// Empties it. `base`: what the medium held before.
  void begin();
  /// False: no room; from now on nothing is recorded until begin().
  bool write(std::uint64_t offset, std::span<const std::byte> bytes);
  bool flush();

  [[nodiscard]] std::uint64_t count() const noexcept { return head_->count; }
  [[nodiscard]] std::uint64_t data_bytes() const noexcept { return head_->used; }
  [[nodiscard]] bool full() const noexcept { return head_->full; }
  [[nodiscard]] const DiskEvent& event(std::uint64_t n) const noexcept { return events_[n]; }
  [[nodiscard]] std::span<const std::byte> data(const DiskEvent& e) const noexcept {
    return {arena_ + e.data, e.bytes};
  }
  /// Events [0, n) of which the last is a flush: certainly on the medium at a cut at `at`.
  [[nodiscard]] std::uint64_t durable_at(std::uint64_t at) const noexcept;
  /// Applies events [from, to) to `image`, whole.
  void apply(std::uint64_t from, std::uint64_t to, std::span<std::byte> image) const;

 private:
  struct Head {
    std::atomic<std::uint64_t> count{0}, used{0};
    std::atomic<bool> full{false};
  };
  bool add(const DiskEvent& e);

  std::uint64_t most_events_, most_bytes_;
  Head* head_;
  DiskEvent* events_;
  std::byte* arena_;
};

/// Which writes of the window survive.
enum class CutKind : std::uint8_t {
  none,
  all,
  prefix,       ///< those before a random one
  all_but_one,  ///< all but a random one
  one_only,     ///< a random one
  some,         ///< each by itself
  random_4096,  ///< each block of 4 KiB of each write by itself
  random_512,   ///< each sector by itself
  torn_last,    ///< all, but the last one stops at a random sector
};
inline constexpr std::array kCutKinds{
    CutKind::none,        CutKind::all,        CutKind::prefix,
    CutKind::all_but_one, CutKind::one_only,   CutKind::some,
    CutKind::random_4096, CutKind::random_512, CutKind::torn_last};
[[nodiscard]] std::string_view cut_kind_name(CutKind kind) noexcept;

struct PowerCut {
  std::uint64_t at = 0;  ///< events [0, at) had happened
  CutKind kind = CutKind::none;
  std::uint64_t seed = 1;  ///< of the subset
  [[nodiscard]] std::string text() const;
};

/// A random cut of a recording: half of them just before a flush (the largest window) or just after
/// one. REQUIRES count() > 0.
[[nodiscard]] PowerCut drawn_cut(const DiskRecording& recording, std::uint64_t seed);
/// Bytes of the medium that no cut tears: a file system's superblock, when it counts on that.
struct Atom {
  std::uint64_t offset = 0, bytes = 0;
};
/// Puts what survives of the window of `cut` into `image`, which holds the medium as of
/// durable_at(cut.at). Returns how many bytes survived.
std::uint64_t lay_over(const DiskRecording& recording, const PowerCut& cut,
                       std::span<std::byte> image, Atom atom = {});

}  // namespace kessai::torture
