// SPDX-License-Identifier: Apache-2.0
// kvbench: the same workloads on kessai and on its peers. The parent plans, prepares stores, runs
// each engine in a child process of its own (itself, executed anew; for the S2PL build
// kvbench-s2pl, which lies beside it), alternates the engines run by run and prints medians. Only
// the parent touches the terminal; only it removes files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bench/data.hpp"
#include "bench/engine.hpp"
#include "bench/probe.hpp"
#include "bench/report.hpp"
#include "bench/workloads.hpp"

namespace kessai::bench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

volatile std::sig_atomic_t g_interrupted = 0;
volatile std::sig_atomic_t g_child = 0;

void on_signal(int /*number*/) {
  g_interrupted = 1;
  if (g_child > 0) ::kill(static_cast<pid_t>(g_child), SIGKILL);
}

void install_signal_handlers() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  for (const int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(s, &action, nullptr);
}

struct Settings {
  std::vector<std::string> workloads;
  std::vector<std::string> engines;  ///< empty: what each workload asks for
  std::vector<unsigned> threads;
  std::vector<unsigned> reads = {50};
  std::uint64_t n = 2'000'000;
  std::uint64_t value_bytes = 100;
  std::uint64_t cache_mib = 512;
  std::uint64_t batch = 16;
  std::optional<double> seconds;
  std::optional<unsigned> runs;
  std::uint64_t seed = 1;
  std::string dir;
  bool table = false;
  bool floors_only = false;  ///< no workload was named: only what the floors need
  bool modes = false;
  bool json = false;
};

struct Step {
  const Workload* workload;
  unsigned threads;
  std::optional<unsigned> reads;
  std::vector<std::string> engines;
};

/// The program that has the engine; the build's own name in error messages.
std::string program_of(std::string_view engine) {
  if (engine != "kessai_s2pl") return "/proc/self/exe";
  std::error_code ec;
  return (fs::read_symlink("/proc/self/exe", ec).parent_path() / "kvbench-s2pl").string();
}

/// Removes the directory it made, also when the program is interrupted.
class WorkDir {
 public:
  explicit WorkDir(const std::string& wanted) {
    std::error_code ec;
    const fs::path base = wanted.empty() ? fs::current_path() : fs::path(wanted);
    fs::create_directories(base, ec);
    std::string pattern = (fs::absolute(base) / "kvbench-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr)
      fail("cannot make a directory under " + base.string());
    path_ = pattern;
    struct statfs st{};
    constexpr long kTmpfs = 0x01021994;
    if (::statfs(path_.c_str(), &st) == 0 && static_cast<long>(st.f_type) == kTmpfs) {
      fmt::print(stderr, "kvbench: {} is memory, not a disk: durable figures mean nothing\n",
                 path_);
    }
  }
  WorkDir(const WorkDir&) = delete;
  WorkDir& operator=(const WorkDir&) = delete;
  ~WorkDir() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }
  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }
  /// Nothing of the preparation is still being written while an engine runs.
  void quiesce() const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    ::syncfs(fd);
    ::close(fd);
  }

 private:
  std::string path_;
};

/// Runs one child and returns its answer; {"error"} when it died without one.
json spawn(const ChildSpec& spec, bool must_be_killed = false) {
  const std::string program = program_of(spec.engine);
  if (::access(program.c_str(), X_OK) != 0) return {{"error", program + " is missing"}};
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) fail("pipe");
  std::string request = json(spec).dump();
  std::fflush(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(5);
    constexpr int kResultFd = 3;
    if (pipe_fds[1] == kResultFd) {
      ::fcntl(kResultFd, F_SETFD, 0);
    } else {
      ::dup2(pipe_fds[1], kResultFd);
    }
    std::string self = "kvbench", flag = "--child";
    char* argv[] = {self.data(), flag.data(), request.data(), nullptr};
    ::execv(program.c_str(), argv);
    ::_exit(5);
  }
  g_child = pid;
  ::close(pipe_fds[1]);
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(pipe_fds[0], buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(pipe_fds[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  g_child = 0;
  json result = json::parse(text, nullptr, false);
  if (result.is_object()) return result;
  if (must_be_killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return json::object();
  return {{"error", WIFSIGNALED(status)
                        ? fmt::format("killed by signal {}", WTERMSIG(status))
                        : fmt::format("exit {} without an answer", WEXITSTATUS(status))}};
}

class Bench {
 public:
  explicit Bench(const Settings& settings) : s_(settings), work_(settings.dir) {}

  int run() {
    const std::vector<Step> steps = plan();
    for (const Step& step : steps) {
      total_ += step.engines.size() * runs_of(*step.workload);
      for (const std::string& name : step.engines) versions_[name] = make_engine(name)->version();
    }
    print_heading();
    for (const Step& step : steps) {
      if (g_interrupted == 0) run_step(step);
    }
    show_progress({});
    if (g_interrupted != 0) return 130;
    if (s_.table) print_table();
    if (s_.modes && !s_.json) fmt::print("{}", modes_table(all_));
    return std::ranges::any_of(all_, [](const Series& r) { return !r.error.empty(); }) ? 5 : 0;
  }

 private:
  unsigned runs_of(const Workload& w) const { return s_.runs.value_or(w.runs); }
  double seconds_of(const Workload& w) const { return s_.seconds.value_or(w.seconds); }

  /// Workloads in the order that keeps the shared stores pristine.
  std::vector<Step> plan() const {
    std::vector<Step> steps;
    for (const std::string& name : s_.workloads) {
      const Workload* w = find_workload(name);
      std::vector<unsigned> threads = s_.threads;
      if (threads.empty()) {
        threads = {w->threads};
        if (s_.table && w->more_threads != 0) threads.push_back(w->more_threads);
      }
      std::vector<std::optional<unsigned>> reads = {std::nullopt};
      if (name == "mixed") reads.assign(s_.reads.begin(), s_.reads.end());
      for (const unsigned t : threads) {
        for (const auto share : reads)
          steps.push_back({w, name == "recovery" ? 1 : t, share, engines_of(*w)});
      }
    }
    return steps;
  }

  std::vector<std::string> engines_of(const Workload& w) const {
    std::vector<std::string> names = s_.engines;
    if (names.empty()) {
      names = engine_names();
      if (!w.engines.empty()) names.assign(w.engines.begin(), w.engines.end());
      // A minute a run: the floors of this one compare with nobody.
      if (s_.floors_only && w.name == "long_reader") names = {"kessai"};
    }
    std::erase_if(names, [&](const std::string& name) {
      const auto engine = make_engine(name);
      return engine == nullptr || !engine->can(w.needs);
    });
    return names;
  }

  void run_step(const Step& step) {
    std::vector<Series> rows;
    for (const std::string& engine : step.engines) {
      Series row;
      row.workload = step.workload->name;
      row.engine = engine;
      row.version = versions_[engine];
      row.durability = step.workload->durability;
      row.threads = step.threads;
      row.reads = step.reads;
      row.n = s_.n;
      row.value_bytes = s_.value_bytes;
      row.cache_mib = s_.cache_mib;
      rows.push_back(std::move(row));
    }
    for (unsigned run = 0; run < runs_of(*step.workload); ++run) {
      for (Series& row : rows) {
        if (g_interrupted != 0) return;
        show_progress(fmt::format("[{}/{}] {} {} run {}", ++done_, total_, row.workload, row.engine,
                                  run + 1));
        if (!row.error.empty()) continue;
        json result = run_once(step, row.engine, run);
        if (result.contains("error"))
          row.error = result["error"].get<std::string>();
        else
          row.runs.push_back(std::move(result));
      }
    }
    show_progress({});
    for (Series& row : rows) {
      if (g_interrupted != 0) return;
      print(row);
      all_.push_back(std::move(row));
    }
  }

  json run_once(const Step& step, const std::string& engine, unsigned run) {
    ChildSpec spec;
    spec.phase = "run";
    spec.workload = step.workload->name;
    spec.engine = engine;
    spec.n = s_.n;
    spec.value_bytes = s_.value_bytes;
    spec.cache_mib = s_.cache_mib;
    spec.batch = s_.batch;
    spec.threads = step.threads;
    spec.reads = step.reads.value_or(0);
    spec.seconds = seconds_of(*step.workload);
    spec.seed = s_.seed + run;
    std::string store = work_.path("scratch");
    if (step.workload->store != StoreKind::fresh) {
      const json built = loaded_store(spec);
      if (built.contains("error")) return built;
      const std::string loaded = loaded_path(engine);
      if (step.workload->store == StoreKind::loaded)
        store = loaded;
      else
        fs::copy(loaded, store, fs::copy_options::recursive);
    } else {
      fs::create_directories(store);
    }
    work_.quiesce();
    // Commits are compared with this figure directly, and the device drifts: look before and after.
    const bool commits = step.workload->durability == "durable";
    const double probe_seconds = std::min(commits ? 0.5 : 0.1, spec.seconds);
    double flush_us = probe_flush_us(work_.path(), probe_seconds);
    spec.dir = store;
    json result;
    if (spec.workload == "recovery") {
      result = spawn(spec, true);
      spec.phase = "reopen";
      if (!result.contains("error") && g_interrupted == 0) result = spawn(spec);
    } else {
      result = spawn(spec);
    }
    if (commits && g_interrupted == 0)
      flush_us = (flush_us + probe_flush_us(work_.path(), probe_seconds)) / 2;
    if (!result.contains("error")) result["device_flush_us"] = flush_us;
    if (step.workload->store != StoreKind::loaded) fs::remove_all(store);
    return result;
  }

  /// All levels and both builds of kessai open the same store.
  static std::string loader_of(const std::string& engine) {
    return engine.starts_with("kessai") ? "kessai" : engine;
  }
  std::string loaded_path(const std::string& engine) const {
    return work_.path("loaded-" + loader_of(engine));
  }

  /// Builds the engine's store of n records unless this call has built it already.
  json loaded_store(ChildSpec spec) {
    spec.engine = loader_of(spec.engine);
    auto [it, fresh] = built_.try_emplace(spec.engine);
    if (!fresh) return it->second;
    spec.phase = "build";
    spec.threads = 1;
    spec.dir = loaded_path(spec.engine);
    fs::create_directories(spec.dir);
    show_progress(
        fmt::format("[{}/{}] loading {} records into {}", done_, total_, s_.n, spec.engine));
    return it->second = spawn(spec);
  }

  void print_heading() const {
    if (s_.json || s_.modes) return;
    std::string engines;
    for (const auto& [name, version] : versions_) engines += fmt::format(" {} {}", name, version);
    fmt::print("engines:{}\n{} records of {}+{} bytes, cache {} MiB, store under {}\n{}\n", engines,
               s_.n, Key::kBytes, s_.value_bytes, s_.cache_mib, work_.path(), line_heading());
  }
  void print(const Series& row) const {
    if (s_.json)
      fmt::print("{}\n", row_of(row).dump());
    else if (!s_.modes)
      fmt::print("{}\n", line_of(row));
    std::fflush(stdout);
  }
  void print_table() const {
    if (!s_.json)
      fmt::print("\n{:<56} {:>9} {:>9} {:>8}\n", "ratio", "measured", "floor", "by CPU");
    for (const Floor& f : floors_of(all_)) {
      const std::string_view verdict = !f.value ? "not measured" : f.met() ? "met" : "MISSED";
      if (s_.json) {
        nlohmann::ordered_json row = {{"summary", true}, {"floor", f.name}};
        row["value"] = f.value ? nlohmann::ordered_json(*f.value) : nlohmann::ordered_json(nullptr);
        row["limit"] = f.limit;
        row["at_least"] = f.at_least;
        if (f.by_cpu) row["by_cpu"] = *f.by_cpu;
        row["met"] = f.value ? nlohmann::ordered_json(f.met()) : nlohmann::ordered_json(nullptr);
        fmt::print("{}\n", row.dump());
      } else {
        const auto number = [](std::optional<double> v) {
          return v ? fmt::format("{:.3f}", *v) : "-";
        };
        fmt::print("{:<56} {:>9} {:>2} {:>6} {:>8} {}\n", f.name, number(f.value),
                   f.at_least ? ">=" : "<=", f.limit, number(f.by_cpu), verdict);
      }
    }
  }
  /// One line that overwrites itself, on terminals only.
  static void show_progress(const std::string& text) {
    if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\x1b[K{}", text);
  }

  const Settings& s_;
  WorkDir work_;
  std::map<std::string, std::string> versions_;
  std::map<std::string, json> built_;
  std::vector<Series> all_;
  std::size_t done_ = 0;
  std::size_t total_ = 0;
};

std::string version_text() {
  std::string text = "kvbench " KVBENCH_VERSION;
  for (const std::string& name : engine_names())
    text += fmt::format("\n{} {}", name, make_engine(name)->version());
  return text;
}

/// Expands "all", checks names, and orders the workloads as the table lists them.
std::string complete(Settings& s) {
  for (const std::string& e : s.engines) {
    if (make_engine(e) == nullptr)
      return fmt::format("no engine '{}' here; there are: {}", e, fmt::join(engine_names(), " "));
  }
  if (engine_names().empty()) return "no engine is built in";
  if (s.modes) s.workloads = {"mixed"};
  s.floors_only = s.workloads.empty();
  std::vector<std::string> wanted;
  for (const std::string& w : s.workloads) {
    if (w != "all" && find_workload(w) == nullptr)
      return fmt::format("no workload '{}'; see --help", w);
  }
  for (const Workload& w : workloads()) {
    const bool named = std::ranges::find(s.workloads, w.name) != s.workloads.end() ||
                       std::ranges::find(s.workloads, "all") != s.workloads.end();
    if (named || (s.workloads.empty() && w.in_floors)) wanted.emplace_back(w.name);
  }
  s.workloads = std::move(wanted);
  return {};
}

int main_of(int argc, char** argv) {
  CLI::App app{
      "Measures kessai beside LMDB, RocksDB, LevelDB and SQLite: each engine in a process of its "
      "own, "
      "engines alternating, medians over the runs."};
  Settings s;
  std::string child;
  std::string names;
  for (const Workload& w : workloads()) names += fmt::format(" {}", w.name);
  app.set_version_flag("--version", version_text);
  app.add_option("-w,--workload", s.workloads,
                 "comma list of:" + names + ", or all; default: those the floors name")
      ->delimiter(',');
  app.add_option("-e,--engine", s.engines,
                 "comma list; default: what the workload compares, mostly all that are built in")
      ->delimiter(',');
  app.add_option("-t,--threads", s.threads,
                 "client threads (comma list); default 1 (txn_update, mixed 2, hot_row 64)")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1024u));
  app.add_option("-n,--n", s.n, "records")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{100}, std::uint64_t{1} << 32));
  app.add_option("--value", s.value_bytes, "bytes of a value")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{kMinValueBytes}, std::uint64_t{1} << 20));
  app.add_option("--cache", s.cache_mib, "MiB of cache of each engine")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--batch", s.batch, "keys of one multi_get")
      ->capture_default_str()
      ->check(CLI::Range(1u, 4096u));
  app.add_option("--seconds", s.seconds,
                 "length of a measured section (loads: up to ten times this); default 3 "
                 "(long_reader 60)")
      ->check(CLI::Range(0.01, 1e6));
  app.add_option("--runs", s.runs, "alternating runs of each engine; default 5 (transactions 3)")
      ->check(CLI::Range(1u, 1000u));
  app.add_option("--reads", s.reads, "mixed: reads among the operations, per cent (comma list)")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(0u, 100u));
  app.add_option("--seed", s.seed, "first seed of the key sequences")->capture_default_str();
  app.add_option("--dir", s.dir,
                 "where the stores are made (and removed); default: the current directory");
  app.add_flag("--table", s.table,
               "print the ratios to the peers and whether kessai's floors are met");
  app.add_flag("--modes", s.modes,
               "run `mixed` at 1, 2 and 4 threads with 0, 50, 95 and 100 % reads (or as given) and "
               "print a Markdown table: build x level x threads x read share");
  app.add_flag("--json", s.json,
               "one JSON object a line (also when stdout is no terminal and --table is not given)");
  app.add_option("--child", child)->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (!child.empty()) run_child(json::parse(child).get<ChildSpec>(), 3);
  if (const std::string problem = complete(s); !problem.empty()) {
    fmt::print(stderr, "kvbench: {}\n", problem);
    return 2;
  }
  if (s.modes) {
    if (s.threads.empty()) s.threads = {1, 2, 4};
    if (app.count("--reads") == 0) s.reads = {0, 50, 95, 100};
  }
  s.json = s.json || (!s.table && !s.modes && ::isatty(STDOUT_FILENO) == 0);
  install_signal_handlers();
  return Bench(s).run();
}

}  // namespace
}  // namespace kessai::bench

int main(int argc, char** argv) {
  try {
    return kessai::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "kvbench: {}\n", e.what());
    return 5;
  }
}
