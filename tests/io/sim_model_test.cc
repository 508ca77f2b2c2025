// SPDX-License-Identifier: Apache-2.0
// Goal: no crash state is impossible, and none hides a lost promise. Method: random writes, durable
// writes, flushes and queue traffic over two files; before each operation, every outcome's survivor
// is compared with a simple model that keeps, per sector, the values the medium may hold: the
// durable one, and each one written since that is not certainly replaced. A sector stamped with
// anything else (a value that a flush had replaced, one of a write that was never issued) fails.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sim_disk.hpp"

namespace kessai::io {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kSector = 512;
constexpr std::size_t kBlocks = 8;
constexpr std::size_t kSectors = kBlocks * kBlock / kSector;

std::uint64_t seed_of_run() {
  const char* text = std::getenv("KESSAI_SEED");
  std::uint64_t seed = 0;
  if (text != nullptr) return std::strtoull(text, nullptr, 10);
  system_random().fill(std::as_writable_bytes(std::span(&seed, 1)));
  return seed;
}

struct Sector {
  std::uint64_t durable = 0;
  std::vector<std::uint64_t> completed;  // volatile, oldest first
};

struct UnderWay {
  int file = 0;
  std::size_t block = 0;
  std::size_t blocks = 0;
  std::uint64_t stamp = 0;
  bool durable = false;
  AlignedBuffer buffer;
};

class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed), disk_(random_.next()), dir_(disk_.attach()) {
    for (const auto* name : kNames) {
      files_.push_back(std::move(dir_->open(name, OpenMode::create_new).value()));
      EXPECT_TRUE(files_.back()->resize(kBlocks * kBlock));
      EXPECT_TRUE(files_.back()->flush());
    }
    EXPECT_TRUE(dir_->flush());
    queue_ = std::move(dir_->make_queue(4).value());
    disk_.set_observer(
        [this](std::uint64_t op, std::string_view, std::string_view) { check_all(op); });
  }

  void step() {
    switch (random_.below(6)) {
      case 0:
      case 1:
        return write();
      case 2:
        return flush();
      case 3:
      case 4:
        return enqueue();
      default:
        return reap(static_cast<unsigned>(random_.below(queue_->in_flight() + 1)));
    }
  }
  void finish() { reap(queue_->in_flight()); }
  [[nodiscard]] std::size_t states() const { return states_.size(); }

 private:
  static constexpr const char* kNames[] = {"a", "b"};

  AlignedBuffer stamped(std::size_t blocks) {
    ++stamp_;
    AlignedBuffer b(blocks * kBlock);
    for (std::size_t i = 0; i < b.size(); i += 8) std::memcpy(b.data() + i, &stamp_, 8);
    return b;
  }
  std::size_t some_blocks(std::size_t from) { return 1 + random_.below(kBlocks - from); }
  template <class F>
  void each_sector(int file, std::size_t block, std::size_t blocks, F f) {
    for (std::size_t s = block * 8; s < (block + blocks) * 8; ++s) f(sectors_[file][s]);
  }

  void write() {
    const int file = static_cast<int>(random_.below(2));
    const std::size_t block = random_.below(kBlocks);
    const std::size_t blocks = some_blocks(block);
    const auto b = stamped(blocks);
    ASSERT_TRUE(files_[file]->write(block * kBlock, b.span()));
    each_sector(file, block, blocks, [&](Sector& s) { s.completed.push_back(stamp_); });
  }

  void flush() {
    const int file = static_cast<int>(random_.below(2));
    ASSERT_TRUE(files_[file]->flush());
    each_sector(file, 0, kBlocks, [](Sector& s) {
      if (!s.completed.empty()) s.durable = s.completed.back();
      s.completed.clear();
    });
  }

  void enqueue() {
    if (queue_->in_flight() == queue_->depth()) return;
    const int file = static_cast<int>(random_.below(2));
    const std::size_t block = random_.below(kBlocks);
    const std::size_t blocks = some_blocks(block);
    const bool durable = random_.below(2) == 0;
    auto b = stamped(blocks);
    const std::span<const std::byte> bytes = b.span();
    under_way_[stamp_] = {file, block, blocks, stamp_, durable, std::move(b)};
    if (durable) {
      queue_->write_durable(*files_[file], block * kBlock, bytes, stamp_);
    } else {
      queue_->write(*files_[file], block * kBlock, bytes, stamp_);
    }
    if (random_.below(2) == 0) queue_->submit();
  }

  void reap(unsigned wait_for) {
    // The model learns of completions one operation late: allowed values stay a superset meanwhile,
    // because what completed is still in under_way_. Durable promises count from the answer.
    std::vector<Queue::Completion> done;
    ASSERT_GE(queue_->reap(done, wait_for), wait_for);
    for (const auto& c : done) {
      ASSERT_TRUE(c.result);
      const UnderWay u = std::move(under_way_.at(c.tag));
      under_way_.erase(c.tag);
      each_sector(u.file, u.block, u.blocks, [&](Sector& s) {
        if (u.durable) {
          s.durable = u.stamp;
          s.completed.clear();
        } else {
          s.completed.push_back(u.stamp);
        }
      });
    }
  }

  void check_all(std::uint64_t op) {
    for (const CrashOutcome o : kCrashOutcomes) {
      const SimDisk s = disk_.survivor(o, op);
      states_.insert(s.image_hash());
      for (int file = 0; file < 2; ++file) check(o, op, file, s.file_bytes(kNames[file]));
    }
  }

  void check(CrashOutcome o, std::uint64_t op, int file, const std::vector<std::byte>& bytes) {
    ASSERT_EQ(bytes.size(), kBlocks * kBlock);
    for (std::size_t i = 0; i < kSectors; ++i) {
      const Sector& sector = sectors_[file][i];
      std::set<std::uint64_t> allowed{sector.durable};
      bool may_tear = !sector.completed.empty();
      for (const auto stamp : sector.completed) {
        if (o != CrashOutcome::none && o != CrashOutcome::metadata_only) allowed.insert(stamp);
      }
      // While a reap is under way, later completions of the same call may already be applied.
      for (const auto& [stamp, u] : under_way_) {
        if (u.file != file || i < u.block * 8 || i >= (u.block + u.blocks) * 8) continue;
        allowed.insert(stamp);
        may_tear = true;
      }
      std::set<std::uint64_t> found;
      for (std::size_t at = i * kSector; at < (i + 1) * kSector; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, 8);
        found.insert(word);
      }
      if (o == CrashOutcome::torn_last && may_tear) {
        allowed.insert(0);  // a zeroed sector
      } else {
        ASSERT_EQ(found.size(), 1U)
            << outcome_name(o) << " op " << op << " tore inside sector " << i;
      }
      for (const auto word : found) {
        ASSERT_TRUE(allowed.contains(word)) << outcome_name(o) << " op " << op << " file "
                                            << kNames[file] << " sector " << i << " holds " << word;
      }
    }
  }

  SeededRandom random_;
  SimDisk disk_;
  std::unique_ptr<Directory> dir_;
  std::vector<std::unique_ptr<File>> files_;
  std::unique_ptr<Queue> queue_;
  std::uint64_t stamp_ = 0;
  std::map<int, std::map<std::size_t, Sector>> sectors_;
  std::map<std::uint64_t, UnderWay> under_way_;
  std::set<std::uint64_t> states_;
};

TEST(SimModel, SurvivorsHoldOnlyWhatTheMediumMayHold) {
  const std::uint64_t seed = seed_of_run();
  SCOPED_TRACE(testing::Message() << "KESSAI_SEED=" << seed);
  std::size_t states = 0;
  for (int run = 0; run < 20 && !testing::Test::HasFailure(); ++run) {
    Model model(seed + static_cast<std::uint64_t>(run));
    for (int i = 0; i < 40 && !testing::Test::HasFailure(); ++i) model.step();
    if (!testing::Test::HasFailure()) model.finish();
    states += model.states();
  }
  EXPECT_GT(states, 1000U);
}

}  // namespace
}  // namespace kessai::io
