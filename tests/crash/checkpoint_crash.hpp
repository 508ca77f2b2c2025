// SPDX-License-Identifier: Apache-2.0
// The crash harness of the page store: a seeded workload over several openings, in which up to
// three commits are open at once and their changes, checkpoint steps, evictions (64 frames),
// purges, splits, merges, long values, creates and drops interleave; at every disk operation the
// power may fail with every outcome, recovery runs, and the power fails once more inside recovery.
// Sometimes the newest superblock is damaged on top: the one before must do (I12).
//
// Oracle. The client's commits in LSN order and the largest LSN it was told is durable. What
// recovery finds must be exactly the commits up to the log's end, and that end at or beyond what
// was told. Crash states with equal disk images and equal client knowledge are recovered once.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <unordered_set>

#include "tests/crash/checkpoint_engine.hpp"

namespace kessai::btree::test {

struct CrashRun {
  std::uint64_t states = 0;    ///< crash states recovered, nested ones included
  std::uint64_t repeated = 0;  ///< skipped: seen before
  std::uint64_t leaf_splits = 0, merges = 0, checkpoints = 0, evicted = 0;
  std::optional<std::string> violation;  ///< the first one found
};

class CheckpointHarness {
 public:
  CheckpointHarness(std::uint64_t seed, int steps)
      : seed_(seed), steps_(steps), random_(seed), disk_(seed) {}

  CrashRun run() {
    for (int opening = 0; opening < 3 && !run_.violation; ++opening) {
      {
        Engine e(disk_, random_.next());
        if (opening == 0) {
          start(e);
          disk_.set_observer([this](std::uint64_t op, std::string_view kind,
                                    std::string_view file) { power_may_fail(op, kind, file); });
        } else {
          reopen(e);
        }
        if (!run_.violation) work(e, steps_);
        open_.clear();
        run_.leaf_splits += e.context ? e.context->counters.leaf_splits.load() : 0;
        run_.merges += e.context ? e.context->counters.merges.load() : 0;
        run_.checkpoints += e.store ? e.store->usage().checkpoints : 0;
        run_.evicted += e.store ? e.store->pool().counters().evicted.load() : 0;
      }
      if (random_.below(2) == 0) lose_power();
    }
    disk_.set_observer({});
    return run_;
  }

 private:
  /// What the client knows.
  struct Client {
    std::vector<Commit> commits;
    Tables base;  ///< the state before commits.front()
    Lsn acknowledged = 0;
    Lsn handed_out = 0;

    [[nodiscard]] Tables at(Lsn end) const {
      Tables t = base;
      for (const Commit& c : commits) {
        if (c.lsn > end) break;
        for (const Op& op : c.ops) apply_to(t, op);
      }
      return t;
    }
    /// What was acknowledged can be taken for granted.
    void fold() {
      const auto last = std::find_if(commits.begin(), commits.end(),
                                     [&](const Commit& c) { return c.lsn > acknowledged; });
      if (last - commits.begin() < 64) return;
      for (auto it = commits.begin(); it != last; ++it) {
        for (const Op& op : it->ops) apply_to(base, op);
      }
      commits.erase(commits.begin(), last);
    }
  };
  struct Open {
    Commit commit;
    wal::Log::Reservation at;
    std::vector<OverflowPages> long_values;
    std::uint64_t claimed = 0;
    std::size_t next = 0;
  };

  void violate(const std::string& what) {
    if (!run_.violation)
      run_.violation = "seed " + std::to_string(seed_) + " op " + std::to_string(op_) + ": " + what;
  }
  bool good(const Result<void>& r, const char* what) {
    if (!r) violate(std::string(what) + ": " + r.error().message());
    return r.has_value();
  }

  // ---- the workload ----------------------------------------------------------------------------

  void start(Engine& e) {
    constexpr std::uint32_t ids[] = {2, 3};
    if (!good(e.create(ids), "create")) return;
    now_ = client_.base = {{2, {}}, {3, {}}};
    next_tree_ = 4;
    for (int i = 0; i < 450 && !run_.violation; ++i) {
      begin_commit(e);
      while (!open_.empty()) apply_one(e, 0);
    }
    if (!good(e.log->wait_durable(e.log->tail()), "wait")) return;
    note(e.log->durable_lsn());
    good(e.store->checkpoint(), "checkpoint");
  }

  void reopen(Engine& e) {
    if (!good(e.recover(), "reopening")) return;
    Lsn end = 0;
    if (auto bad = judge(e, client_, end)) return violate("after reopening: " + *bad);
    // What was not durable is gone for good.
    std::erase_if(client_.commits, [&](const Commit& c) { return c.lsn > end; });
    note(end);
    if (e.log->first_lsn() <= client_.handed_out) violate("LSNs repeat");
    now_ = client_.at(kMaxLsn);
    locked_.clear();
    removed_.clear();
  }

  void work(Engine& e, int steps) {
    for (int i = 0; i < steps && !run_.violation; ++i) step(e);
    while (!open_.empty() && !run_.violation && random_.below(4) != 0)
      apply_one(e, random_.below(open_.size()));
    if (random_.below(2) == 0) return;  // killed as it is
    while (!open_.empty() && !run_.violation) apply_one(e, 0);
    while (e.store->checkpoint_running() && !run_.violation)
      good(e.store->checkpoint_step(), "last steps");
    if (!run_.violation && good(e.store->checkpoint(true), "last checkpoint") &&
        good(e.log->seal(), "seal"))
      note(e.log->durable_lsn());
  }

  void step(Engine& e) {
    e.clock().advance(1'000'000);
    client_.fold();
    const auto dice = random_.below(100);
    if (dice < 20) {
      if (random_.below(3) != 0) filler(e);
      if (open_.size() < 3) begin_commit(e);
    } else if (dice < 52) {
      if (!open_.empty()) apply_one(e, random_.below(open_.size()));
    } else if (dice < 56) {
      if (good(e.log->wait_durable(e.log->tail()), "wait")) note(e.log->durable_lsn());
    } else if (dice < 58) {
      note(e.log->poll());
    } else if (dice < 66) {
      purge(e);
    } else if (dice < 72) {
      look(e);
    } else if (dice < 74) {
      Shadows shadows(*e.store);
      if (auto r = reclaim_step(*e.context, shadows); !r)
        violate("reclaim: " + r.error().message());
    } else if (dice < 75) {
      e.clock().advance(20'000'000);
      e.log->tick();
      note(e.log->durable_lsn());
    } else if (e.store->checkpoint_running()) {
      if (random_.below(2) == 0) good(e.store->checkpoint_step(), "checkpoint step");
    } else if (random_.below(3) == 0) {
      e.store->begin_checkpoint(false);
    }
  }

  std::string some_key() {
    const auto n = random_.below(600);
    std::string k = "k" + std::to_string(n * 7919 % 600);
    if (n % 13 == 0) k += std::string(n % 300, 'x');
    return k;
  }
  std::string some_value(bool& long_value) {
    const auto kind = random_.below(100);
    const bool wanted = kind >= 96 && !long_value;
    long_value |= wanted;
    return std::string(wanted      ? 1500 + random_.below(5500)
                       : kind < 60 ? random_.below(300)
                                   : random_.below(900),
                       static_cast<char>('a' + random_.below(26)));
  }

  void make_ops(Commit& c) {
    if (open_.empty() && random_.below(25) == 0) {  // a tree comes or goes
      const auto& tables = now_;
      const bool drop = tables.size() > 3 || (tables.size() == 3 && random_.below(2) == 0);
      const std::uint32_t id = drop ? tables.rbegin()->first : next_tree_++;
      c.ops.push_back({kCatalog, drop, std::to_string(id), {}});
      return;
    }
    bool long_value = false;
    // Some commits sweep a stretch of one tree empty.
    const bool sweep = client_.acknowledged != 0 && random_.below(3) == 0;
    const auto tree = random_.below(now_.size());
    for (auto n = sweep ? 10 : 1 + random_.below(4); n > 0; --n) {
      Op op;
      auto it = now_.begin();
      std::advance(it, sweep ? tree : random_.below(now_.size()));
      op.tree = it->first;
      op.key = some_key();
      op.remove = sweep || random_.below(100) < 10;
      if (op.remove) {
        // Neighbours go together, so that leaves run empty and merge.
        if (random_.below(12) == 0) focus_ = op.key;
        auto victim = it->second.lower_bound(focus_);
        while (victim != it->second.end() && locked_.contains({op.tree, victim->first})) ++victim;
        if (victim == it->second.end()) {
          focus_.clear();
          continue;
        }
        op.key = victim->first;
      }
      if (!locked_.insert({op.tree, op.key}).second) continue;
      if (!op.remove) op.value = some_value(long_value);
      c.ops.push_back(std::move(op));
    }
  }

  void begin_commit(Engine& e) {
    Open o;
    make_ops(o.commit);
    if (o.commit.ops.empty()) return;
    std::string record;
    wal::start_record(wal::RecordKind::commit, record);
    for (const Op& op : o.commit.ops) {
      o.claimed += Engine::claim_for(op);
      wal::encode_op(
          {TreeId{op.tree}, op.remove ? wal::OpKind::remove : wal::OpKind::put, op.key, op.value},
          o.commit.encoded);
    }
    record += o.commit.encoded;
    wal::finish_record(record);
    if (!good(e.store->claim(o.claimed), "claim")) return;
    for (const Op& op : o.commit.ops) {
      o.long_values.emplace_back();
      if (!good(e.prepare(op, o.long_values.back()), "prepare")) return;
    }
    const auto r = reserve(e, record.size());
    if (!r) return violate("reserve: " + r.error().message());
    o.at = *r;
    o.commit.lsn = r->lsn;
    client_.handed_out = std::max(client_.handed_out, r->lsn);
    client_.commits.push_back(o.commit);
    for (const Op& op : o.commit.ops) apply_to(now_, op);
    e.log->fill(*r, std::as_bytes(std::span(record)));
    open_.push_back(std::move(o));
    if (open_.back().commit.ops.front().tree == kCatalog) apply_one(e, open_.size() - 1);
  }

  /// What open commits wrote stays in the log. Here nobody else ends them when it is full.
  Result<wal::Log::Reservation> reserve(Engine& e, std::size_t bytes) {
    auto r = e.log->reserve(bytes);
    while (!r && r.error() == Code::disk_full && !open_.empty() && !run_.violation) {
      apply_one(e, 0);
      r = e.log->reserve(bytes);
    }
    return r;
  }

  /// Log bytes without pages: segments fill up and are recycled between two checkpoints.
  void filler(Engine& e) {
    std::string record;
    wal::start_record(wal::RecordKind::filler, record);
    record.append(7000, 'f');
    wal::finish_record(record);
    const auto r = reserve(e, record.size());
    if (!r) return violate("reserve: " + r.error().message());
    client_.handed_out = std::max(client_.handed_out, r->lsn);
    e.log->fill(*r, std::as_bytes(std::span(record)));
    e.log->applied(*r);
  }

  void apply_one(Engine& e, std::size_t which) {
    Open& o = open_[which];
    if (o.next < o.commit.ops.size()) {
      Shadows shadows(*e.store);
      good(e.apply(o.commit.ops[o.next], o.commit.lsn, o.long_values[o.next], shadows), "apply");
      if (++o.next < o.commit.ops.size()) return;
      if (random_.below(2) == 0) return;  // all in the tree, not yet announced
    }
    e.log->applied(o.at);
    e.store->unclaim(o.claimed);
    for (const Op& op : o.commit.ops) {
      locked_.erase({op.tree, op.key});
      if (op.remove && op.tree != kCatalog) removed_.push_back({op, o.commit.lsn});
    }
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
  }

  void purge(Engine& e) {
    Shadows shadows(*e.store);
    for (int n = 0; n < 16 && !removed_.empty(); ++n) {
      const auto at = random_.below(removed_.size());
      const auto [op, lsn] = removed_[at];
      if (locked_.contains({op.tree, op.key})) continue;
      removed_.erase(removed_.begin() + static_cast<std::ptrdiff_t>(at));
      const auto tree = e.trees.find(op.tree);
      if (tree != e.trees.end()) good(tree->second->purge_ghost(op.key, lsn, shadows), "purge");
    }
  }

  /// Reads here and there: what is not wanted is evicted.
  void look(Engine& e) {
    std::string value;
    for (int n = 0; n < 30; ++n) {
      auto it = e.trees.begin();
      std::advance(it, random_.below(e.trees.size()));
      if (auto r = it->second->get(some_key(), &value); !r)
        return violate("get: " + r.error().message());
    }
  }

  void note(Lsn durable) { client_.acknowledged = std::max(client_.acknowledged, durable); }

  // ---- crashes ---------------------------------------------------------------------------------

  /// Sets `end` to the last commit that recovery found.
  static std::optional<std::string> judge(Engine& e, const Client& client, Lsn& end) {
    end = e.low;
    Lsn missing = 0;
    std::size_t found = 0;
    for (const Commit& c : client.commits) {
      if (c.lsn <= e.low) continue;
      const auto at = std::lower_bound(e.replayed.begin(), e.replayed.end(), c.lsn,
                                       [](const Commit& r, Lsn lsn) { return r.lsn < lsn; });
      if (at == e.replayed.end() || at->lsn != c.lsn || at->encoded != c.encoded) {
        if (missing == 0) missing = c.lsn;
        continue;
      }
      if (missing != 0) return "the log has a hole at LSN " + std::to_string(missing);
      end = c.lsn;
      ++found;
    }
    if (missing != 0 && missing <= client.acknowledged)
      return "the acknowledged commit at LSN " + std::to_string(missing) + " is lost";
    const Lsn known = client.commits.empty() ? kMaxLsn : client.commits.front().lsn;
    const auto first = std::find_if(e.replayed.begin(), e.replayed.end(),
                                    [&](const Commit& r) { return r.lsn >= known; });
    if (static_cast<std::size_t>(e.replayed.end() - first) != found)
      return "the log holds commits nobody made";
    return e.verify(client.at(end));
  }

  void power_may_fail(std::uint64_t op, std::string_view kind, std::string_view file) {
    if (run_.violation || kind == "read" || kind == "lock" || kind == "open") return;
    op_ = op;
    for (const io::CrashOutcome outcome : io::kCrashOutcomes) {
      io::SimDisk survivor = disk_.survivor(outcome, random_.next());
      const bool damaged = random_.below(4) == 0;
      if (damaged) damage_newest_superblock(survivor);
      if (!seen_.insert(survivor.image_hash() * 31 + client_.acknowledged).second) {
        ++run_.repeated;
      } else if (auto bad = crash_and_recover(std::move(survivor))) {
        return violate(std::string(io::outcome_name(outcome)) +
                       (damaged ? " + damaged superblock" : "") + " before " + std::string(kind) +
                       " of " + std::string(file) + ": " + *bad);
      }
      if (disk_.volatile_items() == 0) break;
    }
  }

  static void damage_newest_superblock(io::SimDisk& disk) {
    const auto bytes = disk.file_bytes(kDataFile);
    std::uint64_t newest = 0, offset = 0;
    for (unsigned i = 0; i < kSuperblocks; ++i) {
      auto sb = decode_superblock(
          std::span<const std::byte, kPageSize>(bytes.data() + i * kSuperblockStride, kPageSize));
      if (sb && sb->number > newest) {
        newest = sb->number;
        offset = i * kSuperblockStride;
      }
    }
    disk.flip(kDataFile, (offset + 100) * 8);
  }

  std::optional<std::string> crash_and_recover(io::SimDisk survivor) {
    ++run_.states;
    const io::SimDisk before = survivor;
    const std::uint64_t how = random_.next();
    std::uint64_t ops = 0;
    Lsn end = 0;
    {
      Engine e(survivor, how);
      if (auto bad = recover(e)) return bad;
      ops = survivor.ops();
      if (e.log->first_lsn() <= client_.handed_out) return "LSNs repeat";
      if (auto bad = judge(e, client_, end)) return bad;
    }
    if (random_.below(4) ==
        0) {  // what judging left behind (reclaimed pages, evictions) recovers too
      if (auto bad = recovers_to(survivor, end)) return "second recovery: " + *bad;
    }
    if (random_.below(2) == 0) return std::nullopt;
    std::optional<std::string> nested;
    io::SimDisk again = before;
    const std::uint64_t at = random_.below(ops);
    const auto outcome = io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())];
    again.set_observer([&](std::uint64_t op, std::string_view, std::string_view) {
      if (op != at) return;
      ++run_.states;
      nested = recovers_to(again.survivor(outcome, random_.next()), end);
    });
    {
      Engine e(again, how);
      static_cast<void>(recover(e));
    }
    again.set_observer({});
    if (nested) return "crash in recovery at its operation " + std::to_string(at) + ": " + *nested;
    return std::nullopt;
  }

  /// Recovery as a whole: replay, pending frees, sometimes a checkpoint.
  std::optional<std::string> recover(Engine& e) {
    if (auto r = e.recover(); !r) return "recovery fails: " + r.error().message();
    if (e.end % 3 == 0) {
      if (auto r = e.store->checkpoint(); !r)
        return "the first checkpoint fails: " + r.error().message();
    }
    return std::nullopt;
  }

  std::optional<std::string> recovers_to(io::SimDisk disk, Lsn end) {
    Engine e(disk, random_.next());
    if (auto bad = recover(e)) return bad;
    // What the first recovery did not find is gone for good, whatever LSNs came since.
    Client now = client_;
    std::erase_if(now.commits, [&](const Commit& c) { return c.lsn > end; });
    Lsn again = 0;
    if (auto bad = judge(e, now, again)) return bad;
    if (again < end) return "the log ends earlier now";
    return std::nullopt;
  }

  /// The run itself goes on from a crash state.
  void lose_power() {
    io::SimDisk next = disk_.survivor(io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())],
                                      random_.next());
    disk_.set_observer({});
    disk_ = std::move(next);
    disk_.set_observer([this](std::uint64_t op, std::string_view kind, std::string_view file) {
      power_may_fail(op, kind, file);
    });
  }

  const std::uint64_t seed_;
  const int steps_;
  io::SeededRandom random_;
  io::SimDisk disk_;
  Client client_;
  Tables now_;  ///< after every commit made so far
  std::vector<Open> open_;
  std::set<std::pair<std::uint32_t, std::string>> locked_;
  std::string focus_;  ///< where keys are removed just now
  std::vector<std::pair<Op, Lsn>> removed_;
  std::unordered_set<std::uint64_t> seen_;
  std::uint32_t next_tree_ = 4;
  std::uint64_t op_ = 0;
  CrashRun run_;
};

}  // namespace kessai::btree::test
