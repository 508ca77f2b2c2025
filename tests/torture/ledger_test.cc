// SPDX-License-Identifier: Apache-2.0
// Goal: the oracle of histories with several threads accepts what is right and names what is wrong.
// Method: small histories by hand, each with one thing wrong.
#include "tools/torture/ledger.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace kessai::crash {
namespace {

using Fate = Attempt::Fate;

/// Client 0 committed LSN 10 (a = x) and 30 (a removed), client 1 LSN 20 (b = y) and runs a fourth.
struct History {
  Ledger ledger{{{"a", {"base", 1}}, {"c", {"base", 1}}}, 2};
  FoundRows all{{"b", {"y", 20}}, {"c", {"base", 1}}, {"m0", {"2", 30}}, {"m1", {"1", 20}}};

  void commit(unsigned client, Lsn lsn, std::map<std::string, std::optional<std::string>> writes) {
    Attempt& a = ledger.begin(client);
    a.writes = std::move(writes);
    a.writes[Ledger::marker(client)] = std::to_string(ledger.number_of_last(client));
    a.lsn = lsn;
    a.fate = Fate::committed;
    ledger.answered(lsn);
  }
  History() {
    commit(0, 10, {{"a", "x"}});
    commit(1, 20, {{"b", "y"}});
    commit(0, 30, {{"a", std::nullopt}});
    ledger.told(20);
  }
  Attempt& running() {
    Attempt& a = ledger.begin(1);
    a.writes = {{"c", "z"}, {"m1", "2"}};
    return a;
  }
  /// What judge() says, "" when nothing.
  std::string judge(const FoundRows& found) { return ledger.judge(found).value_or(""); }
};

TEST(Ledger, AcceptsEachPrefixThatHoldsWhatWasTold) {
  History h;
  EXPECT_EQ(h.judge(h.all), "");
  EXPECT_EQ(h.judge({{"a", {"x", 10}},
                     {"b", {"y", 20}},
                     {"c", {"base", 1}},
                     {"m0", {"1", 10}},
                     {"m1", {"1", 20}}}),
            "");
  h.running();
  EXPECT_EQ(h.judge(h.all), "");
  FoundRows with = h.all;
  with["c"] = {"z", 40};
  with["m1"] = {"2", 40};
  EXPECT_EQ(h.judge(with), "");
  EXPECT_EQ(h.ledger.judge_end(&h.all).value_or(""), "");
}

TEST(Ledger, NamesALostCommitAHoleAndHalfATransaction) {
  History h;
  EXPECT_NE(h.judge({{"a", {"x", 10}}, {"c", {"base", 1}}, {"m0", {"1", 10}}}).find("lost"),
            std::string::npos);
  History hole;
  FoundRows found = hole.all;
  hole.commit(1, 40, {{"c", "z"}});
  hole.commit(0, 50, {{"c", "w"}});
  found["c"] = {"w", 50};
  found["m0"] = {"3", 50};
  EXPECT_NE(hole.judge(found).find("a hole"), std::string::npos);
  History half;
  half.running();
  FoundRows torn = half.all;
  torn["m1"] = {"2", 40};
  EXPECT_NE(half.judge(torn).find("no state"), std::string::npos);
}

TEST(Ledger, NamesWhatWasNeverCommitted) {
  History h;
  h.running().fate = Fate::failed;
  FoundRows found = h.all;
  found["c"] = {"z", 40};
  found["m1"] = {"2", 40};
  EXPECT_NE(h.judge(found).find("answered as failed"), std::string::npos);
  found["m1"] = {"3", 40};
  EXPECT_NE(h.judge(found).find("never begun"), std::string::npos);
  History wrong;
  FoundRows lsn = wrong.all;
  lsn["m0"].lsn = 31;
  EXPECT_NE(wrong.judge(lsn).find("was answered with LSN 30"), std::string::npos);
}

TEST(Ledger, AHoleBesideARunningCommitShowsWhenItIsAnswered) {
  History h;
  Attempt& a = h.running();
  h.commit(0, 50, {{"d", "w"}});
  FoundRows found = h.all;
  found["d"] = {"w", 50};
  found["m0"] = {"3", 50};
  EXPECT_EQ(h.judge(found), "");
  a.lsn = 40;
  a.fate = Fate::committed;
  EXPECT_NE(h.ledger.judge_end(nullptr).value_or("").find("a hole"), std::string::npos);
}

TEST(Ledger, JudgesReads) {
  const auto read = [](Lsn snapshot, Lsn floor, const std::string& key, Version seen,
                       const std::function<void(Attempt&)>& more = {}) {
    History h;
    Attempt& a = h.ledger.begin(1);
    a.snapshot = snapshot;
    a.floor = floor;
    a.reads.push_back({key, std::move(seen)});
    if (more) more(a);
    a.fate = Fate::committed;
    return h.ledger.judge_end(nullptr).value_or("");
  };
  EXPECT_EQ(read(25, 20, "a", {"x", 10}), "");
  EXPECT_EQ(read(30, 30, "a", {}), "");
  EXPECT_EQ(read(0, 20, "a", {}), "");
  EXPECT_EQ(read(0, 0, "a", {"base", 1}), "");
  EXPECT_NE(read(25, 20, "a", {"base", 1}).find("its snapshot"), std::string::npos);
  EXPECT_NE(read(25, 20, "a", {}).find("its snapshot"), std::string::npos);
  EXPECT_NE(read(25, 20, "a", {"x", 11}).find("nobody committed"), std::string::npos);
  EXPECT_NE(read(25, 30, "a", {"x", 10}).find("had been answered"), std::string::npos);
  EXPECT_NE(read(0, 30, "a", {"x", 10}).find("had been answered"), std::string::npos);
  const auto writes_too = [](Attempt& a) {
    a.writes["a"] = "lost";
    a.lsn = 60;
  };
  EXPECT_NE(read(25, 20, "a", {"x", 10}, writes_too).find("in between"), std::string::npos);
  {  // Removing what is absent is no change.
    History h;
    Attempt& a = h.ledger.begin(1);
    a.snapshot = 30;
    a.reads.push_back({"a", {}});
    a.writes["a"] = "again";
    h.commit(0, 35, {{"a", std::nullopt}});
    a.lsn = 40;
    a.fate = Fate::committed;
    EXPECT_EQ(h.ledger.judge_end(nullptr).value_or(""), "");
  }
  const auto serializable = [](Attempt& a) {
    a.writes["b"] = "skew";
    a.serializable = true;
    a.lsn = 60;
  };
  EXPECT_NE(read(25, 20, "a", {"x", 10}, serializable).find("in between"), std::string::npos);
  const auto snapshot = [](Attempt& a) {
    a.writes["b"] = "skew";
    a.lsn = 60;
  };
  EXPECT_EQ(read(25, 20, "a", {"x", 10}, snapshot), "");
}

}  // namespace
}  // namespace kessai::crash
