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
  EXPECT_EQ(keys(ro("undo").row()),
            "bytes limit entries pushed dropped horizon oldest_snapshot oldest_transaction "
            "snapshots_killed throttled ");
  EXPECT_EQ(keys(ro("waits").rows().at(0)), "name count total_us histogram ");
  EXPECT_EQ(keys(ro("@1 begin; txns").rows().at(1)),
            "id isolation read_only thread snapshot_lsn age_us idle_us writes write_bytes "
            "undo_bytes last_call in_call ");
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

// kvsh at a pseudo-terminal that a test types into.
class Terminal {
 public:
  explicit Terminal(std::vector<std::string> command, const std::string& home) {
    const winsize wide{.ws_row = 50, .ws_col = 500, .ws_xpixel = 0, .ws_ypixel = 0};
    pid_ = forkpty(&master_, nullptr, nullptr, &wide);
    if (pid_ != 0) return;
    setenv("HOME", home.c_str(), 1);
    setenv("TERM", "xterm", 1);
    unsetenv("KVSH_HISTORY");
    std::vector<char*> words;
    for (std::string& word : command) words.push_back(word.data());
    words.push_back(nullptr);
    execv(words[0], words.data());
    _exit(127);
  }
  ~Terminal() { close(master_); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(std::string_view text) const {
    EXPECT_EQ(write(master_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Reads up to and including the first of `texts` that appears; its index.
  std::size_t wait_for(std::vector<std::string_view> texts) {
    for (;;) {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::size_t at = seen_.find(texts[i]);
        if (at == seen_.npos) continue;
        seen_.erase(0, at + texts[i].size());
        return i;
      }
      pollfd p{master_, POLLIN, 0};
      char block[4096];
      const ssize_t n = poll(&p, 1, 20'000) == 1 ? read(master_, block, sizeof block) : 0;
      if (n <= 0) break;
      seen_.append(block, static_cast<std::size_t>(n));
    }
    ADD_FAILURE() << "waited for: " << texts[0] << "\nseen: " << seen_;
    return texts.size();
  }
  void wait_for(std::string_view text) { wait_for(std::vector{text}); }
  // 0 for a normal end.
  [[nodiscard]] int end() const {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  int master_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

// Goal: at a terminal there is a prompt, Tab completes, and the history file is private and holds
// no line that writes. Method: a pseudo-terminal typed into.
TEST_F(Kvsh, TalksToAPersonAndKeepsAPrivateHistory) {
  ASSERT_EQ(rw("put secret 4711").code, 0);
  const std::string history = scratch_ / ".kvsh_history";
  Terminal kvsh({kKvsh, "--rw", store_}, scratch_.path());
  kvsh.wait_for("> ");
  kvsh.type("cou\t\r");
  kvsh.wait_for("\n1");
  kvsh.wait_for("> ");
  kvsh.type("put card 1234567\r");
  kvsh.wait_for("ok");
  kvsh.wait_for("> ");
  kvsh.type("get nothing\r");
  kvsh.wait_for("not_found");
  kvsh.wait_for("> ");
  kvsh.type("exit\r");
  EXPECT_EQ(kvsh.end(), 0);
  struct stat s{};
  ASSERT_EQ(stat(history.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  const std::string kept = slurp(history);
  EXPECT_NE(kept.find("count"), kept.npos);
  EXPECT_EQ(kept.find("1234567"), kept.npos) << kept;
}

// Goal: the prompt tells mode, level and age of what is open, and a transaction that makes no calls
// ends. Method: a limit of 50 ms, and Enter until the prompt says so.
TEST_F(Kvsh, ShowsWhatIsOpenAndEndsWhatIsForgotten) {
  ASSERT_EQ(rw("put a 1").code, 0);
  const std::string mode = ro("info").row()["mode"];
  const std::string level = mode == "s2pl" ? "serializable" : "read_committed";
  Terminal kvsh({kKvsh, "--rw", "--idle-limit", "0.05", store_}, scratch_.path());
  kvsh.wait_for(" " + mode + "> ");
  kvsh.type("begin read_committed; @2 begin serializable\r");
  const std::string first = " " + mode + " " + level + " ", second = " @2 serializable ";
  const std::string both_ended = first + "ended" + second + "ended> ";
  for (int i = 0; i < 5000 && kvsh.wait_for({both_ended, "> "}) == 1; ++i) kvsh.type("\r");
  kvsh.type("get a\r");
  kvsh.wait_for("transaction_expired");
  kvsh.type("rollback; @2 rollback; get a\r");
  kvsh.wait_for("\n1");
  kvsh.wait_for(" " + mode + "> ");
  kvsh.type("exit\r");
  EXPECT_EQ(kvsh.end(), 0);
}

TEST_F(Kvsh, DrawsDeadlocks) {
  const std::string circle =
      "@1 begin; @2 begin; @1 lock x; @2 lock y; !* @1 lock y; !* @2 lock x; ";
  const Ran dot = run(
      {kKvsh, "--rw", "--create", store_, "-c", circle + "deadlocks --dot; deadlocks"}, scratch_);
  EXPECT_EQ(dot.code, 0) << dot.err;
  EXPECT_NE(dot.out.find("digraph"), dot.out.npos) << dot.out;
  EXPECT_NE(dot.out.find(" ago\n"), dot.out.npos) << dot.out;
  const Json row = rw(circle + "deadlocks").rows().back();
  ASSERT_EQ(row["cycle"].size(), 2u);
  EXPECT_EQ(row["cycle"][0]["target"]["kind"], "named");
  EXPECT_TRUE(row["victim"] == row["cycle"][0]["transaction"] ||
              row["victim"] == row["cycle"][1]["transaction"]);
}

// Goal: a script ends with the code of the command that failed, also when that was queued.
TEST_F(Kvsh, EndsWithTheCodeOfALateFailure) {
  EXPECT_EQ(rw("@1 begin; @1 insert a 1; @2 insert a 2; @1 commit").code, 1);
  EXPECT_EQ(rw("@1 begin; @1 put a 2; !1 @2 insert a 2 --wait 10").code, 0);  // at its end
  EXPECT_EQ(rw("@1 begin; @1 put a 3; !1 @2 insert a 3; @1 rollback; get a").rows().back()["value"],
            "1");
  const Ran r = rw("@1 begin; @1 insert b 1; @2 put b 2; @1 commit; get b");
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.rows().back()["value"], "2");
  EXPECT_EQ(r.rows()[2].dump(), R"({"session":2,"waits_for":["@1"],"on":"b"})");
  EXPECT_EQ(rw("@1 begin; @1 put b 3; @2 put b 4 --wait 10").code, 1);
  EXPECT_EQ(ro("get b").row()["value"], "2");
  EXPECT_EQ(run({kKvsh, "--level", "nonsense", store_}, scratch_).code, 2);
}

TEST_F(Kvsh, KeepsNoHistoryOfScripts) {
  setenv("HOME", scratch_.path().c_str(), 1);
  EXPECT_EQ(run({kKvsh, "--rw", "--create", store_}, scratch_, "put a 1").code, 0);
  EXPECT_FALSE(std::filesystem::exists(scratch_ / ".kvsh_history"));
}

}  // namespace
}  // namespace kessai::tools
