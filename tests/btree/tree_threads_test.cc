// SPDX-License-Identifier: Apache-2.0
// Goal: many threads reading, scanning, changing and purging one tree never see a wrong row, never
// fail, and leave a sound tree, in memory and on disk, while checkpoints run without a pause and
// the pool holds a fraction of the data. Method: each key belongs to one thread, neighbours in a
// leaf to different ones, so every thread has an exact model of its own keys; bounded numbers of
// steps.
#include <atomic>
#include <string>
#include <vector>

#include "io/sync.hpp"
#include "tests/btree/world.hpp"

namespace kessai::btree {
namespace {

using test::seed;
using test::World;

constexpr unsigned kThreads = 6;
constexpr std::uint64_t kKeys = 3000;

/// Sanitizers slow everything down.
int scaled(int steps) {
#if defined(KESSAI_DEBUG_CHECKS)
  return steps / 6;
#else
  return steps;
#endif
}

struct Shared {
  World& world;
  std::atomic<Lsn> lsn{1000};
  std::atomic<unsigned> running{kThreads};
  std::atomic<unsigned> failures{0};

  void fail(const std::string& what) {
    if (failures.fetch_add(1) < 5) ADD_FAILURE() << what;
  }
};

/// One client: owns the keys whose number is `me` modulo the threads.
class Client {
 public:
  Client(Shared& shared, unsigned me) : s_(shared), me_(me), random_(seed() * 31 + me) {}

  void run(int steps) {
    for (int i = 0; i < steps && s_.failures.load() == 0; ++i) {
      const auto dice = random_.below(100);
      if (dice < 40) {
        put();
      } else if (dice < 60) {
        remove();
      } else if (dice < 75) {
        purge();
      } else if (dice < 85) {
        get();
      } else if (dice < 95) {
        multi_get();
      } else {
        scan(random_.below(2) == 0);
      }
    }
    s_.running.fetch_sub(1);
  }

  std::map<std::string, std::string> model;

 private:
  std::string key_of(std::uint64_t n) {
    char text[16];
    std::snprintf(text, sizeof text, "k%06u", static_cast<unsigned>(n));
    std::string k = text;
    if (n % 19 == 0) k += std::string(n % 500, 'y');
    return k;
  }
  std::string own_key() {
    // Work moves through the key space, so that leaves fill up and run empty.
    if (random_.below(40) == 0) focus_ = random_.below(kKeys);
    const auto n = (focus_ + random_.below(120)) % kKeys;
    return key_of(n / kThreads * kThreads + me_);
  }
  bool owned(std::string_view key) {
    return std::stoul(std::string(key.substr(1, 6))) % kThreads == me_;
  }

  void put() {
    std::string k = own_key();
    const auto kind = random_.below(100);
    std::string v(kind < 70   ? random_.below(200)
                  : kind < 96 ? random_.below(1000)
                              : random_.below(15000),
                  '\0');
    for (auto& c : v) c = static_cast<char>(random_.next());
    change(k, &v);
    model[std::move(k)] = std::move(v);
  }
  void remove() {
    const auto it = model.lower_bound(own_key());
    if (it == model.end()) return;
    const std::string k = it->first;
    const Lsn lsn = change(k, nullptr);
    ghosts_.emplace_back(k, lsn);
    model.erase(it);
  }
  Lsn change(const std::string& k, const std::string* v) {
    PageStore& store = *s_.world.store;
    Shadows shadows(store);
    OverflowPages pages;
    Change c;
    c.key = k;
    c.remove = v == nullptr;
    const std::uint64_t claim = Tree::kClaimPerChange + (v != nullptr ? v->size() / 4000 + 1 : 0);
    if (auto r = store.claim(claim); !r) s_.fail("claim: " + r.error().message());
    if (v != nullptr) {
      c.value = *v;
      if (!fits_inline(k.size(), v->size())) {
        if (auto r = s_.world.tree->prepare_overflow(*v, pages); !r)
          s_.fail("prepare: " + r.error().message());
        c.overflow = &pages;
      }
    }
    c.lsn = s_.lsn.fetch_add(1);
    if (auto r = s_.world.tree->apply(c, {}, shadows, nullptr); !r)
      s_.fail("apply: " + r.error().message());
    store.unclaim(claim);
    return c.lsn;
  }
  void purge() {
    Shadows shadows(*s_.world.store);
    for (int n = 0; n < 6 && !ghosts_.empty(); ++n) {
      const auto [k, lsn] = ghosts_.back();
      ghosts_.pop_back();
      if (auto r = s_.world.tree->purge_ghost(k, lsn, shadows); !r)
        s_.fail("purge: " + r.error().message());
    }
  }
  void judge(const std::string& k, const Result<Tree::Record>& r, const std::string& value) {
    if (!r) return s_.fail("get: " + r.error().message());
    const auto it = model.find(k);
    const bool there = r->present && !is_ghost(r->tag);
    if (there != (it != model.end())) return s_.fail("presence of " + k);
    if (there && value != it->second) s_.fail("value of " + k);
  }
  void get() {
    std::string value;
    for (int n = 0; n < 4; ++n) {
      const std::string k = own_key();
      judge(k, s_.world.tree->get(k, &value), value);
    }
  }
  void multi_get() {
    std::vector<std::string> keys(20), values(20);
    std::vector<Tree::Lookup> lookups;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      keys[i] = key_of(random_.below(kKeys / kThreads) * kThreads + me_);
      lookups.push_back({keys[i], &values[i]});
    }
    s_.world.tree->multi_get(lookups);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      judge(keys[i],
            lookups[i].status ? Result<Tree::Record>(lookups[i].record)
                              : std::unexpected(lookups[i].status.error()),
            values[i]);
    }
  }
  void scan(bool reverse) {
    const std::string from = own_key();
    const std::string to = from.substr(0, 4) + "999";
    if (to <= from) return;
    TreeCursor cursor(*s_.world.tree, from, to, reverse);
    TreeCursor::Row row;
    std::map<std::string, std::string> seen;
    std::string last;
    for (;;) {
      auto more = cursor.next(row);
      if (!more) return s_.fail("scan: " + more.error().message());
      if (!*more) break;
      if (!last.empty() && (reverse ? row.key >= last : row.key <= last))
        return s_.fail("scan out of order");
      last = row.key;
      if (is_ghost(row.tag) || !owned(row.key)) continue;
      std::string v(row.value);
      if (is_overflow(row.tag)) {
        auto whole = cursor.overflow_value(row, v);
        if (!whole || !*whole) return s_.fail("overflow of " + last);
      }
      seen[last] = v;
    }
    const std::map<std::string, std::string> expected(model.lower_bound(from),
                                                      model.lower_bound(to));
    if (seen != expected) s_.fail("scan from " + from + " to " + to + " sees other rows");
  }

  Shared& s_;
  const unsigned me_;
  io::SeededRandom random_;
  std::uint64_t focus_ = 0;
  std::vector<std::pair<std::string, Lsn>> ghosts_;
};

void checkpoints(Shared& s) {
  while (s.running.load() > 0 && s.failures.load() == 0) {
    s.world.store->begin_checkpoint(false);
    while (s.world.store->checkpoint_running()) {
      if (auto r = s.world.store->checkpoint_step(); !r)
        return s.fail("checkpoint: " + r.error().message());
    }
  }
}

void reclaims(Shared& s) {
  Shadows shadows(*s.world.store);
  while (s.running.load() > 0 && s.failures.load() == 0) {
    auto more = reclaim_step(*s.world.context, shadows);
    if (!more) return s.fail("reclaim: " + more.error().message());
    if (!*more) io::yield_thread();
  }
}

void rounds(std::uint64_t memory, int steps) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed()));
  World w(memory);
  w.context->horizon = [] { return kMaxLsn; };
  Shared shared{w};
  std::vector<std::unique_ptr<Client>> clients;
  for (unsigned t = 0; t < kThreads; ++t) clients.push_back(std::make_unique<Client>(shared, t));
  for (int round = 0; round < 2; ++round) {
    shared.running = kThreads;
    {
      std::vector<io::Thread> threads;
      for (auto& c : clients) threads.emplace_back("client", [&c, steps] { c->run(steps); });
      threads.emplace_back("checkpoints", [&] { checkpoints(shared); });
      threads.emplace_back("reclaims", [&] { reclaims(shared); });
    }
    if (::testing::Test::HasFailure()) return;
    w.model.clear();
    for (auto& c : clients) w.model.insert(c->model.begin(), c->model.end());
    w.reclaim_all();
    ASSERT_NO_FATAL_FAILURE(w.verify());
    ASSERT_TRUE(w.store->checkpoint().has_value());
    ASSERT_NO_FATAL_FAILURE(w.reopen());
    w.context->horizon = [] { return kMaxLsn; };
    ASSERT_NO_FATAL_FAILURE(w.verify());
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(TreeThreads, AgreeWithTheirModelsInASmallPool) { rounds(256 * kPageSize, scaled(12000)); }
TEST(TreeThreads, AgreeWithTheirModelsInMemory) { rounds(8 << 20, scaled(12000)); }

}  // namespace
}  // namespace kessai::btree
