// SPDX-License-Identifier: Apache-2.0
// Upkeep: checkpoints, version collection, purging of ghosts, freeing of pages; by two threads, or
// in steps paid by commits when there are none.
#include <algorithm>

#include "engine/store.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::engine {
namespace {
constexpr std::uint64_t kLogTickNs = 5'000'000;
constexpr std::uint64_t kUpkeepTickNs = 10'000'000;
constexpr std::size_t kMostGhosts = 1 << 20;  // beyond that, page-local purging finds them
// A throttled commit waits this long at first, so much more close to the budget, and looks so
// often.
constexpr std::uint64_t kThrottleNs = 1'000'000;
constexpr std::uint64_t kThrottleMoreNs = 9'000'000;
constexpr std::uint64_t kThrottleSliceNs = 100'000;
constexpr std::uint64_t kSweepPauseNs = 10'000'000;
// A tick of upkeep walks over the shards of before-images for so long, once they have doubled and
// more.
constexpr std::uint64_t kSweepTickNs = kUpkeepTickNs / 10;
// Without threads: so many commits are a tick.
constexpr std::uint64_t kStepsBetweenSnapshots = 16;
constexpr std::uint64_t kSweepBytes = std::uint64_t{512} << 10;
}  // namespace

/// Several threads may step the versions at once; the horizons never go back.
void Store::raise(io::Atomic<Lsn>& horizon, Lsn to) noexcept {
  Lsn now = horizon.load(std::memory_order_relaxed);
  while (now < to && !horizon.compare_exchange_weak(now, to, std::memory_order_seq_cst,
                                                    std::memory_order_relaxed)) {
  }
}

Store::Use::Use(Store& s) noexcept : slot_(&s.uses_[io::thread_index() % kUseSlots].count) {
  // Announce, then look; close() sets its flag, then counts (both seq_cst).
  slot_->fetch_add(1, std::memory_order_seq_cst);
  if (!s.closed_.load(std::memory_order_seq_cst) && !s.in_forked_child()) return;
  // Refused: what the caller does now, closing does not wait for.
  slot_->fetch_sub(1, std::memory_order_release);
  slot_ = nullptr;
}

Store::Use::~Use() {
  if (slot_ != nullptr) slot_->fetch_sub(1, std::memory_order_release);
}

void Store::note_ghost(std::shared_ptr<TreeState> tree, std::string_view key, Lsn lsn) {
  Ghost g{std::move(tree), std::string(key), lsn};
  io::SpinLock lock(ghosts_mutex_);
  if (ghosts_.size() < kMostGhosts) ghosts_.push_back(std::move(g));
}

std::size_t Store::step_versions() {
  const Lsn horizon = snapshots_.horizon(std::min(applied(), durable()));
  // Announced before anything can go: see freed_since().
  raise(gc_horizon_, horizon);
  raise(horizon_, horizon);
  return undo_->gc(horizon, 4096);
}

/// Keeps a row at about one version a snapshot while old snapshots are open, or their readers walk
/// past all that was written since. Pushes do most of it, given where the snapshots are; what they
/// do not reach (rows that are left alone, or change many times between two ticks) a sweep does,
/// each time the bytes have doubled since the last one: that is a constant number of steps a push.
void Store::step_between_snapshots() {
  const auto oldest = snapshots_.oldest();
  const bool prune = oldest && undo_->bytes() != 0;
  if (!prune && !pruning_) return;
  mvcc::InUse in_use = snapshots_.in_use(std::min(applied(), durable()));
  raise(gc_horizon_, in_use.bound);  // reads without a registered snapshot: see freed_since()
  if (!prune) in_use.points.clear();
  undo_->prune_by(in_use);
  pruning_ = prune;
  bytes_swept_ = std::min(bytes_swept_, undo_->bytes());
  if (to_sweep_ == 0 && undo_->bytes() > 2 * bytes_swept_ + kSweepBytes)
    to_sweep_ = mvcc::Undo::kShards;
  if (to_sweep_ == 0) return;
  const std::uint64_t until = env_->clock->now_ns() + kSweepTickNs;
  do {
    undo_->gc_intervals(in_use, 1);
  } while (--to_sweep_ != 0 && env_->clock->now_ns() < until);
  if (to_sweep_ == 0) bytes_swept_ = undo_->bytes();
}

/// In order of harshness: collection below the horizon, collection between the snapshots, from
/// 7/8 of the budget on slowing the writers down so that a short reader can finish, at the budget
/// giving up the oldest snapshots, which get snapshot_too_old at their next read. Writers are only
/// slowed down when what the snapshots really need is so much.
void Store::relieve_undo() {
  if (!undo_->pressed()) return;
  const auto enough = [&] {
    return undo_->bytes() < sweep_at_.load(std::memory_order_relaxed) &&
           !undo_->pressed(undo_needed_.load(std::memory_order_relaxed));
  };
  if (undo_->over_budget()) {
    const io::MutexLock lock(relief_mutex_);
    relieve_undo_now();
  } else if (enough() || !relief_mutex_.try_lock()) {
    return;  // below the budget nobody waits for another thread's collection
  } else {
    relieve_undo_now();
    relief_mutex_.unlock();
  }
  if (undo_->pressed() && !enough()) throttle();
}

void Store::relieve_undo_now() {
  while (step_versions() > 0 && undo_->pressed()) {
  }
  if (!undo_->pressed()) {
    undo_needed_.store(0, std::memory_order_relaxed);
    sweep_at_.store(0, std::memory_order_relaxed);
    return;
  }
  const std::uint64_t start = env_->clock->now_ns();
  const bool to_kill = undo_->over_budget() && snapshots_.oldest();
  if (to_kill || undo_->bytes() >= sweep_at_.load(std::memory_order_relaxed) ||
      start >= sweep_again_ns_) {
    collect_between_snapshots();
    // A walk over everything: not again before it can free a sixteenth, or was idle for long.
    undo_needed_.store(undo_->bytes(), std::memory_order_relaxed);
    sweep_at_.store(undo_->bytes() + undo_->budget() / 16, std::memory_order_relaxed);
    const std::uint64_t now = env_->clock->now_ns();
    sweep_again_ns_ = now + std::max(kSweepPauseNs, 8 * (now - start));
  }
  while (undo_->over_budget() && snapshots_.kill_oldest()) {
    snapshots_killed_.fetch_add(1, std::memory_order_relaxed);
    while (step_versions() > 0 && undo_->over_budget()) {
    }
    // What stands first in a shard may be needed by the next snapshot: look behind it.
    if (undo_->over_budget()) collect_between_snapshots();
  }
}

void Store::collect_between_snapshots() {
  const mvcc::InUse in_use = snapshots_.in_use(std::min(applied(), durable()));
  raise(gc_horizon_, in_use.bound);  // reads without a registered snapshot: see freed_since()
  undo_->gc_intervals(in_use);
}

void Store::throttle() {
  const io::Waits::Timer wait(*env_, io::Wait::undo_space);
  if (!env_->background) return;  // nobody else would change anything
  const std::uint64_t eighth = undo_->budget() / 8 + 1;
  const std::uint64_t above = undo_->bytes() - std::min(undo_->bytes(), undo_->budget() - eighth);
  const std::uint64_t most = kThrottleNs + std::min(above, eighth) * kThrottleMoreNs / eighth;
  const std::uint64_t until = env_->clock->now_ns() + most;
  for (std::uint64_t waited = 0, slice = kThrottleSliceNs;
       waited < most && env_->clock->now_ns() < until && !closed_.load(std::memory_order_relaxed);
       waited += slice, slice = std::min(2 * slice, kThrottleNs)) {
    io::pause_for(slice);
    if (relief_mutex_.try_lock()) {
      relieve_undo_now();
      relief_mutex_.unlock();
    }
    if (!undo_->pressed()) return;
  }
}

void Store::step_purge(std::size_t most) {
  btree::Shadows shadows(*pages_);
  for (; most > 0; --most) {
    Ghost g;
    {
      io::SpinLock lock(ghosts_mutex_);
      if (ghosts_.empty() || ghosts_.front().lsn > horizon_.load(std::memory_order_acquire)) return;
      g = std::move(ghosts_.front());
      ghosts_.pop_front();
    }
    if (g.tree->dropped_at.load(std::memory_order_acquire) != 0) continue;
    g.tree->writers.fetch_add(1, std::memory_order_seq_cst);
    if (!g.tree->dropping.load(std::memory_order_seq_cst)) {
      const auto ok = g.tree->tree.purge_ghost(g.key, g.lsn, shadows);
      if (!ok) say("purging stopped: " + ok.error().message());
    }
    g.tree->writers.fetch_sub(1, std::memory_order_release);
  }
}

void Store::step_reclaim(std::size_t most) {
  // A dropped tree is freed once no snapshot can look into it.
  std::vector<std::shared_ptr<TreeState>> ready;
  {
    io::MutexLock lock(trees_mutex_);
    std::erase_if(dropped_, [&](const auto& t) {
      if (t->dropped_at.load() > horizon_.load(std::memory_order_acquire)) return false;
      ready.push_back(t);
      return true;
    });
  }
  for (const auto& t : ready) {
    if (auto ok = mark_dropping(t->tree.id(), t->tree.root()); !ok) {
      say("freeing a tree: " + ok.error().message());
      io::MutexLock lock(trees_mutex_);
      dropped_.push_back(t);  // again later
    }
  }
  btree::Shadows shadows(*pages_);
  for (; most > 0; --most) {
    const auto more = btree::reclaim_step(context_, shadows);
    if (!more) say("freeing pages stopped: " + more.error().message());
    if (!more || !*more) return;
  }
}

/// Long log; or a pool that is full, half of it dirty: evictions should find clean pages. While
/// frames are free, writing pages that will change again only costs the device.
bool Store::checkpoint_due() const {
  if (log_->bytes_since(pages_->newest().low) > options_.wal_limit / 8) return true;
  const btree::Pool& pool = pages_->pool();
  return pages_->usage().dirty > pool.frames() / 2 &&
         pool.frames_used() > pool.frames() - pool.frames() / 8;
}

Result<void> Store::run_checkpoint(bool clean) {
  io::MutexLock lock(checkpoint_mutex_);
  while (pages_->checkpoint_running()) KESSAI_TRY(pages_->checkpoint_step());
  return pages_->checkpoint(clean);
}

Result<void> Store::checkpoint() {
  KESSAI_TRY(writable());
  return run_checkpoint(false);
}

void Store::after_commit() {
  if (env_->background) return;
  // Deterministic upkeep: a slice of everything after each commit.
  expire_transactions();
  io::MutexLock lock(upkeep_mutex_);
  step_versions();
  if (upkeep_steps_++ % kStepsBetweenSnapshots == 0) step_between_snapshots();
  step_purge(4);
  step_reclaim(1);
  step_checkpoint(checkpoint_due());
}

void Store::step_checkpoint(bool due) {
  io::MutexLock ckpt(checkpoint_mutex_);
  if (!writable()) return;
  if (pages_->checkpoint_running()) {
    static_cast<void>(pages_->checkpoint_step());  // an error has poisoned the store
  } else if (due) {
    pages_->begin_checkpoint(false);
  }
}

void Store::log_thread() {
  for (;;) {
    {
      io::MutexLock lock(wake_mutex_);
      if (stop_) return;
      wake_.wait_for(wake_mutex_, kLogTickNs);
      if (stop_) return;
    }
    coarse_now_.store(env_->clock->now_ns(), std::memory_order_relaxed);
    expire_transactions();
    log_->tick();
#if defined(KESSAI_TORTURE)
    // the log is reset by what a checkpoint says that is only beginning elsewhere.
    if (KESSAI_MUTANT(wal_reset_race)) pages_->recycle_to_building();
#endif
  }
}

void Store::hook_thread() {
  hook_runner_.store(io::thread_index() + 1, std::memory_order_relaxed);
  constexpr std::uint64_t kLongNs = 1'000'000'000;
  for (;;) {
    {
      io::MutexLock lock(hook_mutex_);
      if (!callbacks_due_ && !stop_hooks_) hook_wake_.wait_for(hook_mutex_, kLongNs);
      if (stop_hooks_) return;
      callbacks_due_ = false;
    }
    log_->run_callbacks();
  }
}

void Store::run_due_callbacks() {
  if (env_->background || log_ == nullptr) return;
  {
    io::MutexLock lock(hook_mutex_);
    if (!std::exchange(callbacks_due_, false)) return;
  }
  log_->run_callbacks();
}

void Store::checkpoint_thread() {
  for (;;) {
    bool wanted = false;
    {
      io::MutexLock lock(wake_mutex_);
      if (stop_) return;
      if (!checkpoint_wanted_) wake_.wait_for(wake_mutex_, kUpkeepTickNs);
      if (stop_) return;
      wanted = std::exchange(checkpoint_wanted_, false);
    }
    if (!writable()) continue;
    // Checkpoints first: a full log waits for them.
    if (wanted || checkpoint_due()) {
      if (auto ok = run_checkpoint(false); !ok) say("checkpoint failed: " + ok.error().message());
    }
    io::MutexLock lock(upkeep_mutex_);
    step_versions();
    step_between_snapshots();
    step_purge(4096);
    step_reclaim(256);
  }
}

void Store::start_threads() {
  if (!env_->background || log_ == nullptr) return;
  coarse_now_.store(env_->clock->now_ns(), std::memory_order_relaxed);
  log_thread_ = io::Thread("kessai-log", [this] { log_thread(); });
  hook_thread_ = io::Thread("kessai-hook", [this] { hook_thread(); });
  checkpoint_thread_ = io::Thread("kessai-ckpt", [this] { checkpoint_thread(); });
}

}  // namespace kessai::engine
