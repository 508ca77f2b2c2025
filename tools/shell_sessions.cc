// SPDX-License-Identifier: Apache-2.0
// The runner of kvsh: who works, who is queued, and in which order it is told.
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <set>

#include "io/check.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/shell.hpp"

namespace kessai::tools {
namespace {

constexpr std::uint64_t kPollNs = 200'000;
constexpr std::uint64_t kMailNs = 1'000'000'000;  // how often an idle session looks up
// After so many polls (50 ms) a waiter counts as queued although nobody is seen in its way, and
// (5 s) although it is part of a cycle that should have been broken.
constexpr unsigned kUnexplainedPolls = 250;
constexpr unsigned kCyclePolls = 25'000;

void append(std::vector<Ended>& to, std::vector<Ended> more) {
  std::move(more.begin(), more.end(), std::back_inserter(to));
}

bool in_the_way(LockMode held, LockMode wanted) {
  return held == LockMode::exclusive || wanted == LockMode::exclusive;
}

}  // namespace

// What a queued command waits for.
struct Shell::Wait {
  std::string on;
  std::vector<unsigned> sessions;  // in its way
  std::vector<std::string> names;  // the same for people, with transactions of no session
  friend bool operator==(const Wait&, const Wait&) = default;
};

struct Shell::Lane {
  Lane(unsigned number, Database& database, ShellConfig config)
      : session(number, database, with_sinks(std::move(config), *this)) {}

  static ShellConfig with_sinks(ShellConfig config, Lane& lane) {
    config.out = [&lane](std::string_view s) { lane.said.emplace_back(false, s); };
    config.err = [&lane](std::string_view s) { lane.said.emplace_back(true, s); };
    config.progress = false;
    return config;
  }

  // The session's thread owns these while `working`, the runner otherwise.
  Session session;
  std::vector<std::pair<bool, std::string>> said;  // true: to err
  int code = 0;

  // Guarded by Shell::mutex_.
  bool working = false;
  bool leave = false;
  bool started = false;
  unsigned thread_serial = 0;

  // The runner's own.
  std::optional<Command> command;  // under way, until its end was printed
  std::deque<Command> backlog;     // typed since
  std::uint64_t queued = 0;        // when it was first seen queued; 0: not
  Wait shown;                      // the wait that was printed last
  struct Open {
    std::uint64_t id;
    Isolation level;
  };
  std::optional<Open> open;  // its transaction, as of the last command's end
  io::Thread thread;         // last: it uses all of the above
};

Shell::Shell(Database database, ShellConfig config)
    : db_(std::move(database)),
      config_([&] {
        config.name_of = [this](std::uint64_t id, unsigned thread) {
          return session_name(id, thread);
        };
        return std::move(config);
      }()),
      main_(0, db_, config_),
      main_thread_(io::thread_serial()) {}

Shell::~Shell() {
  {
    const io::MutexLock lock(mutex_);
    for (auto& [number, lane] : lanes_) lane->leave = true;
    mail_.notify_all();
  }
  lanes_.clear();  // joins
}

Shell::Lane& Shell::lane(unsigned number) {
  auto& slot = lanes_[number];
  if (!slot) {
    slot = std::make_unique<Lane>(number, db_, config_);
    Lane& made = *slot;
    made.thread =
        io::Thread(fmt::format("kvsh@{}", number).c_str(), [this, &made] { serve(made); });
  }
  return *slot;
}

// The thread of a session.
void Shell::serve(Lane& lane) {
  for (;;) {
    {
      const io::MutexLock lock(mutex_);
      lane.thread_serial = io::thread_serial();
      lane.started = true;
      while (!lane.working && !lane.leave) mail_.wait_for(mutex_, kMailNs);
      if (!lane.working) return;
    }
    const int code = lane.session.run(*lane.command);
    const io::MutexLock lock(mutex_);
    lane.code = code;
    lane.working = false;
    news_.notify_all();
  }
}

std::vector<Ended> Shell::step(const Command& command) {
  std::vector<Ended> ended;
  Lane* first = nullptr;
  if (command.session.value_or(0) == 0) {
    ended.push_back({.command = command, .code = main_.run(command), .output = {}});
  } else if (Lane& l = lane(*command.session); l.command) {
    l.backlog.push_back(command);
    print_backlog(l);
  } else {
    first = &l;
    start(l, command);
  }
  append(ended, settle(first));
  return ended;
}

void Shell::start(Lane& lane, Command command) {
  lane.command = std::move(command);
  const io::MutexLock lock(mutex_);
  lane.working = true;
  mail_.notify_all();
}

std::vector<Ended> Shell::finish() {
  return settle_until([&] {
    return std::none_of(lanes_.begin(), lanes_.end(),
                        [](const auto& l) { return l.second->command.has_value(); });
  });
}

std::vector<Ended> Shell::settle_until(const std::function<bool()>& done) {
  std::vector<Ended> ended;
  while (!done() && !interrupted()) {
    wait_for_news(10 * kPollNs);
    append(ended, settle(nullptr));
  }
  return ended;
}

void Shell::wait_for_news(std::uint64_t nanoseconds) {
  const io::MutexLock lock(mutex_);
  news_.wait_for(mutex_, nanoseconds);
}

std::vector<Ended> Shell::settle(Lane* first) {
  std::vector<Ended> ended = tell(first, wait_until_still());
  // Whoever is free again goes on with what it was told meanwhile, one command at a time.
  for (auto it = lanes_.begin(); it != lanes_.end();) {
    Lane& lane = *it->second;
    if (lane.command || lane.backlog.empty()) {
      ++it;
      continue;
    }
    start(lane, std::move(lane.backlog.front()));
    lane.backlog.pop_front();
    append(ended, tell(&lane, wait_until_still()));
    it = lanes_.begin();  // it may have freed others
  }
  return ended;
}

// Only a working session releases locks, and by ending its command. So when every command that has
// not ended (looked up first) is a waiter (looked up afterwards), nothing moves any more but time.
// Twice the same, because the lock table is not seen in one instant.
Shell::Picture Shell::wait_until_still() {
  Picture now;
  for (unsigned polls = 0;; ++polls) {
    const std::vector<Lane*> busy = working_lanes();
    if (busy.empty()) return {};
    const Picture before = std::move(now);
    now = picture(busy, polls > kUnexplainedPolls);
    const bool cycle = polls < kCyclePolls && has_cycle(now);
    if (now.size() == busy.size() && !cycle && now == before) return now;
    wait_for_news(kPollNs);
  }
}

std::vector<Shell::Lane*> Shell::working_lanes() {
  const io::MutexLock lock(mutex_);
  std::vector<Lane*> busy;
  for (auto& [number, lane] : lanes_) {
    if (lane->working) busy.push_back(lane.get());
  }
  return busy;
}

// Prints what ended and who is queued now; those of the same step in the order of their queueing.
std::vector<Ended> Shell::tell(Lane* first, const Picture& waits) {
  std::vector<Lane*> order;
  for (auto& [number, lane] : lanes_) {
    if (lane->command && lane.get() != first) order.push_back(lane.get());
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->queued < b->queued; });
  if (first != nullptr) order.insert(order.begin(), first);
  std::vector<Ended> ended;
  for (Lane* lane : order) {
    const auto queued = waits.find(lane->session.number());
    if (queued == waits.end()) {
      ended.push_back(collect(*lane));
    } else if (lane == first) {
      print_wait(*lane, queued->second);
    }
  }
  for (Lane* lane : order) {
    const auto queued = waits.find(lane->session.number());
    if (queued != waits.end() && !(lane->shown == queued->second))
      print_wait(*lane, queued->second);
  }
  return ended;
}

Ended Shell::collect(Lane& lane) {
  Ended ended{.command = std::move(*lane.command),
              .code = lane.code,
              .late = lane.queued != 0,
              .output = {}};
  for (const auto& [is_error, text] : lane.said) {
    (is_error ? config_.err : config_.out)(text);
    ended.output += text;
  }
  lane.said.clear();
  lane.command.reset();
  lane.queued = 0;
  lane.shown = {};
  lane.open.reset();
  if (const auto& txn = lane.session.transaction()) lane.open = {txn->id(), txn->isolation()};
  return ended;
}

void Shell::print_wait(Lane& lane, const Wait& wait) {
  if (lane.queued == 0) lane.queued = ++queue_numbers_;
  lane.shown = wait;
  const unsigned number = lane.session.number();
  if (config_.json) {
    config_.out(json_line({{"session", number}, {"waits_for", wait.names}, {"on", wait.on}}));
    return;
  }
  std::string names;
  for (const std::string& name : wait.names) names += (names.empty() ? "" : ", ") + name;
  config_.out(
      fmt::format("@{} waits {}{} on {}\n", number, names.empty() ? "" : "for ", names, wait.on));
}

void Shell::print_backlog(const Lane& lane) {
  const unsigned number = lane.session.number();
  if (config_.json) {
    config_.out(json_line({{"session", number}, {"backlog", lane.backlog.size()}}));
  } else {
    config_.out(fmt::format("@{} still waits; {} to follow\n", number, lane.backlog.size()));
  }
}

Shell::Picture Shell::picture(const std::vector<Lane*>& busy, bool accept_unexplained) {
  Picture result;
  for (const LockInfo& lock : db_.locks()) {
    for (auto waiter = lock.waiters.begin(); waiter != lock.waiters.end(); ++waiter) {
      const std::optional<unsigned> number = session_of(waiter->transaction, waiter->thread);
      const auto is_waiter = [&](const Lane* l) { return l->session.number() == number; };
      if (std::none_of(busy.begin(), busy.end(), is_waiter)) continue;
      Wait wait{.on = target_text(lock.target, config_.default_tree), .sessions = {}, .names = {}};
      const auto add = [&](const auto& other) {
        if (other.transaction == waiter->transaction || !in_the_way(other.mode, waiter->mode))
          return;
        if (const auto s = session_of(other.transaction, other.thread)) wait.sessions.push_back(*s);
        wait.names.push_back(session_name(other.transaction, other.thread));
      };
      std::for_each(lock.holders.begin(), lock.holders.end(), add);
      if (wait.names.empty()) std::for_each(lock.waiters.begin(), waiter, add);
      std::sort(wait.sessions.begin(), wait.sessions.end());
      std::sort(wait.names.begin(), wait.names.end());
      if (!wait.names.empty() || accept_unexplained) result.emplace(*number, std::move(wait));
    }
  }
  return result;
}

bool Shell::has_cycle(const Picture& waits) {
  std::set<unsigned> left;
  for (const auto& [number, wait] : waits) left.insert(number);
  for (bool removed = true; removed;) {
    removed = std::erase_if(left, [&](unsigned number) {
                const auto& sessions = waits.at(number).sessions;
                return std::none_of(sessions.begin(), sessions.end(),
                                    [&](unsigned s) { return left.contains(s); });
              }) != 0;
  }
  return !left.empty();
}

std::optional<unsigned> Shell::session_of(std::uint64_t transaction, unsigned thread) {
  for (const auto& [number, lane] : lanes_) {
    if (lane->open && lane->open->id == transaction) return number;
  }
  if (const auto& txn = main_.transaction(); txn && txn->id() == transaction) return 0;
  // A command without begin has a transaction that nobody knows; its thread tells.
  const io::MutexLock lock(mutex_);
  for (const auto& [number, lane] : lanes_) {
    if (lane->started && lane->thread_serial == thread) return number;
  }
  if (thread == main_thread_) return 0;
  return std::nullopt;
}

std::string Shell::session_name(std::uint64_t transaction, unsigned thread) {
  const std::optional<unsigned> number = session_of(transaction, thread);
  return number ? fmt::format("@{}", *number) : fmt::format("transaction {}", transaction);
}

// The first exit code that is not the expected one, or success.
int Shell::verdict(const std::vector<Ended>& ended) {
  for (const Ended& e : ended) {
    const int expected = e.command.expected;
    if (expected == kAnyCode || e.code == expected) continue;
    if (expected == 0) return e.code;
    const Error mismatch(Code::invalid_argument, fmt::format("line {}: expected exit {}, got {}",
                                                             e.command.line, expected, e.code));
    config_.err(render_error(mismatch, config_.json));
    return e.code != 0 ? e.code : static_cast<int>(kExitNo);
  }
  return kExitOk;
}

int Shell::run_lines(std::string_view text) {
  const auto commands = parse_script(text);
  if (!commands) {
    config_.err(render_error(commands.error(), config_.json));
    return kExitUsage;
  }
  for (const Command& command : *commands) {
    if (const int code = verdict(step(command)); code != kExitOk) return code;
    if (done()) break;
  }
  return kExitOk;
}

int Shell::run_script(std::string_view text) {
  const int code = run_lines(text);
  const int late = verdict(finish());
  return code != kExitOk ? code : late;
}

bool Shell::done() const {
  return main_.done() || std::any_of(lanes_.begin(), lanes_.end(), [](const auto& l) {
           return !l.second->command && l.second->session.done();
         });
}

int Shell::close() {
  finish();
  main_.close();
  for (auto& [number, lane] : lanes_) lane->backlog.clear();
  for (;;) {  // after an interrupt some are still queued: what the others release ends their wait
    bool queued = false;
    for (auto& [number, lane] : lanes_) {
      queued |= lane->command.has_value();
      if (lane->command) continue;
      lane->session.close();
      for (const auto& [is_error, text] : lane->said) config_.err(text);
      lane->said.clear();
    }
    if (!queued) break;
    wait_for_news(kPollNs);
    settle(nullptr);
  }
  const auto closed = db_.close();
  if (closed) return kExitOk;
  config_.err(render_error(closed.error(), config_.json, "close"));
  return exit_code(closed.error().code());
}

std::string Shell::prompt() const {
  std::string out = db_.info().mode;
  const bool s2pl = out == "s2pl";
  const std::vector<TransactionInfo> open = db_.transactions();
  const auto add = [&](std::string_view who, std::uint64_t id, Isolation level) {
    const auto found =
        std::find_if(open.begin(), open.end(), [&](const auto& t) { return t.id == id; });
    out += fmt::format(
        " {}{} {}", who, level_name(s2pl ? Isolation::serializable : level),
        found == open.end()
            ? "ended"
            : fmt::format("{}s",
                          std::chrono::duration_cast<std::chrono::seconds>(found->age).count()));
  };
  if (const auto& txn = main_.transaction()) add("", txn->id(), txn->isolation());
  for (const auto& [number, lane] : lanes_) {
    if (lane->open) add(fmt::format("@{} ", number), lane->open->id, lane->open->level);
  }
  return out;
}

}  // namespace kessai::tools
