// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/disk_recording.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "io/check.hpp"
#include "io/env.hpp"

namespace kessai::torture {
namespace {

constexpr std::size_t kHeadBytes = 4096;
constexpr std::uint64_t kSector = 512;

std::size_t bytes_of(std::uint64_t events, std::uint64_t bytes) {
  return kHeadBytes + events * sizeof(DiskEvent) + bytes;
}

void copy(std::span<const std::byte> from, std::uint64_t offset, std::span<std::byte> image) {
  KESSAI_CHECK(offset <= image.size() && from.size() <= image.size() - offset);
  std::memcpy(image.data() + offset, from.data(), from.size());
}

}  // namespace

DiskRecording::DiskRecording(std::uint64_t most_events, std::uint64_t most_bytes)
    : most_events_(most_events), most_bytes_(most_bytes) {
  void* at = mmap(nullptr, bytes_of(most_events, most_bytes), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  KESSAI_CHECK(at != MAP_FAILED);
  head_ = new (at) Head;
  events_ = reinterpret_cast<DiskEvent*>(static_cast<std::byte*>(at) + kHeadBytes);
  arena_ = reinterpret_cast<std::byte*>(events_ + most_events);
}

DiskRecording::~DiskRecording() { munmap(head_, bytes_of(most_events_, most_bytes_)); }

void DiskRecording::begin() {
  head_->count = 0;
  head_->used = 0;
  head_->full = false;
}

bool DiskRecording::add(const DiskEvent& e) {
  const std::uint64_t n = head_->count;
  if (head_->full || n == most_events_) {
    head_->full = true;
    return false;
  }
  events_[n] = e;
  head_->count = n + 1;
  return true;
}

bool DiskRecording::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  const std::uint64_t used = head_->used;
  if (bytes.empty()) return true;
  if (bytes.size() > most_bytes_ - used) head_->full = true;
  if (!head_->full) std::memcpy(arena_ + used, bytes.data(), bytes.size());
  if (!add({.offset = offset, .bytes = bytes.size(), .data = used})) return false;
  head_->used = used + bytes.size();
  return true;
}

bool DiskRecording::flush() { return add({}); }

std::uint64_t DiskRecording::durable_at(std::uint64_t at) const noexcept {
  while (at > 0 && !events_[at - 1].is_flush()) --at;
  return at;
}

void DiskRecording::apply(std::uint64_t from, std::uint64_t to, std::span<std::byte> image) const {
  for (std::uint64_t n = from; n < to; ++n)
    if (!events_[n].is_flush()) copy(data(events_[n]), events_[n].offset, image);
}

std::string_view cut_kind_name(CutKind kind) noexcept {
  static constexpr std::array<std::string_view, kCutKinds.size()> kNames{
      "none", "all",         "prefix",      "all but one", "one only",
      "some", "4 KiB units", "512 B units", "torn last"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string PowerCut::text() const {
  return "power cut before event " + std::to_string(at) +
         " of the disk, survivors after the last " + "flush: " + std::string(cut_kind_name(kind)) +
         " (seed " + std::to_string(seed) + ")";
}

PowerCut drawn_cut(const DiskRecording& recording, std::uint64_t seed) {
  io::SeededRandom random(seed);
  PowerCut cut;
  cut.at = 1 + random.below(recording.count());
  const std::uint64_t where = random.below(8);
  if (where == 0) cut.at = std::max<std::uint64_t>(1, recording.durable_at(cut.at));
  if (where >= 4) {
    while (cut.at < recording.count() && !recording.event(cut.at).is_flush()) ++cut.at;
  }
  cut.kind = kCutKinds[random.below(kCutKinds.size())];
  cut.seed = random.next();
  return cut;
}

std::uint64_t lay_over(const DiskRecording& recording, const PowerCut& cut,
                       std::span<std::byte> image, Atom atom) {
  io::SeededRandom random(cut.seed);
  const std::uint64_t from = recording.durable_at(cut.at), n = cut.at - from;
  if (n == 0) return 0;
  const std::uint64_t chosen = random.below(n);
  std::uint64_t survived = 0;
  const auto keep = [&](const DiskEvent& e, std::uint64_t begin, std::uint64_t end) {
    end = std::min(end, e.bytes);
    if (begin >= end) return;
    copy(recording.data(e).subspan(begin, end - begin), e.offset + begin, image);
    survived += end - begin;
  };
  const auto keep_units = [&](const DiskEvent& e, std::uint64_t unit, const auto& survives) {
    const std::uint64_t atom_begin = atom.offset - std::min(atom.offset, e.offset);
    const std::uint64_t atom_end =
        atom.offset + atom.bytes - std::min(atom.offset + atom.bytes, e.offset);
    bool in_atom = false, kept = false;
    for (std::uint64_t at = 0; at < e.bytes; at += unit) {
      const bool touches = at < atom_end && at + unit > atom_begin;
      if (!touches || !in_atom) kept = survives(at);
      in_atom = touches;
      if (kept) keep(e, at, at + unit);
    }
  };
  const auto any = [&](std::uint64_t) { return random.below(2) == 0; };
  for (std::uint64_t i = 0; i < n; ++i) {
    const DiskEvent& e = recording.event(from + i);
    bool whole = false;
    switch (cut.kind) {
      case CutKind::none:
        break;
      case CutKind::all:
        whole = true;
        break;
      case CutKind::prefix:
        whole = i < chosen;
        break;
      case CutKind::all_but_one:
        whole = i != chosen;
        break;
      case CutKind::one_only:
        whole = i == chosen;
        break;
      case CutKind::some:
        whole = random.below(2) == 0;
        break;
      case CutKind::random_4096:
        keep_units(e, 4096, any);
        break;
      case CutKind::random_512:
        keep_units(e, kSector, any);
        break;
      case CutKind::torn_last:
        whole = i + 1 < n;
        if (const std::uint64_t end = random.below(e.bytes / kSector + 1) * kSector; !whole)
          keep_units(e, kSector, [end](std::uint64_t at) { return at < end; });
        break;
    }
    if (whole) keep(e, 0, e.bytes);
  }
  return survived;
}

}  // namespace kessai::torture
