// SPDX-License-Identifier: Apache-2.0
// kvsh as a process: exit codes, streams, files, and a person at a terminal.
#include <pty.h>
#include <sys/stat.h>

#include "tests/tools/process.hpp"
#include "tests/tools/seed.hpp"
#include "tools/bytes.hpp"

namespace kessai::tools {
namespace {

const std::string kKvsh = KESSAI_KVSH;

class Kvsh : public ::testing::Test {
 protected:
  Ran rw(const std::string& commands) {
    return run({kKvsh, "--rw", "--create", "--json", store_, "-c", commands}, scratch_);
  }
  Ran ro(const std::string& commands) {
    return run({kKvsh, "--json", store_, "-c", commands}, scratch_);
  }

  ScratchFolder scratch_;
  std::string store_ = scratch_ / "store";
};

TEST_F(Kvsh, EndsWithTheCodeOfTheContract) {
  EXPECT_EQ(ro("get a").code, 3);
  EXPECT_EQ(run({kKvsh, "--rw", store_, "-c", "get a"}, scratch_).code, 3);
  EXPECT_EQ(run({kKvsh, "--create", store_, "-c", "get a"}, scratch_).code, 2);
  EXPECT_FALSE(std::filesystem::exists(store_));
  EXPECT_EQ(rw("put a 1; get a").code, 0);
  EXPECT_EQ(ro("get a").code, 0);
  EXPECT_EQ(ro("get b").code, 1);
  EXPECT_EQ(ro("put a 2").code, 2);
  EXPECT_EQ(ro("nonsense").code, 2);
  EXPECT_EQ(ro("get \"a").code, 2);
  EXPECT_EQ(run({kKvsh, store_, "--nonsense"}, scratch_).code, 2);
  EXPECT_EQ(run({kKvsh}, scratch_).code, 2);
  EXPECT_EQ(run({kKvsh, store_, scratch_ / "no script"}, scratch_).code, 2);
  EXPECT_EQ(run({kKvsh, "--help"}, scratch_).code, 0);
  EXPECT_EQ(run({kKvsh, "--version"}, scratch_).out, "kessai 0.1.0\n");
  EXPECT_EQ(ro("check").code, 0);
}

TEST_F(Kvsh, RefusesWhatIsNoStore) {
  std::filesystem::create_directory(store_);
  spill(store_ + "/letter.txt", "dear kvsh");
  EXPECT_EQ(ro("trees").code, 3);
  EXPECT_EQ(run({kKvsh, scratch_ / "stdin", "-c", "trees"}, scratch_, "a file").code, 3);
}

// Goal: damage is named with file, offset and page, exit 4, and hides nothing else. Method: a bit
// of one tree's only leaf is flipped in a cleanly closed store.
TEST_F(Kvsh, NamesDamageAndStillReadsTheRest) {
  ASSERT_EQ(
      rw("create sick; put k find-these-bytes -t sick; put a 1; create well; put w 2 -t well").code,
      0);
  const std::string path = store_ + "/kessai.data";
  std::string bytes = slurp(path);
  const std::size_t at = bytes.rfind("find-these-bytes");
  ASSERT_NE(at, bytes.npos);
  bytes[at] ^= 1;
  spill(path, bytes);
  const Ran check = ro("check");
  EXPECT_EQ(check.code, 4);
  const Json report = check.row();
  EXPECT_EQ(report["ok"], false);
  ASSERT_EQ(report["damage"].size(), 1u);
  EXPECT_EQ(report["damage"][0]["file"], path);
  EXPECT_LE(report["damage"][0]["offset"], at);
  EXPECT_GT(report["damage"][0]["offset"], at - 4096);
  const Ran get = ro("get k -t sick");
  EXPECT_EQ(get.code, 4);
  EXPECT_EQ(Json::parse(get.err)["error"], "damaged");
  EXPECT_EQ(ro("get a; get w -t well").code, 0);
  for (const char* command : {"trees", "dump"}) {
    const Ran r = ro(command);
    EXPECT_EQ(r.code, 4) << command;
    ASSERT_EQ(r.rows().size(), 2u) << command;
    EXPECT_EQ(r.rows()[0]["tree"], "main");
    EXPECT_EQ(r.rows()[1]["tree"], "well");
  }
}

TEST_F(Kvsh, KeepsStdoutForAnswersAndSaysErrorsInJson) {
  const Ran r = rw("put a 1; get b; put c 1");
  EXPECT_EQ(r.code, 1);
  ASSERT_EQ(r.rows().size(), 1u);
  EXPECT_EQ(r.rows()[0]["key"], "a");
  const Json error = Json::parse(r.err);
  EXPECT_EQ(error["error"], "not_found");
  EXPECT_TRUE(error.contains("what") && error.contains("where"));
  const Json usage = Json::parse(run({kKvsh, "--json", "--nonsense", store_}, scratch_).err);
  EXPECT_EQ(usage["error"], "invalid_argument");
}

TEST_F(Kvsh, RunsScriptsFromFileAndStdinUpToTheFirstFailure) {
  spill(scratch_ / "script", "put a 1\n!1 get x\n# comment\nget x\nput b 1\n");
  EXPECT_EQ(run({kKvsh, "--rw", "--create", store_, scratch_ / "script"}, scratch_).code, 1);
  EXPECT_EQ(ro("!1 get b; get a").code, 0);
  EXPECT_EQ(run({kKvsh, "--rw", store_}, scratch_, "put c 3; get c\n").out, "ok\n3\n");
  EXPECT_EQ(run({kKvsh, "--rw", store_}, scratch_, "!1 get c").code, 1);
}

TEST_F(Kvsh, AnswersWithTheKeysOfTheContract) {
  ASSERT_EQ(rw("put a 1; put b 2").code, 0);
  const auto keys = [](const Json& row) {
    std::string out;
    for (const auto& [key, value] : row.items()) out += key + " ";
    return out;
  };
  EXPECT_EQ(keys(ro("get a").row()), "tree key value lsn ");
  EXPECT_EQ(keys(ro("scan --limit 1").row()), "key value lsn ");
  EXPECT_EQ(keys(ro("count").row()), "tree records ");
  EXPECT_EQ(keys(ro("trees").row()), "tree id records pages depth fill ");
  EXPECT_EQ(keys(ro("dump").rows().at(0)), "tree key value ");
  EXPECT_EQ(keys(ro("info").row()),
            "format store_id mode page_size pages free_pages last_checkpoint_lsn durable_lsn "
            "wal_bytes redo_bytes "
            "clean tail_cut_at io_backend ");
  EXPECT_EQ(keys(ro("check").row()), "ok pages_checked trees records damage ");
  const Json trees = ro("trees").row();
  EXPECT_EQ(trees["tree"], "main");
  EXPECT_EQ(trees["records"], 2);
  EXPECT_EQ(ro("tree").rows().back()["summary"], true);
  EXPECT_EQ(ro("stats").row()["poisoned"], false);
  EXPECT_EQ(ro("help").code, 0);
  EXPECT_EQ(ro("wal").code, 0);
}

// Goal: a dump taken back is the same store, whatever the bytes. Method: random keys and values of
// all lengths in three trees, dumped, loaded into a fresh store, dumped again.
TEST_F(Kvsh, DumpAndLoadRoundTripAnyBytes) {
  io::SeededRandom random(test_seed());
  std::string script = "create \"b\\xff\"; create \"two words\"\n";
  for (std::size_t i = 0; i < 200; ++i) {
    const char* tree = i % 3 == 0 ? "main" : i % 3 == 1 ? "\"b\\xff\"" : "\"two words\"";
    script += "put " + format_word(random_bytes(random, i % 40)) + " " +
              format_word(random_bytes(random, random.below(2000))) + " -t " + tree + "\n";
  }
  ASSERT_EQ(run({kKvsh, "--rw", "--create", store_}, scratch_, script).code, 0);
  const Ran dump = run({kKvsh, store_, "-c", "dump"}, scratch_);
  ASSERT_GT(dump.rows().size(), 100u);
  spill(scratch_ / "dump", dump.out);
  const std::string copy = scratch_ / "copy";
  const Ran load = run(
      {kKvsh, "--rw", "--create", "--json", copy, "-c", "load " + (scratch_ / "dump")}, scratch_);
  ASSERT_EQ(load.code, 0) << load.err;
  EXPECT_EQ(load.row()["loaded"], dump.rows().size());
  EXPECT_EQ(run({kKvsh, copy, "-c", "dump"}, scratch_).out, dump.out);
}

TEST_F(Kvsh, LoadsNothingOfABrokenDump) {
  const std::string good = R"({"tree":"main","key":"a","value":"1"})";
  for (const char* bad :
       {"{", "[]", R"({"tree":"main","key":"a"})", R"({"tree":"main","key":1,"value":"x"})",
        R"({"tree":"main","key":"0x1","value":"x"})", R"({"tree":"","key":"k","value":"x"})"}) {
    spill(scratch_ / "dump", good + "\n" + bad + "\n");
    const Ran r = rw("load " + (scratch_ / "dump"));
    EXPECT_EQ(r.code, 2) << bad;
    EXPECT_NE(r.err.find("line 2"), std::string::npos) << r.err;
    EXPECT_EQ(rw("count").row()["records"], 0);
  }
  EXPECT_EQ(rw("load " + (scratch_ / "missing")).code, 2);
}

TEST_F(Kvsh, NamesTheLimitOfAKeyAndAValue) {
  const Ran key = rw("put " + std::string(1025, 'k') + " v");
  EXPECT_EQ(key.code, 2);
  EXPECT_NE(key.err.find("1024"), std::string::npos) << key.err;
  EXPECT_EQ(rw("put " + std::string(1024, 'k') + " v").code, 0);
  spill(scratch_ / "large", std::string(1 << 20, 'v'));
  EXPECT_EQ(rw("put large @" + (scratch_ / "large")).code, 0);
  EXPECT_EQ(ro("get large").row()["value"].get<std::string>().size(), 1u << 20);
}

// Goal: at a terminal there is a prompt, Tab completes, and the history file is private and holds
// no line that writes. Method: a pseudo-terminal typed into.
TEST_F(Kvsh, TalksToAPersonAndKeepsAPrivateHistory) {
  ASSERT_EQ(rw("put secret 4711").code, 0);
  const std::string history = scratch_ / ".kvsh_history";
  int master = -1;
  const pid_t pid = forkpty(&master, nullptr, nullptr, nullptr);
  if (pid == 0) {
    setenv("HOME", scratch_.path().c_str(), 1);
    setenv("TERM", "xterm", 1);
    unsetenv("KVSH_HISTORY");
    execl(kKvsh.c_str(), kKvsh.c_str(), "--rw", store_.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  std::string seen;
  const auto wait_for = [&](std::string_view text) {
    while (seen.find(text) == seen.npos) {
      pollfd p{master, POLLIN, 0};
      char block[4096];
      if (poll(&p, 1, 20'000) != 1) break;
      const ssize_t n = read(master, block, sizeof block);
      if (n <= 0) break;
      seen.append(block, static_cast<std::size_t>(n));
    }
    const std::size_t at = seen.find(text);
    EXPECT_NE(at, seen.npos) << "waited for: " << text << "\nseen: " << seen;
    seen.erase(0, at == seen.npos ? seen.size() : at + text.size());
  };
  const auto type = [&](std::string_view text) {
    EXPECT_EQ(write(master, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  };
  wait_for("> ");
  type("cou\t\r");
  wait_for("\n1");
  wait_for("> ");
  type("put card 1234567\r");
  wait_for("ok");
  wait_for("> ");
  type("get nothing\r");
  wait_for("not_found");
  wait_for("> ");
  type("exit\r");
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  close(master);
  struct stat s{};
  ASSERT_EQ(stat(history.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  const std::string kept = slurp(history);
  EXPECT_NE(kept.find("count"), kept.npos);
  EXPECT_EQ(kept.find("1234567"), kept.npos) << kept;
}

TEST_F(Kvsh, KeepsNoHistoryOfScripts) {
  setenv("HOME", scratch_.path().c_str(), 1);
  EXPECT_EQ(run({kKvsh, "--rw", "--create", store_}, scratch_, "put a 1").code, 0);
  EXPECT_FALSE(std::filesystem::exists(scratch_ / ".kvsh_history"));
}

}  // namespace
}  // namespace kessai::tools
