// SPDX-License-Identifier: Apache-2.0
// What only real files can show: permissions, locks between processes, short writes, refused rings.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "io/env.hpp"
#include "io/file.hpp"
#include "io/memory.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai::io {
namespace {

using test::in_child;
using test::TempDir;

constexpr std::size_t kBlock = 4096;
constexpr std::uint64_t kSecond = 1'000'000'000;
using Completions = std::vector<Queue::Completion>;

class OsSuite : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    auto opened = open_directory(path(), {.backend = GetParam(), .create = true, .log = {}});
    if (!opened && opened.error() == Code::not_supported) GTEST_SKIP() << opened.error().message();
    ASSERT_TRUE(opened) << opened.error().message();
    dir_ = std::move(*opened);
  }
  [[nodiscard]] std::string path(const std::string& name = "") const {
    return temp_.path() + "/store/" + name;
  }
  [[nodiscard]] unsigned mode_of(const std::string& p) const {
    struct stat st{};
    EXPECT_EQ(::stat(p.c_str(), &st), 0);
    return st.st_mode & 07777;
  }

  TempDir temp_;
  std::unique_ptr<Directory> dir_;
};

TEST_P(OsSuite, StoresAreForTheirOwnerOnly) {
  const mode_t old = ::umask(0);
  ASSERT_TRUE(dir_->open("a", OpenMode::create_new));
  ASSERT_TRUE(
      open_directory(temp_.path() + "/other", {.backend = GetParam(), .create = true, .log = {}}));
  ::umask(old);
  EXPECT_EQ(mode_of(path("a")), 0600U);
  EXPECT_EQ(mode_of(temp_.path() + "/other"), 0700U);
}

TEST_P(OsSuite, MissingDirectoriesAreNamed) {
  const auto r =
      open_directory(temp_.path() + "/none", {.backend = GetParam(), .create = false, .log = {}});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error(), Code::store_missing);
  EXPECT_NE(r.error().message().find("/none"), std::string::npos);
}

// Goal: no file of somebody else is ever opened through the store directory, and a FIFO does not
// hang the open.
TEST_P(OsSuite, OnlyRegularFilesAreOpened) {
  {
    std::fclose(std::fopen((temp_.path() + "/victim").c_str(), "w"));
  }
  ASSERT_EQ(::symlink((temp_.path() + "/victim").c_str(), path("link").c_str()), 0);
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  ASSERT_EQ(::mkdir(path("dir").c_str(), 0700), 0);
  for (const auto* name : {"link", "fifo", "dir"}) {
    for (const auto mode : {OpenMode::read_only, OpenMode::read_write}) {
      const auto r = dir_->open(name, mode);
      ASSERT_FALSE(r) << name;
      EXPECT_EQ(r.error(), Code::permission_denied) << r.error().message();
    }
    EXPECT_EQ(dir_->open(name, OpenMode::create_new).error(), Code::store_exists) << name;
  }
}

TEST_P(OsSuite, DescriptorsAreClosedOnExecAndDirectWherePossible) {
  const auto file = std::move(dir_->open("a", OpenMode::create_new).value());
  bool found = false;
  for (int fd = 3; fd < 64; ++fd) {
    char target[512] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (::readlink(link.c_str(), target, sizeof target - 1) < 0 ||
        file->path().find(target) == std::string::npos) {
      if (std::string_view(target).ends_with("/a") == false) continue;
    }
    found = true;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  }
  EXPECT_TRUE(found);
}

// Goal: a short write is driven on and the reason of its end is told: never a silent half (rule of
// short transfers). Method: RLIMIT_FSIZE makes a real one of 8 of 64 KiB; the next attempt, at the
// right place, gets EFBIG. A durable write that failed so poisons the file's flushes.
TEST_P(OsSuite, ShortWritesAreDrivenOnAndFailuresOfDurableOnesStick) {
  const int code = in_child([this] {
    ::signal(SIGXFSZ, SIG_IGN);
    auto opened = open_directory(path(), {.backend = GetParam(), .create = false, .log = {}});
    if (!opened) return 1;
    auto file = std::move((*opened)->open("a", OpenMode::create_new).value());
    auto other = std::move((*opened)->open("b", OpenMode::create_new).value());
    auto q = std::move((*opened)->make_queue(4).value());
    const AlignedBuffer b(16 * kBlock);
    const rlimit small{.rlim_cur = 2 * kBlock, .rlim_max = RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &small) != 0) return 2;
    auto is_full = [](const Result<void>& r, std::uint64_t offset) {
      return !r && r.error() == Code::disk_full && r.error().os_error() == EFBIG &&
             r.error().detail().offset == offset;
    };
    if (!is_full(file->write(0, b.span()), 2 * kBlock)) return 3;
    if (*file->size() != 2 * kBlock) return 4;
    Completions done;
    q->write(*file, 0, b.span(), 1);
    q->reap(done, 1);
    if (!is_full(done[0].result, 2 * kBlock)) return 5;
    if (file->resize(16 * kBlock).error() != Code::disk_full || *file->size() != 2 * kBlock)
      return 6;
    if (!file->flush()) return 7;  // plain writes that failed do not poison
    q->write_durable(*file, 0, b.span(), 2);
    done.clear();
    q->reap(done, 1);
    if (!is_full(done[0].result, 2 * kBlock)) return 8;
    const rlimit large{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &large) != 0) return 9;
    if (file->flush() || file->flush()) return 10;
    q->write_durable(*file, 0, b.span(), 3);
    done.clear();
    q->reap(done, 1);
    if (done[0].result) return 11;
    if (!file->write(0, b.span())) return 12;
    if (!other->write(0, b.span()) || !other->flush()) return 13;  // the failure is the file's own
    return 0;
  });
  EXPECT_EQ(code, 0);
}

// Goal: I13 between processes. Method: a child holds the lock until it is killed; before that a
// bounded wait ends with `locked`, and a wait during which the child dies succeeds.
TEST_P(OsSuite, LocksExcludeOtherProcessesUntilTheyAreGone) {
  auto file = std::move(dir_->open("a", OpenMode::create_new).value());
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto opened = open_directory(path(), {.backend = GetParam(), .create = false, .log = {}});
    auto mine = std::move((*opened)->open("a", OpenMode::read_only).value());
    const char ok = mine->lock(0) ? 'y' : 'n';
    if (::write(ready[1], &ok, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  EXPECT_EQ(ok, 'y');
  EXPECT_EQ(file->lock(0).error(), Code::locked);
  const auto refused = file->lock(3'000'000);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Code::locked);
  EXPECT_NE(refused.error().message().find(file->path()), std::string::npos);
  ::kill(child, SIGKILL);
  const auto locked =
      file->lock(20 * kSecond);  // not waitpid first: the kernel decides when it is free
  EXPECT_TRUE(locked) << locked.error().message();
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

// Goal: the zombie lock at its root: closing the file while requests are under way must not
// let a successor in, so the lock may only live on the descriptor that does the I/O. Method: after
// the owner closed everything, the lock is free at once; nothing else of the process keeps it.
TEST_P(OsSuite, ClosingTheFileFreesItsLock) {
  for (int round = 0; round < 10; ++round) {
    auto file = std::move(dir_->open("r" + std::to_string(round), OpenMode::create_new).value());
    ASSERT_TRUE(file->lock(0));
    auto q = std::move(dir_->make_queue(8).value());
    const AlignedBuffer b(kBlock);
    for (unsigned i = 0; i < 8; ++i) q->write_durable(*file, i * kBlock, b.span(), i);
    q->submit();
    q.reset();
    file.reset();
    EXPECT_EQ(in_child([&] {
                auto opened =
                    open_directory(path(), {.backend = Backend::posix, .create = false, .log = {}});
                auto f = std::move(
                    (*opened)->open("r" + std::to_string(round), OpenMode::read_write).value());
                return f->lock(10 * kSecond) ? 0 : 1;
              }),
              0);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, OsSuite, testing::Values(Backend::uring, Backend::posix),
                         [](const auto& backend) {
                           return backend.param == Backend::uring ? "uring" : "posix";
                         });

/// From now on this process gets `error` for the system call `nr`.
bool deny_syscall(unsigned nr, unsigned error) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = sizeof code / sizeof code[0], .filter = code};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

int works_without_ring(const std::string& path, std::string_view must_say) {
  std::vector<std::string> lines;
  auto opened = open_directory(path, {.backend = Backend::automatic,
                                      .create = true,
                                      .log = [&](std::string_view l) { lines.emplace_back(l); }});
  if (!opened) return 1;
  if ((*opened)->backend() != Backend::posix) return 2;
  if (lines.size() != 1 || lines[0].find(must_say) == std::string::npos) return 3;
  if (lines[0].find("posix back end") == std::string::npos) return 4;
  auto file = std::move((*opened)->open("a", OpenMode::create_new).value());
  auto q = std::move((*opened)->make_queue(4).value());
  const AlignedBuffer b(kBlock);
  q->write_durable(*file, 0, b.span(), 1);
  Completions done;
  if (q->reap(done, 1) != 1 || !done[0].result) return 5;
  const auto demanded =
      open_directory(path, {.backend = Backend::uring, .create = false, .log = {}});
  if (demanded || demanded.error() != Code::not_supported) return 6;
  if (demanded.error().message().find(must_say) == std::string::npos) return 7;
  return 0;
}

// Goal: containers refuse io_uring; kessai then works and says why, once. Method: a child under a
// seccomp filter that answers as the usual run-times do; also one that refuses only the use.
TEST(Fallback, RefusedRingsGiveThePosixBackEndAndOneLogLine) {
  const TempDir temp;
  struct Case {
    unsigned nr;
    unsigned error;
    const char* must_say;
  };
  int n = 0;
  for (const Case& c :
       {Case{SYS_io_uring_setup, EPERM, "seccomp"}, Case{SYS_io_uring_setup, ENOSYS, "no io_uring"},
        Case{SYS_io_uring_setup, ENOMEM, "RLIMIT_MEMLOCK"},
        Case{SYS_io_uring_enter, EPERM, "seccomp"},
        Case{SYS_io_uring_register, EACCES, "io_uring"}}) {
    const std::string path = temp.path() + "/s" + std::to_string(n++);
    EXPECT_EQ(in_child([&] {
                return deny_syscall(c.nr, c.error) ? works_without_ring(path, c.must_say) : 99;
              }),
              0)
        << c.must_say;
  }
}

// Goal: a ring that is refused later (descriptors or memory ran out) costs the ring, not the store.
TEST(Fallback, AQueueFallsBackByItself) {
  const TempDir temp;
  const int code = in_child([&] {
    std::vector<std::string> lines;
    auto opened =
        open_directory(temp.path(), {.backend = Backend::automatic,
                                     .create = false,
                                     .log = [&](std::string_view l) { lines.emplace_back(l); }});
    if (!opened || (*opened)->backend() != Backend::uring) return 77;
    if (!deny_syscall(SYS_io_uring_setup, EPERM)) return 99;
    auto file = std::move((*opened)->open("a", OpenMode::create_new).value());
    auto q = (*opened)->make_queue(4);
    if (!q || lines.size() != 1) return 1;
    const AlignedBuffer b(kBlock);
    (*q)->write_durable(*file, 0, b.span(), 1);
    Completions done;
    return (*q)->reap(done, 1) == 1 && done[0].result ? 0 : 2;
  });
  if (code == 77) GTEST_SKIP() << "no io_uring here";
  EXPECT_EQ(code, 0);
}

// Goal: a ring whose kernel entry is taken away while it is in use fails its operations and ends.
TEST(Fallback, ARingThatDiesFailsItsOperations) {
  const TempDir temp;
  const int code = in_child([&] {
    auto opened =
        open_directory(temp.path(), {.backend = Backend::uring, .create = false, .log = {}});
    if (!opened) return 77;
    auto file = std::move((*opened)->open("a", OpenMode::create_new).value());
    auto q = std::move((*opened)->make_queue(4).value());
    const AlignedBuffer b(kBlock);
    if (!deny_syscall(SYS_io_uring_enter, EPERM)) return 99;
    Completions done;
    q->write(*file, 0, b.span(), 1);
    q->write_durable(*file, kBlock, b.span(), 2);
    if (q->reap(done, 2) != 2 || done[0].result || done[1].result) return 1;
    q->read(*file, 0, AlignedBuffer(kBlock).span(), 3);
    if (q->reap(done, 1) != 1 || done[2].result) return 2;
    return file->flush() ? 3 : 0;  // the durable write failed: sticky
  });
  if (code == 77) GTEST_SKIP() << "no io_uring here";
  EXPECT_EQ(code, 0);
}

TEST(Fallback, ASimulatedDirectoryIsNotOpenedByPath) {
  EXPECT_EQ(
      open_directory("/tmp", {.backend = Backend::simulated, .create = false, .log = {}}).error(),
      Code::invalid_argument);
}

}  // namespace
}  // namespace kessai::io
