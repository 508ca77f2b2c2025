// SPDX-License-Identifier: Apache-2.0
// One suite for all back ends: what io/file.hpp promises holds for io_uring, posix and the
// simulated disk alike.
#include "io/file.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sim_disk.hpp"
#include "io/sync.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai::io {
namespace {

constexpr std::size_t kBlock = 4096;
using Completions = std::vector<Queue::Completion>;

class FileSuite : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (GetParam() == Backend::simulated) {
      dir_ = disk_.attach();
      return;
    }
    auto opened = open_directory(temp_.path(), {.backend = GetParam(), .create = false, .log = {}});
    if (!opened && opened.error() == Code::not_supported) GTEST_SKIP() << opened.error().message();
    ASSERT_TRUE(opened) << opened.error().message();
    dir_ = std::move(*opened);
  }

  std::unique_ptr<File> open(std::string_view name, OpenMode mode = OpenMode::create_new) {
    auto f = dir_->open(name, mode);
    EXPECT_TRUE(f) << f.error().message();
    return f ? std::move(*f) : nullptr;
  }

  std::unique_ptr<Queue> queue(unsigned depth) {
    return std::move(dir_->make_queue(depth).value());
  }

  static AlignedBuffer filled(std::size_t bytes, unsigned char with) {
    AlignedBuffer b(bytes);
    std::memset(b.data(), with, bytes);
    return b;
  }

  static void expect_ok(const Result<void>& r) { EXPECT_TRUE(r) << r.error().message(); }

  test::TempDir temp_;
  SimDisk disk_;
  std::unique_ptr<Directory> dir_;
};

TEST_P(FileSuite, ReportsItsBackend) {
  EXPECT_EQ(dir_->backend(), GetParam());
  EXPECT_GE(dir_->block_size(), 512U);
  EXPECT_LE(dir_->block_size(), kBlock);
}

TEST_P(FileSuite, ReadsBackWhatWasWritten) {
  const auto file = open("a");
  const auto x = filled(3 * kBlock, 0x11);
  const auto y = filled(kBlock, 0x22);
  expect_ok(file->write(0, x.span()));
  expect_ok(file->write(kBlock, y.span()));
  expect_ok(file->flush());
  EXPECT_EQ(*file->size(), 3 * kBlock);
  AlignedBuffer back(3 * kBlock);
  expect_ok(file->read(0, back.span()));
  EXPECT_EQ(std::memcmp(back.data(), x.data(), kBlock), 0);
  EXPECT_EQ(std::memcmp(back.data() + kBlock, y.data(), kBlock), 0);
  EXPECT_EQ(std::memcmp(back.data() + 2 * kBlock, x.data(), kBlock), 0);
}

TEST_P(FileSuite, CreationIsExclusiveAndOpeningNeedsTheFile) {
  EXPECT_EQ(dir_->open("a", OpenMode::read_write).error(), Code::store_missing);
  EXPECT_EQ(dir_->open("a", OpenMode::read_only).error(), Code::store_missing);
  (void)open("a");
  const auto again = dir_->open("a", OpenMode::create_new);
  EXPECT_EQ(again.error(), Code::store_exists);
  EXPECT_NE(again.error().message().find("/a"), std::string::npos);
  (void)open("a", OpenMode::read_write);
}

TEST_P(FileSuite, NamesStayInsideTheDirectory) {
  for (const auto* name : {"", ".", "..", "a/b", "/a"}) {
    EXPECT_EQ(dir_->open(name, OpenMode::create_new).error(), Code::invalid_argument) << name;
    EXPECT_EQ(dir_->remove(name).error(), Code::invalid_argument) << name;
    EXPECT_EQ(dir_->rename("a", name).error(), Code::invalid_argument) << name;
  }
}

// Goal: a truncated file is damage with a place, never a short or zero answer, and never a hang
// . Method: read at, across and beyond the end, directly and queued, also an unaligned end.
TEST_P(FileSuite, ReadingPastTheEndIsDamageWithFileAndOffset) {
  const auto file = open("a");
  expect_ok(file->resize(2 * kBlock));
  AlignedBuffer b(4 * kBlock);
  const auto q = queue(1);
  Completions done;
  for (const std::uint64_t size : {2 * kBlock, 2 * kBlock - 100}) {
    expect_ok(file->resize(size));
    for (const std::uint64_t offset :
         {std::uint64_t{kBlock}, std::uint64_t{2 * kBlock}, std::uint64_t{1} << 30}) {
      const auto r = file->read(offset, b.span());
      ASSERT_FALSE(r) << offset;
      EXPECT_EQ(r.error(), Code::damaged) << r.error().message();
      EXPECT_EQ(r.error().detail().path, file->path());
      EXPECT_GE(r.error().detail().offset, offset);
      q->read(*file, offset, b.span(), 7);
      ASSERT_EQ(q->reap(done, 1), 1U);
      EXPECT_EQ(done.back().tag, 7U);
      ASSERT_FALSE(done.back().result);
      EXPECT_EQ(done.back().result.error(), Code::damaged) << done.back().result.error().message();
    }
  }
}

TEST_P(FileSuite, GrowthReadsAsZeroAndTruncationForgets) {
  const auto file = open("a");
  expect_ok(file->write(0, filled(4 * kBlock, 0xee).span()));
  expect_ok(file->resize(kBlock));
  EXPECT_EQ(*file->size(), kBlock);
  expect_ok(file->resize(1 << 20));
  EXPECT_EQ(*file->size(), 1U << 20);
  AlignedBuffer b = filled((1 << 20) - kBlock, 0x55);
  expect_ok(file->read(kBlock, b.span()));
  for (const std::byte x : b.span()) ASSERT_EQ(x, std::byte{0});
}

TEST_P(FileSuite, ReadOnlyFilesRefuseWritesAndCanBeLocked) {
  expect_ok(open("a")->resize(kBlock));
  const auto file = open("a", OpenMode::read_only);
  auto b = filled(kBlock, 1);
  EXPECT_EQ(file->write(0, b.span()).error(), Code::read_only);
  EXPECT_EQ(file->resize(0).error(), Code::read_only);
  const auto q = queue(2);
  q->write(*file, 0, b.span(), 1);
  q->write_durable(*file, 0, b.span(), 2);
  EXPECT_EQ(q->in_flight(), 2U);
  Completions done;
  EXPECT_EQ(q->reap(done, 2), 2U);
  for (const auto& c : done) EXPECT_EQ(c.result.error(), Code::read_only);
  expect_ok(file->read(0, b.span()));
  expect_ok(file->lock(0));
}

TEST_P(FileSuite, RenameReplacesRemoveForgetsListIsSorted) {
  expect_ok(open("b")->write(0, filled(kBlock, 0xb).span()));
  expect_ok(open("a")->write(0, filled(kBlock, 0xa).span()));
  (void)open("c");
  EXPECT_EQ(*dir_->list(), (std::vector<std::string>{"a", "b", "c"}));
  expect_ok(dir_->rename("b", "a"));
  expect_ok(dir_->remove("c"));
  expect_ok(dir_->flush());
  EXPECT_EQ(*dir_->list(), (std::vector<std::string>{"a"}));
  AlignedBuffer back(kBlock);
  expect_ok(open("a", OpenMode::read_write)->read(0, back.span()));
  EXPECT_EQ(back.data()[0], std::byte{0xb});
  EXPECT_EQ(dir_->remove("c").error(), Code::store_missing);
  EXPECT_EQ(dir_->rename("c", "d").error(), Code::store_missing);
}

TEST_P(FileSuite, AnOpenFileOutlivesItsName) {
  const auto file = open("a");
  expect_ok(file->write(0, filled(kBlock, 1).span()));
  expect_ok(dir_->remove("a"));
  expect_ok(dir_->flush());
  AlignedBuffer back(kBlock);
  expect_ok(file->read(0, back.span()));
  expect_ok(file->flush());
}

// Goal: every tag comes back once, every byte lands, in any mix of submit, poll and wait. Method:
// random batches over a few depths; afterwards compare the file with a map.
TEST_P(FileSuite, QueuesMoveEveryByteOnce) {
  const auto file = open("a");
  constexpr unsigned kBlocks = 64;
  expect_ok(file->resize(kBlocks * kBlock));
  SeededRandom random(7);
  for (const unsigned depth : {1U, 3U, 32U}) {
    const auto q = queue(depth);
    ASSERT_EQ(q->depth(), depth);
    std::vector<AlignedBuffer> buffers;
    for (unsigned i = 0; i < depth; ++i) buffers.emplace_back(kBlock);
    std::map<unsigned, unsigned char> content;  // block -> byte
    std::map<std::uint64_t, unsigned> under_way;
    std::vector<unsigned> free;
    for (unsigned i = 0; i < depth; ++i) free.push_back(i);
    const int writes = GetParam() == Backend::simulated ? 500 : 200;
    for (int n = 0; n < writes || !under_way.empty();) {
      if (n < writes && !free.empty() && random.below(3) != 0) {
        const auto block = static_cast<unsigned>(random.below(kBlocks));
        bool busy = false;
        for (const auto& [tag, b] : under_way) busy = busy || b == block;
        if (busy) continue;
        const unsigned slot = free.back();
        free.pop_back();
        const auto fill = static_cast<unsigned char>(n);
        std::memset(buffers[slot].data(), fill, kBlock);
        if (random.below(8) == 0) {
          q->write_durable(*file, block * kBlock, buffers[slot].span(), slot);
        } else {
          q->write(*file, block * kBlock, buffers[slot].span(), slot);
        }
        content[block] = fill;
        under_way[slot] = block;
        ++n;
      }
      if (random.below(4) == 0) q->submit();
      ASSERT_EQ(q->in_flight(), under_way.size());
      Completions done;
      const auto wait =
          random.below(3) == 0 || free.empty() ? random.below(under_way.size() + 1) : 0;
      if (random.below(2) == 0 || wait > 0) {
        ASSERT_GE(q->reap(done, static_cast<unsigned>(wait)), wait);
      }
      for (const auto& c : done) {
        expect_ok(c.result);
        ASSERT_EQ(under_way.erase(c.tag), 1U);
        free.push_back(static_cast<unsigned>(c.tag));
      }
    }
    EXPECT_EQ(q->in_flight(), 0U);
    for (const auto& [block, fill] : content) {
      q->read(*file, block * kBlock, buffers[0].span(), 0);
      Completions done;
      ASSERT_EQ(q->reap(done, 1), 1U);
      expect_ok(done[0].result);
      EXPECT_EQ(buffers[0].data()[kBlock - 1], std::byte{fill});
    }
  }
}

TEST_P(FileSuite, DurableWritesAcceptBothMethods) {
  const auto file = open("a");
  expect_ok(file->resize(16 * kBlock));
  expect_ok(calibrate_durable_write(*dir_));
  EXPECT_EQ(*dir_->list(), std::vector<std::string>{"a"});  // the scratch file is gone
  const auto q = queue(2);
  const auto b = filled(4 * kBlock, 9);
  for (int i = 0; i < 4; ++i) {
    q->write_durable(*file, 0, b.span(), 1);
    q->write_durable(*file, 8 * kBlock, b.span(), 2);
    q->submit();
    Completions done;
    EXPECT_EQ(q->reap(done, 2), 2U);
    for (const auto& c : done) expect_ok(c.result);
  }
}

// Goal: a queue belongs to one thread at a time, not to one thread. Method: one thread submits and
// ends at once, another reaps; a request that its death cancelled must have been done nevertheless.
TEST_P(FileSuite, QueuesOutliveTheThreadThatSubmitted) {
  const auto file = open("a");
  constexpr unsigned kDepth = 16;
  const auto q = queue(kDepth);
  const auto b = filled(kBlock, 3);
  for (int round = 0; round < 5; ++round) {
    Thread([&] {
      return Thread("submitter", [&] {
        for (unsigned i = 0; i < kDepth; ++i) q->write_durable(*file, i * kBlock, b.span(), i);
        q->submit();
      });
    }())
        .join();
    Completions done;
    EXPECT_EQ(q->reap(done, kDepth), kDepth);
    for (const auto& c : done) expect_ok(c.result);
  }
}

TEST_P(FileSuite, DestroyingAQueueDrainsIt) {
  const auto file = open("a");
  expect_ok(file->resize(64 * kBlock));
  for (int round = 0; round < 4; ++round) {
    auto q = queue(8);
    AlignedBuffer b = filled(8 * kBlock, static_cast<unsigned char>(0x40 + round));
    for (unsigned i = 0; i < 8; ++i) {
      if (i == 4) q->submit();  // the others stay prepared and are forgotten
      q->write(*file, i * kBlock, b.span().subspan(i * kBlock, kBlock), i);
    }
    q.reset();
    std::memset(b.data(), 0xff, b.size());
    AlignedBuffer back(4 * kBlock);
    expect_ok(file->read(0, back.span()));
    for (const std::byte x : back.span()) ASSERT_EQ(x, std::byte(0x40 + round));
  }
}

TEST_P(FileSuite, OneProcessCannotLockAFileTwice) {
  auto first = open("a");
  const auto second = open("a", OpenMode::read_write);
  expect_ok(first->lock(0));
  expect_ok(first->lock(0));  // holding it is no conflict
  // At once, whatever the time-out: nobody else can end this wait.
  const auto refused = second->lock(3'600'000'000'000);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Code::locked);
  EXPECT_NE(refused.error().message().find(second->path()), std::string::npos);
  first.reset();
  expect_ok(second->lock(0));
}

TEST_P(FileSuite, QueueDepthIsChecked) {
  EXPECT_EQ(dir_->make_queue(0).error(), Code::invalid_argument);
  EXPECT_EQ(dir_->make_queue(1 << 20).error(), Code::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Backends, FileSuite,
                         testing::Values(Backend::uring, Backend::posix, Backend::simulated),
                         [](const auto& backend) {
                           return backend.param == Backend::uring   ? "uring"
                                  : backend.param == Backend::posix ? "posix"
                                                                    : "simulated";
                         });

}  // namespace
}  // namespace kessai::io
