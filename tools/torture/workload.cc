// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/workload.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>

#include "io/check.hpp"
#include "io/env.hpp"
#include "io/mutant.hpp"
#include "io/sync.hpp"
#include "tools/torture/lock_watch.hpp"
#include "tools/torture/rows.hpp"
#include "tools/torture/worker.hpp"

namespace kessai::torture {
namespace {

constexpr std::uint32_t kTransactions = 1u << 14;
constexpr std::uint32_t kOps = 1u << 17;
constexpr std::uint32_t kRows = 1u << 17;
constexpr std::uint32_t kElements = 1u << 22;
constexpr std::uint32_t kMarkers = 1u << 17;
constexpr std::uint32_t kComplaints = 8;

constexpr std::size_t rounded(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }
constexpr std::size_t kLaneBytes = rounded(kTransactions * sizeof(Transaction)) +
                                   rounded(kOps * sizeof(Op)) + rounded(kRows * sizeof(Row)) +
                                   rounded(kElements * sizeof(Element));
constexpr std::size_t kLaneCount = kMostIncarnations * (kMostThreads + 1);
constexpr std::size_t kBytes = rounded(sizeof(Board)) + rounded(kMarkers * sizeof(Marker)) +
                               rounded(kComplaints * sizeof(Complaint)) + kLaneCount * kLaneBytes;

template <class T>
void place(Tape<T>& tape, std::byte*& at, std::uint32_t capacity) {
  tape.place(reinterpret_cast<T*>(at), capacity);
  at += rounded(capacity * sizeof(T));
}

}  // namespace

void Board::complain(std::string_view kind, std::string_view text) {
  // Rare, and several threads may: room for all of them is not promised, one at least is kept.
  static io::Mutex mutex;
  const io::MutexLock lock(mutex);
  if (complaints.room() == 0) return;
  Complaint c{};
  std::snprintf(c.kind, sizeof c.kind, "%.*s", static_cast<int>(kind.size()), kind.data());
  std::snprintf(c.text, sizeof c.text, "%.*s", static_cast<int>(text.size()), text.data());
  complaints.push(c);
}

void nap(std::uint64_t ns) { io::pause_for(ns); }

SharedBoard::SharedBoard() {
  void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  KESSAI_CHECK(at != MAP_FAILED);
  memory_ = static_cast<std::byte*>(at);
  board_ = new (memory_) Board;
  clear();
}

SharedBoard::~SharedBoard() { munmap(memory_, kBytes); }

void SharedBoard::clear() {
  board_->answered = 0;
  board_->durable = 0;
  board_->progress = 0;
  board_->working = 0;
  for (auto& done : board_->epochs_done) done = 0;
  for (auto& token : board_->tokens) token[0] = '\0';
  std::byte* at = memory_ + rounded(sizeof(Board));
  place(board_->markers, at, kMarkers);
  place(board_->complaints, at, kComplaints);
  for (unsigned i = 0; i < kLaneCount; ++i) {
    Lane& lane = board_->lanes[i];
    lane.number = static_cast<std::uint8_t>(i);
    lane.incarnation = static_cast<std::uint8_t>(i / (kMostThreads + 1));
    place(lane.transactions, at, kTransactions);
    place(lane.ops, at, kOps);
    place(lane.rows, at, kRows);
    place(lane.elements, at, kElements);
  }
}

Plan Plan::drawn(std::uint64_t seed, std::uint32_t history) {
  io::SeededRandom r(seed * 7919 + history);
  Plan p;
  p.seed = seed;
  p.history = history;
  p.threads = 2 + static_cast<unsigned>(r.below(kMostThreads - 1));
  p.slots = r.below(3) == 0 ? 4 + static_cast<Key>(r.below(3)) : 6 + static_cast<Key>(r.below(12));
  p.per_epoch = 15 + static_cast<unsigned>(r.below(15));
  p.epochs = std::min(200u, std::max(4u, 8000 / (p.threads * p.per_epoch)));
  p.long_rows = r.below(3) == 0;
  p.relaxed_of_16 = r.below(4) == 0 ? 16 : 15;
  p.yields_of_16 = static_cast<unsigned>(r.below(4)) * 4;
  p.memory = std::uint64_t{2 + r.below(6)} << 20;
  p.undo_memory = std::uint64_t{64} << (10 + r.below(6));
  p.wal_limit = std::uint64_t{8 + r.below(24)} << 20;
  return p;
}

std::string Plan::text() const {
  return std::to_string(threads) + " threads, " + std::to_string(epochs) + " epochs of " +
         std::to_string(slots) + " keys and " + std::to_string(per_epoch) +
         " programs a thread, level " + (level ? std::string(level_name(*level)) : "mixed") +
         ", memory " + std::to_string(memory >> 20) + " MiB, undo " +
         std::to_string(undo_memory >> 10) + " KiB, log " + std::to_string(wal_limit >> 20) +
         " MiB" + (markers ? ", killed" : "") + (long_rows ? ", long rows" : "");
}

void collect_markers(Database& db, const Plan& plan, Board& board) {
  auto tree = db.tree(kMarkerTree, {.create = true});
  if (!tree) return board.complain("error", "markers: " + tree.error().message());
  std::string prefix;
  put_big_endian(prefix, plan.history);
  board.markers.clear();
  Cursor c = db.scan(*tree, Range::prefix(prefix));
  while (c.next()) {
    if (board.markers.room() == 0) return board.complain("error", "too many markers");
    board.markers.push(Marker{get_big_endian(c.key(), 4), get_big_endian(c.key(), 8), c.lsn()});
  }
  if (!c.status()) board.complain("error", "markers: " + c.status().error().message());
}

void check_outcomes(Database& db, const Plan& plan, Board& board, unsigned incarnation) {
  collect_markers(db, plan, board);
  std::set<Lsn> survived;
  for (const Marker& m : board.markers.all()) survived.insert(m.lsn);
  for (unsigned before = 0; before < incarnation; ++before) {
    auto token = CommitToken::parse(board.tokens[before]);
    if (!token) continue;  // killed before it had one
    for (unsigned t = 0; t < kMostThreads; ++t) {
      for (const Transaction& txn : board.lane(before, t).transactions.all()) {
        if (txn.commit == 0) continue;
        token->lsn = txn.commit;
        auto outcome = db.outcome(*token);
        const bool there = survived.contains(txn.commit);
        if (outcome && (*outcome == Outcome::committed) == there) continue;
        board.complain("wrong-outcome",
                       "of " + token->text() + ": " +
                           (outcome ? *outcome == Outcome::committed ? "committed" : "not committed"
                                    : outcome.error().message()) +
                           ", but its row is " + (there ? "there" : "not there"));
      }
    }
  }
}

namespace {

// One commit outside of the history, whose token names the generation of this open.
void keep_token(Database& db, const Tree& tree, Board& board, unsigned incarnation) {
  constexpr std::uint32_t kNoHistory = 0;
  auto lsn = db.put(tree, row_key(kNoHistory, incarnation), "", Durability::relaxed);
  auto token = lsn ? db.token(*lsn) : Result<CommitToken>(std::unexpected(lsn.error()));
  if (!token) return board.complain("error", "token: " + token.error().message());
  std::snprintf(board.tokens[incarnation], sizeof board.tokens[incarnation], "%s",
                token->text().c_str());
}

}  // namespace

void run_workload(Database& db, const Plan& plan, Board& board, unsigned incarnation, bool last) {
  auto tree = db.tree(kTree, {.create = true});
  auto markers = db.tree(kMarkerTree, {.create = true});
  if (!tree || !markers) return board.complain("error", (tree ? markers : tree).error().message());
#if defined(KESSAI_TORTURE)
  // The engine's seams are places where another thread may come in.
  const auto seed = plan.seed + plan.history;
  if (plan.yields_of_16 != 0) {
    io::set_interrupter([seed](std::string_view) {
      thread_local io::SeededRandom random(seed * 64 + io::thread_index());
      if (random.below(4) == 0) io::yield_thread();
      return false;
    });
  }
#endif
  if (plan.markers) keep_token(db, *tree, board, incarnation);
  // A killed incarnation is continued where its slowest thread was.
  unsigned from = plan.epochs;
  for (unsigned t = 0; t < plan.threads; ++t) from = std::min(from, board.epochs_done[t].load());
  for (unsigned t = 0; t < plan.threads; ++t) board.epochs_done[t] = from;
  const unsigned to = plan.markers && last ? std::min(plan.epochs, from + 4) : plan.epochs;
  {
    std::vector<Worker> workers;
    workers.reserve(plan.threads);
    for (unsigned t = 0; t < plan.threads; ++t)
      workers.emplace_back(db, *tree, *markers, plan, board, incarnation, t);
    const LockWatch watch(db, board);
    std::vector<io::Thread> threads;
    board.working = plan.threads;
    for (Worker& w : workers) threads.emplace_back("torture", [&w, from, to] { w.run(from, to); });
  }
  if (last)
    Worker(db, *tree, *markers, plan, board, incarnation, kMostThreads)
        .read_everything(plan.slots * std::min(plan.epochs, to + 1));
}

}  // namespace kessai::torture
