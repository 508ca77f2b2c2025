// SPDX-License-Identifier: Apache-2.0
// Goal: on a real directory, through the ring and through system calls, what was acknowledged
// survives SIGKILL; a refused ring falls back and says so; one process holds a store at a time; a
// forked child is refused by every handle and harms nobody. Method: forked children, killed at
// seeded moments; they journal their acknowledged keys through a pipe.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "io/env.hpp"
#include "io/sync.hpp"
#include "kessai/kessai.hpp"
#include "tests/engine/model_seed.hpp"
#include "tests/io/temp_dir.hpp"

namespace kessai {
namespace {

std::string key(unsigned round, unsigned i) {
  return "r" + std::to_string(round) + "/" + std::to_string(i);
}
std::string row(const std::string& k, unsigned i) {
  return k + std::string(i % 17 == 0 ? 20'000 : i % 300, static_cast<char>('a' + i % 26));
}

class Backend : public testing::TestWithParam<IoBackend> {
 protected:
  Backend() {
    options.create = true;
    options.memory = 1_MiB;
    options.wal_limit = 1_MiB;
    options.io = GetParam();
  }
  void SetUp() override {
    // Asked in a child: the later children are forked by a process without threads.
    const int refused = io::test::in_child([&] {
      const auto db = Database::open(directory.path() + "/probe", options);
      return !db && db.error() == Code::not_supported ? 1 : 0;
    });
    if (refused == 1) GTEST_SKIP() << "this machine has no io_uring";
  }
  [[nodiscard]] Database open() {
    auto db = Database::open(path, options);
    if (!db) ADD_FAILURE() << db.error().message();
    return std::move(db).value();
  }
  io::test::TempDir directory;
  std::string path = directory.path() + "/store";
  Options options;
};

INSTANTIATE_TEST_SUITE_P(, Backend, testing::Values(IoBackend::uring, IoBackend::posix),
                         [](const auto& p) {
                           return p.param == IoBackend::uring ? "Uring" : "Posix";
                         });

void expect_sound(Database& db) {
  const auto report = db.check();
  ASSERT_TRUE(report.has_value()) << report.error().message();
  for (const auto& d : report->damage) ADD_FAILURE() << d.page << " " << d.what;
}

TEST_P(Backend, RowsOutgrowMemoryAndComeBackAfterReopening) {
  constexpr unsigned kRows = 3000;
  for (unsigned pass = 0; pass < 2; ++pass) {
    Database db = open();
    const Tree t = db.tree("main").value();
    EXPECT_EQ(db.info().io_backend, GetParam() == IoBackend::uring ? "io_uring" : "posix");
    for (unsigned i = 0; i < kRows; i += 100) {
      auto txn = db.begin().value();
      for (unsigned j = i; j < i + 100; ++j) {
        ASSERT_EQ(txn.get(t, key(0, j)).has_value(), pass == 1) << j;
        ASSERT_TRUE(txn.put(t, key(0, j), row(key(0, j), j + pass)).has_value());
      }
      ASSERT_TRUE(txn.commit().has_value());
    }
    EXPECT_GT(db.stats().pages_evicted, 0u);
    std::vector<std::string> keys;
    for (unsigned i = 0; i < kRows; i += 7) keys.push_back(key(0, i));
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    std::vector<Lookup> out(views.size());
    ASSERT_TRUE(db.multi_get(t, views, out).has_value());
    for (unsigned i = 0; i < out.size(); ++i) ASSERT_EQ(out[i].value, row(keys[i], i * 7 + pass));
    EXPECT_EQ(db.tree_info(t).value().records, kRows);
    expect_sound(db);
    ASSERT_TRUE(db.close().has_value());
  }
  Database db = open();
  EXPECT_TRUE(db.info().clean);
  const Tree t = db.tree("main").value();
  for (unsigned i = 0; i < kRows; ++i)
    ASSERT_EQ(db.get(t, key(0, i)).value(), row(key(0, i), i + 1));
}

/// A child process and the pipe it writes to; killed at the end.
class Child {
 public:
  template <class Body>
  explicit Child(Body body) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      body(ends[1]);
      ::_exit(0);
    }
    ::close(ends[1]);
    in_ = ends[0];
  }
  ~Child() {
    kill();
    ::close(in_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  /// The next number it wrote; nothing once it is gone.
  std::optional<unsigned> next() {
    unsigned n = 0;
    return ::read(in_, &n, sizeof n) == sizeof n ? std::optional(n) : std::nullopt;
  }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int in_ = -1;
};

bool tell(int fd, unsigned n) { return ::write(fd, &n, sizeof n) == sizeof n; }

/// Commits rows without end, in every way there is, and tells each one's number once acknowledged.
void commit_for_ever(const std::string& path, const Options& options, unsigned round, int fd) {
  auto db = Database::open(path, options);
  if (!db) ::_exit(1);
  const Tree t = db->tree("main").value();
  const auto work = [&](unsigned from) {
    std::vector<std::pair<unsigned, CommitTicket>> tickets;
    for (unsigned i = from;; i += 2) {
      const std::string k = key(round, i);
      bool ok = true;
      if (i % 4 < 2) {
        ok = db->insert(t, k, row(k, i)).has_value() && tell(fd, i);
      } else {
        auto txn = db->begin().value();
        ok = txn.put(t, k, row(k, i)).has_value() && txn.put(t, k + "+", "with it").has_value();
        if (ok) tickets.emplace_back(i, txn.commit_async().value());
      }
      for (; ok && tickets.size() > 3; tickets.erase(tickets.begin()))
        ok = tickets[0].second.wait().has_value() && tell(fd, tickets[0].first);
      if (!ok) ::_exit(2);
    }
  };
  io::Thread other("other", [&] { work(1); });
  work(0);
}

TEST_P(Backend, AcknowledgedRowsSurviveSigkill) {
  constexpr unsigned kKills = 24;
  const std::uint64_t seed = engine_test::seed();
  SCOPED_TRACE("KESSAI_SEED=" + std::to_string(seed));
  io::SeededRandom random(seed);
  std::vector<std::pair<unsigned, unsigned>> kept;
  {
    Database db = open();
  }
  unsigned dirty = 0;
  for (unsigned round = 0; round < kKills; ++round) {
    {
      Child child([&](int fd) { commit_for_ever(path, options, round, fd); });
      // 0: killed while it opens, perhaps while it recovers from the kill before.
      for (auto n = random.below(4) == 0 ? 0 : 1 + random.below(150); n > 0; --n) {
        const auto i = child.next();
        ASSERT_TRUE(i.has_value()) << "the child ended by itself";
        kept.emplace_back(round, *i);
      }
      child.kill();
      while (const auto i = child.next()) kept.emplace_back(round, *i);
    }
    if (random.below(3) == 0) continue;  // several kills in a row
    Database db = open();
    dirty += db.info().clean ? 0 : 1;
    const Tree t = db.tree("main").value();
    for (const auto& [r, i] : kept) {
      const std::string k = key(r, i);
      ASSERT_EQ(db.get(t, k).value_or("lost"), row(k, i)) << k << " after kill " << round;
      ASSERT_EQ(db.get(t, k + "+").has_value(), i % 4 >= 2) << k;
    }
    if (round % 6 == 5) expect_sound(db);
    ASSERT_TRUE(round % 2 == 0 || db.close().has_value());  // else the destructor closes
  }
  EXPECT_GT(dirty, 0u);
  EXPECT_GT(kept.size(), 100u);
}

TEST_P(Backend, OneProcessAtATimeAndTheNextAfterAKill) {
  options.open_timeout = std::chrono::milliseconds(20);
  {
    Child holder([&](int fd) {
      auto db = Database::open(path, options);
      if (!db || !db->put(db->tree("main").value(), "k", "the holder's")) ::_exit(1);
      tell(fd, 1);
      for (;;) ::pause();
    });
    ASSERT_TRUE(holder.next().has_value());
    for (const bool read_only : {false, true}) {
      Options o = options;
      o.read_only = read_only;
      o.create = !read_only;
      const auto refused = Database::open(path, o);
      ASSERT_FALSE(refused.has_value()) << read_only;
      EXPECT_EQ(refused.error(), Code::locked) << refused.error().message();
    }
    holder.kill();
    options.open_timeout = std::chrono::milliseconds(10'000);
    Database db = open();
    EXPECT_EQ(db.get(db.tree("main").value(), "k").value(), "the holder's");
    options.open_timeout = std::chrono::milliseconds(20);
    const auto again = Database::open(path, options);  // the same process is no exception
    ASSERT_FALSE(again.has_value());
    EXPECT_EQ(again.error(), Code::locked);
    ASSERT_TRUE(db.put(db.tree("main").value(), "k", "mine").has_value());
  }
  Database db = open();
  EXPECT_EQ(db.get(db.tree("main").value(), "k").value(), "mine");
}

// In the child every call answers closed_handle, and dropping all handles there harms nobody.
TEST_P(Backend, AForkedChildIsRefusedAndTheParentGoesOn) {
  {
    std::optional<Database> db(open());
    std::optional<Tree> t(db->tree("main").value());
    ASSERT_TRUE(db->put(*t, "k", "v").has_value());
    std::optional<Transaction> txn(db->begin().value());
    ASSERT_TRUE(txn->put(*t, "open", "v").has_value());
    std::optional<Transaction> other(db->begin().value());
    ASSERT_TRUE(other->put(*t, "async", "v").has_value());
    std::optional<CommitTicket> ticket(other->commit_async().value());
    std::optional<Cursor> cursor(db->scan(*t, {}));
    const int wrong = io::test::in_child([&] {
      int n = 0;
      const auto refused = [&n](const auto& r) {
        ++n;
        return !r && r.error() == Code::closed_handle;
      };
      std::string value;
      const std::string_view keys[] = {"k"};
      Lookup out[1];
      const auto scanned = [&] {
        auto c = db->scan(*t, {});
        const bool row = c.next();
        return !row && refused(c.status());
      };
      const bool all =
          refused(db->get(*t, "k")) && refused(db->get(*t, "k", value)) &&
          refused(db->multi_get(*t, keys, out)) && scanned() && refused(db->put(*t, "k", "x")) &&
          refused(db->insert(*t, "n", "x")) && refused(db->remove(*t, "k")) &&
          refused(db->begin()) && refused(db->read_only()) && refused(db->tree("main")) &&
          refused(db->tree("new", {.create = true})) && refused(db->drop_tree("new")) &&
          refused(db->tree_names()) && refused(db->tree_info(*t)) && refused(db->wait_durable(1)) &&
          refused(db->checkpoint()) && refused(db->check()) && refused(db->page(1)) &&
          refused(db->tree_nodes(*t)) &&
          refused(db->wal_records([](const WalRecord&) { return true; })) &&
          refused(txn->get(*t, "k")) && refused(txn->put(*t, "k", "x")) &&
          refused(txn->rollback()) && refused(txn->commit()) && refused(ticket->wait()) &&
          refused(db->close());
      ticket->on_durable([&](Result<void> r) { n += refused(r) ? 0 : 100; });
      const bool rest = db->info().store_id.empty() && db->stats().commits == 0 && !cursor->next();
      cursor.reset();
      ticket.reset();
      txn.reset();
      other.reset();
      t.reset();
      db.reset();
      return all && rest ? 0 : n + 1;
    });
    EXPECT_EQ(wrong, 0);
    ASSERT_TRUE(txn->commit().has_value());
    EXPECT_TRUE(ticket->wait().has_value());
    EXPECT_TRUE(cursor->next());
    ASSERT_TRUE(db->checkpoint().has_value());
    expect_sound(*db);
  }
  Database db = open();
  const Tree t = db.tree("main").value();
  EXPECT_TRUE(db.info().clean);
  for (const char* k : {"k", "open", "async"}) EXPECT_EQ(db.get(t, k).value(), "v") << k;
  EXPECT_EQ(db.tree_info(t).value().records, 3u);
}

bool refuse_ring(int error) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(BackendChoice, ARefusedRingFallsBackAndSaysSo) {
  for (const int error : {EPERM, ENOSYS}) {
    io::test::TempDir directory;
    const int code = io::test::in_child([&] {
      if (!refuse_ring(error)) return 1;
      std::string lines;
      Options o;
      o.create = true;
      o.memory = 4_MiB;
      o.wal_limit = 8_MiB;
      o.log_sink = [&](std::string_view line) { lines += std::string(line) + "\n"; };
      {
        auto db = Database::open(directory.path() + "/store", o);
        if (!db) return 2;
        if (db->info().io_backend != "posix") return 3;
        if (lines.find("posix") == std::string::npos || lines.find("io_uring") == std::string::npos)
          return 4;
        const Tree t = db->tree("main").value();
        if (!db->put(t, "k", "v") || db->get(t, "k").value_or("") != "v" || !db->close()) return 5;
      }
      o.io = IoBackend::uring;  // demanded: no fallback
      const auto db = Database::open(directory.path() + "/store", o);
      if (db || db.error() != Code::not_supported) return 6;
      o.io = IoBackend::posix;  // chosen: nothing to say
      lines.clear();
      const auto quiet = Database::open(directory.path() + "/store", o);
      return quiet && lines.empty() ? 0 : 7;
    });
    EXPECT_EQ(code, 0) << error;
  }
}

}  // namespace
}  // namespace kessai
