// SPDX-License-Identifier: Apache-2.0
// Goal: a commit token tells for ever whether its commit survived (I9). Method: every commit writes
// a row of its own and keeps its token as text; after crashes at random disk operations, in opens
// too, the answers are compared with the rows that are there.
#include <gtest/gtest.h>

#include "tests/engine/fault_world.hpp"

namespace kessai::test {
namespace {

struct Kept {
  std::string row;
  std::string token;
  bool durable = false;  ///< the commit was answered
};

Database& db(Process& p) { return *p.db; }
Tree main_tree(Process& p) { return p.db->tree("main").value(); }

/// Commits one row and keeps the token, whatever becomes of it.
void commit(Process& p, const std::string& row, Durability durability, std::vector<Kept>& kept) {
  auto txn = db(p).begin({.durability = durability});
  if (!txn || !txn->put(main_tree(p), row, "x")) return;
  const auto lsn = txn->commit();
  if (!lsn && lsn.error() != Code::unknown_outcome) return;  // nothing happened
  const Lsn at = lsn ? *lsn : lsn.error().detail().lsn;
  ASSERT_GT(at, 0u) << lsn.error().message();
  const auto token = db(p).token(at);
  ASSERT_TRUE(token.has_value()) << token.error().message();
  kept.push_back({row, token->text(), lsn && durability == Durability::durable});
}

/// Every token's answer equals what is in the store.
void compare(Process& p, const std::vector<Kept>& kept, bool own_too = false) {
  std::uint64_t survived = 0;
  for (const Kept& k : kept) {
    SCOPED_TRACE(k.row + " " + k.token);
    const auto token = CommitToken::parse(k.token);
    ASSERT_TRUE(token.has_value());
    EXPECT_EQ(token->text(), k.token);
    const auto outcome = db(p).outcome(*token);
    ASSERT_TRUE(outcome.has_value()) << outcome.error().message();
    const bool there = db(p).get(main_tree(p), k.row).has_value();
    ASSERT_EQ(*outcome == Outcome::committed, there);
    ASSERT_TRUE(there || !k.durable);
    survived += there;
  }
  EXPECT_TRUE(own_too || kept.empty() || survived > 0);
}

TEST(Outcome, AgreesWithTheRowsAfterCrashesAnywhere) {
  // Goal: durable and relaxed commits, several generations back, crashes inside commits and inside
  // opens, clean closes between; also for a reader that may not write.
  const std::uint64_t base = number_from("KESSAI_SEED", 1);
  std::uint64_t lost = 0, failed_opens = 0, generations = 0;
  for (std::uint64_t seed = base; seed < base + 40; ++seed) {
    SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
    io::SeededRandom random(seed);
    io::SimDisk disk(seed);
    std::vector<Kept> kept;
    for (int life = 0; life < 8; ++life) {
      bool crashed = false;
      {
        Process p(disk, random.next());
        p.options.create = life == 0;
        // The first open must succeed: there is nothing to ask before.
        const auto fuse =
            random.below(3) == 0 && life > 0 ? random.below(60) : 60 + random.below(300);
        const bool crash = random.below(4) != 0;
        if (life > 0 && crash) disk.crash_at(disk.ops() + fuse);
        if (!p.open()) {
          ASSERT_TRUE(disk.crashed());
          ++failed_opens;
          crashed = true;
        } else {
          if (life == 0 && crash) disk.crash_at(disk.ops() + fuse);
          ++generations;
          for (auto n = random.below(30); n > 0 && !disk.crashed(); --n) {
            commit(p, std::to_string(life) + "/" + std::to_string(n),
                   random.below(2) == 0 ? Durability::durable : Durability::relaxed, kept);
            if (random.below(12) == 0) static_cast<void>(db(p).checkpoint());
          }
          if (!disk.crashed() && random.below(3) == 0) {
            ASSERT_TRUE(p.close() || disk.crashed());
          }
          crashed = disk.crashed() || p.db.has_value();
          if (p.db) disk.crash();
        }
      }
      // A copy has no crash ahead of it.
      disk = crashed ? disk.survivor(io::kCrashOutcomes[random.below(io::kCrashOutcomes.size())],
                                     random.next())
                     : io::SimDisk(disk);
      if (random.below(3) == 0) {
        Process reader(disk, random.next());
        reader.options.read_only = true;
        const auto read = reader.open();
        ASSERT_TRUE(read.has_value()) << read.error().message() << " life " << life;
        ASSERT_NO_FATAL_FAILURE(compare(reader, kept, true));
        ASSERT_TRUE(reader.close());
      }
      io::SimDisk copy = disk;  // looking must not change the generations
      Process after(copy, random.next());
      const auto opened = after.open();
      ASSERT_TRUE(opened.has_value()) << opened.error().message();
      ASSERT_NO_FATAL_FAILURE(compare(after, kept, true));
      for (const Kept& k : kept) lost += !db(after).get(main_tree(after), k.row).has_value();
      ASSERT_TRUE(after.close());
    }
  }
  EXPECT_GT(lost, 50u);
  EXPECT_GT(failed_opens, 10u);
  EXPECT_GT(generations, 100u);
}

TEST(Outcome, AFailedFlushLeavesATokenThatIsAnsweredAfterReopening) {
  // Goal: `unknown_outcome` carries the LSN; the token from it tells what the row tells. Method:
  // each kind of failed flush, the poisoned store is closed and opened again.
  using After = io::Fault::AfterFlush;
  for (const After after : {After::kept, After::reverted, After::late}) {
    for (std::uint64_t skip = 0; skip < 3; ++skip) {
      SCOPED_TRACE(skip);
      io::SimDisk disk(7 + skip);
      std::vector<Kept> kept;
      bool failed = false;
      {
        Process p(disk);
        p.options.create = true;
        ASSERT_TRUE(p.open());
        commit(p, "good", Durability::durable, kept);
        io::Fault fault;
        fault.kind = "write_durable";
        fault.skip = skip;
        fault.after_flush = after;
        disk.add_fault(fault);
        for (int i = 0; i < 5 && !failed; ++i) {
          commit(p, "row" + std::to_string(i), Durability::durable, kept);
          failed = !kept.back().durable;
        }
        ASSERT_TRUE(failed);
        const auto token = CommitToken::parse(kept.back().token).value();
        const auto now = db(p).outcome(token);
        ASSERT_FALSE(now.has_value());
        EXPECT_EQ(now.error(), Code::unknown_outcome);
        EXPECT_EQ(now.error().detail().lsn, token.lsn);
        disk.clear_faults();
        EXPECT_FALSE(p.close().has_value());
      }
      Process p(disk);
      ASSERT_TRUE(p.open());
      ASSERT_NO_FATAL_FAILURE(compare(p, kept));
    }
  }
}

TEST(Outcome, OfThisOpenWaitsUntilDurable) {
  // Goal: a relaxed commit's own process may ask, too; the answer makes it durable.
  io::SimDisk disk(3);
  Process p(disk);
  p.options.create = true;
  ASSERT_TRUE(p.open());
  std::vector<Kept> kept;
  commit(p, "a", Durability::relaxed, kept);
  const auto token = CommitToken::parse(kept[0].token).value();
  EXPECT_LT(db(p).info().durable_lsn, token.lsn);
  EXPECT_EQ(db(p).outcome(token).value(), Outcome::committed);
  EXPECT_GE(db(p).info().durable_lsn, token.lsn);
}

TEST(Outcome, RefusesWhatIsNoTokenOfThisStore) {
  // Goal: garbage, other stores, later histories, impossible LSNs: invalid_argument, never an
  // answer.
  for (const char* text :
       {"", "/", "//", "a/1/2", "00112233445566778899aabbccddeeff/1",
        "00112233445566778899aabbccddeeff/1/", "00112233445566778899aabbccddeeff//5",
        "00112233445566778899aabbccddeeff/1/5 ", "00112233445566778899aabbccddeeff/-1/5",
        "00112233445566778899aabbccddeeff/1/99999999999999999999",
        "00112233445566778899AABBCCDDEEFF/1/5", "00112233445566778899aabbccddeefg/1/5"}) {
    const auto parsed = CommitToken::parse(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error(), Code::invalid_argument);
  }
  io::SimDisk disk(3);
  std::vector<Kept> kept;
  for (int life = 0; life < 3; ++life) {
    Process p(disk, static_cast<std::uint64_t>(life) + 1);
    p.options.create = true;
    ASSERT_TRUE(p.open());
    commit(p, std::to_string(life), Durability::durable, kept);
    ASSERT_TRUE(p.close());
  }
  Process p(disk, 9);
  ASSERT_TRUE(p.open());
  commit(p, "3", Durability::durable, kept);
  compare(p, kept);
  const auto refused = [&](const CommitToken& t) {
    const auto r = db(p).outcome(t);
    return !r && r.error() == Code::invalid_argument && !r.error().detail().what.empty();
  };
  const auto own = CommitToken::parse(kept[3].token).value();
  const auto old = CommitToken::parse(kept[1].token).value();
  EXPECT_EQ(own.generation, 4u);
  EXPECT_EQ(own.store, db(p).info().store_id);
  EXPECT_TRUE(refused({std::string(32, 'a'), own.generation, own.lsn}));
  EXPECT_TRUE(refused({own.store, own.generation + 1, own.lsn}));
  EXPECT_TRUE(refused({own.store, 0, own.lsn}));
  EXPECT_TRUE(refused({own.store, ~std::uint64_t{0}, own.lsn}));
  EXPECT_TRUE(refused({own.store, own.generation, old.lsn}));
  EXPECT_TRUE(refused({own.store, own.generation, own.lsn + 1000}));
  EXPECT_TRUE(refused({own.store, old.generation, own.lsn + (64u << 20)}));
  EXPECT_TRUE(refused({own.store, old.generation + 1, old.lsn}));
  EXPECT_TRUE(refused({own.store, old.generation, 1}));
  EXPECT_TRUE(refused({own.store, 1, 1}));
  // Just above the end: lost, if it was ever there.
  EXPECT_EQ(db(p).outcome({own.store, old.generation, old.lsn + 100}).value(),
            Outcome::not_committed);
  for (const Lsn lsn : {Lsn{0}, old.lsn, own.lsn + 1, ~Lsn{0}}) {
    const auto token = db(p).token(lsn);
    ASSERT_FALSE(token.has_value()) << lsn;
    EXPECT_EQ(token.error(), Code::invalid_argument);
  }
  ASSERT_TRUE(p.close());
  Process reader(disk, 10);
  reader.options.read_only = true;
  ASSERT_TRUE(reader.open());
  EXPECT_EQ(db(reader).token(own.lsn).error(), Code::read_only);
  EXPECT_EQ(db(reader).outcome(own).value(), Outcome::committed);
}

TEST(Outcome, AnOlderCopyDoesNotAnswerForALaterHistory) {
  // Goal: a store restored from a copy says so instead of "not committed".
  io::SimDisk disk(3);
  std::vector<Kept> kept;
  {
    Process p(disk);
    p.options.create = true;
    ASSERT_TRUE(p.open());
    ASSERT_TRUE(p.close());
  }
  io::SimDisk copy = disk;
  for (int i = 0; i < 2; ++i) {
    Process p(disk);
    ASSERT_TRUE(p.open());
    commit(p, std::to_string(i), Durability::durable, kept);
    ASSERT_TRUE(p.close());
  }
  Process p(copy);
  ASSERT_TRUE(p.open());
  const auto later = db(p).outcome(CommitToken::parse(kept[1].token).value());
  ASSERT_FALSE(later.has_value());
  EXPECT_EQ(later.error(), Code::invalid_argument);
}

TEST(Outcome, HundredsOfGenerationsAreAllAnswered) {
  // Goal: the history is kept for ever, through checkpoints, recycled log files and reopening; no
  // tree name can touch it.
  io::SimDisk disk(5);
  std::vector<Kept> kept;
  const std::string longest(kMaxTreeNameBytes, '\xff');
  for (int life = 0; life < 200; ++life) {
    Process p(disk, static_cast<std::uint64_t>(life) + 1);
    p.options.create = life == 0;
    ASSERT_TRUE(p.open());
    commit(p, std::to_string(life), Durability::durable, kept);
    commit(p, std::to_string(life) + "r", Durability::relaxed, kept);
    ASSERT_TRUE(life != 3 || p.db->tree(longest, {.create = true}).has_value());
    ASSERT_TRUE(life != 150 || p.db->drop_tree(longest).has_value());
    EXPECT_EQ(p.db->tree_names()->size(), life >= 3 && life < 150 ? 2u : 1u);
    ASSERT_TRUE(life % 2 != 0 || p.close());
  }
  Process p(disk, 999);
  ASSERT_TRUE(p.open());
  ASSERT_NO_FATAL_FAILURE(compare(p, kept));
  EXPECT_EQ(p.db->tree_names().value(), std::vector<std::string>{"main"});
  EXPECT_TRUE(p.db->check()->ok);
}

TEST(Outcome, SurvivesOpensOnAFullDisk) {
  // Goal: a store on a full disk opens, and its history is complete. Method: the disk is filled to
  // the last page by writes and then by deletes, each time after another open; rows of the disk
  // that has room again are compared.
  for (std::uint64_t room = 0; room < 12; ++room) {
    SCOPED_TRACE(room);
    io::SimDisk disk(6 + room);
    std::vector<Kept> kept;
    std::uint64_t refused = 0;
    for (int life = 0; life < 14; ++life) {
      Process p(disk, room * 20 + static_cast<std::uint64_t>(life) + 1);
      p.options.create = life == 0;
      if (life == 13) disk.set_capacity(~std::uint64_t{0} >> 1);
      const auto opened = p.open();
      ASSERT_TRUE(opened.has_value()) << "life " << life << ": " << opened.error().message();
      ASSERT_NO_FATAL_FAILURE(compare(p, kept));
      commit(p, std::to_string(life), Durability::relaxed, kept);
      if (life == 0) {
        std::uint64_t used = 0;
        for (const auto& name : disk.files()) used += disk.file_bytes(name).size();
        disk.set_capacity(used + room * 8192);
      }
      const Tree t = main_tree(p);
      for (int i = 0, failures = 0; i < 400 && failures < 3; ++i) {
        const auto key = "f" + std::to_string(i * 37 % 400 + 1000 * (life % 3));
        const bool put = life % 2 == 0;
        const auto done = put ? db(p).put(t, key, std::string(700, 'v'), Durability::relaxed)
                              : db(p).remove(t, key, Durability::relaxed);
        if (!done && done.error() == Code::disk_full) ++failures;
        refused += !done && done.error() == Code::disk_full;
      }
      if (life % 5 == 4) static_cast<void>(p.close());
    }
    EXPECT_GT(refused, 0u);
  }
}

}  // namespace
}  // namespace kessai::test
