// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/kill_board.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "io/check.hpp"

namespace kessai::torture {
namespace {

// On overflow pages. All rows of as many groups as a step may have: less than a quarter of the
// smallest log limit and of the smallest cache, which is what a transaction may write.
constexpr std::size_t kLongRow = 40'000;
constexpr std::size_t kHead = sizeof(std::uint64_t) + sizeof(std::uint32_t);

// A draw that depends on nothing but its arguments.
std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9e3779b97f4a7c15 + b;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::string value_of(std::uint64_t draw, GroupState state, bool is_long) {
  const std::size_t filler = (draw >> 8) % (is_long ? kLongRow : 200);
  std::string out(kHead, '\0');
  std::memcpy(out.data(), &state.number, sizeof state.number);
  std::memcpy(out.data() + sizeof state.number, &state.life, sizeof state.life);
  for (std::uint64_t word = draw; out.size() < kHead + filler; word = mixed(word, 1)) {
    char bytes[sizeof word];
    std::memcpy(bytes, &word, sizeof word);
    out.append(bytes, std::min(sizeof word, kHead + filler - out.size()));
  }
  return out;
}

}  // namespace

std::map<unsigned, std::string> rows_of(unsigned group, GroupState state) {
  std::map<unsigned, std::string> out;
  if (state.number == 0) return out;
  const std::uint64_t of_group = mixed(mixed(state.number, state.life), group);
  const bool all_long = of_group % 32 == 0;  // more than one record of the log holds
  for (unsigned row = 0; row < kRowsOfGroup; ++row) {
    const std::uint64_t draw = mixed(of_group, row);
    const bool is_long = all_long || draw % 64 == 0;
    if (row == 0 || draw >> 62 != 0) out.emplace(row, value_of(draw, state, is_long));
  }
  return out;
}

std::optional<GroupState> state_in(std::string_view value) {
  if (value.size() < kHead) return std::nullopt;
  GroupState out;
  std::memcpy(&out.number, value.data(), sizeof out.number);
  std::memcpy(&out.life, value.data() + sizeof out.number, sizeof out.life);
  return out;
}

std::string group_row_key(unsigned group, unsigned row) {
  char text[32];
  std::snprintf(text, sizeof text, "group %02u row %u", group, row);
  return text;
}

void KillBoard::complain(std::string_view kind, std::string_view text) {
  const std::uint32_t at = complaints_begun.fetch_add(1);
  if (at >= std::size(complaint)) return;
  Complaint& c = complaint[at];
  std::snprintf(c.kind, sizeof c.kind, "%.*s", static_cast<int>(kind.size()), kind.data());
  std::snprintf(c.text, sizeof c.text, "%.*s", static_cast<int>(text.size()), text.data());
  ++complaints;  // now: the parent kills the process when it sees it
}

void KillBoard::forget() {
  Bank& b = bank();
  b.life = 0;
  b.begun_at = 0;
  std::ranges::fill(b.base, GroupState{});
  for (auto& lane : b.lanes) lane.used = 0;
}

void KillBoard::become_cut_of(const KillBoard& recorded, std::uint64_t at) {
  for (auto* count : {&commits, &acked, &limit_hits, &zombie_opens, &lost, &half_applied})
    *count = 0;
  for (auto* count : {&current, &stage, &stop, &limited, &complaints_begun, &complaints})
    *count = 0;
  for (Complaint& c : complaint) c.kind[0] = '\0';
  // A cut before the recorded life had read the store and begun its journal: the one before holds.
  const std::uint32_t newest = recorded.current;
  const Bank& from =
      recorded.banks[newest].begun_at <= at ? recorded.banks[newest] : recorded.banks[1 - newest];
  Bank& to = banks[0];
  to.life = from.life;
  to.begun_at = 0;
  std::ranges::copy(from.base, to.base);
  for (unsigned i = 0; i < kMostKillThreads; ++i) {
    std::uint32_t used = 0;
    const std::uint32_t all = from.lanes[i].used;
    for (; used < all && from.lanes[i].steps[used].intended_at <= at; ++used) {
      const Step& was = from.lanes[i].steps[used];
      Step& is = to.lanes[i].steps[used];
      is.intended_at = is.answered_at = is.promised_at = 0;
      is.lsn = was.answered_at <= at ? was.lsn.load() : 0;
      is.promised = was.promised && was.promised_at <= at;
      is.groups = was.groups;
      std::ranges::copy(was.group, is.group);
      std::ranges::copy(was.number, is.number);
    }
    to.lanes[i].used = used;
  }
}

SharedKillBoard::SharedKillBoard() {
  void* at = mmap(nullptr, sizeof(KillBoard), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  KESSAI_CHECK(at != MAP_FAILED);
  board_ = new (at) KillBoard;
}
SharedKillBoard::~SharedKillBoard() { munmap(board_, sizeof(KillBoard)); }

}  // namespace kessai::torture
