// SPDX-License-Identifier: Apache-2.0
// Empty in normal builds: see scheduler.hpp.
#if defined(KESSAI_TORTURE)
#include "io/scheduler.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "io/check.hpp"

// g++ defines __SANITIZE_*, clang has features.
#if defined(__SANITIZE_ADDRESS__)
#define KESSAI_ASAN_FIBERS 1
#elif defined(__SANITIZE_THREAD__)
#define KESSAI_TSAN_FIBERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KESSAI_ASAN_FIBERS 1
#elif __has_feature(thread_sanitizer)
#define KESSAI_TSAN_FIBERS 1
#endif
#endif
#if defined(KESSAI_ASAN_FIBERS)
#include <sanitizer/asan_interface.h>
#endif
#if defined(KESSAI_TSAN_FIBERS)
#include <sanitizer/tsan_interface.h>
#endif

namespace kessai::io {
namespace fiber {
constinit thread_local std::int64_t t_points_left = kNever;
constinit thread_local bool t_page_points = false;
}  // namespace fiber

namespace {

// Virtual time that passes at each switch, more when the fiber gave up by itself (a spinning one
// must not take a million turns until a suspended one comes back), and how much a device takes.
constexpr std::uint64_t kSwitchNs = 500;
constexpr std::uint64_t kYieldNs = 2500;
// So many yields with no wait among them: all spin until a timer brings somebody back.
constexpr unsigned kSpinning = 100;
constexpr unsigned kMostSuspensions = 100;
constexpr std::uint64_t kDeviceMostNs = 200'000;
// An early tick leaps over no more than this, so that long time-outs stay far away.
constexpr std::uint64_t kTickMostNs = 20'000'000;
constexpr std::uint64_t kSuspendMostNs = 20'000'000;
constexpr std::uint64_t kForEver = ~std::uint64_t{0};
constexpr std::uint64_t kSites = 12;
constexpr std::size_t kStackBytes = 1u << 20;
constexpr std::size_t kKeptSwitches = 60;
constexpr unsigned kSerialBase = 1u << 20;  // beyond any thread's own

/// An anonymous mapping with a page below that traps.
class Stack {
 public:
  Stack() {
    void* p = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KESSAI_CHECK(p != MAP_FAILED);
    KESSAI_CHECK(::mprotect(p, 4096, PROT_NONE) == 0);
    memory_ = static_cast<char*>(p);
  }
  ~Stack() {
#if defined(KESSAI_ASAN_FIBERS)
    // The frames that were dropped are still marked, and what is mapped here next would look bad.
    __asan_unpoison_memory_region(usable(), bytes());
#endif
    ::munmap(memory_, kStackBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  [[nodiscard]] char* usable() const { return memory_ + 4096; }
  [[nodiscard]] static constexpr std::size_t bytes() { return kStackBytes - 4096; }

 private:
  char* memory_;
};

enum class State : std::uint8_t { runnable, waiting, ended };
enum class Why : std::uint8_t { preempted, yields, waits, ended };

struct Fiber {
  unsigned number = 0;  ///< from 1, in order of creation
  unsigned index = 0;
  std::string name;
  std::function<void()> body;
  std::unique_ptr<Stack> stack = std::make_unique<Stack>();
  ucontext_t context{};
  State state = State::runnable;
  const void* key = nullptr;
  std::uint64_t deadline = kForEver;
  fiber::WaitFor what{};
  bool woken = false;
  unsigned watched = 0;
  std::uint64_t priority = 0;
  std::uint64_t slowness = 1;  ///< of the disk, for this one
  Site at;
#if defined(KESSAI_TSAN_FIBERS)
  void* tsan = __tsan_create_fiber(0);
  ~Fiber() { __tsan_destroy_fiber(tsan); }
#endif
};

struct Switch {
  std::uint64_t point = 0;
  unsigned from = 0, to = 0;
  Why why{};
  Site at;
};

/// From the module's folder on, wherever the source is checked out: strategies depend on it.
std::string place(const Site& at) {
  std::string_view file = at.file_name();
  std::size_t begin = 0;
  for (const std::string_view root :
       {"/io/", "/wal/", "/btree/", "/mvcc/", "/engine/", "/tools/", "/tests/"})
    if (const auto i = file.rfind(root); i != std::string_view::npos)
      begin = std::max(begin, i + 1);
  file.remove_prefix(begin);
  return std::string(file) + ":" + std::to_string(at.line());
}

}  // namespace

// ---- choices ------------------------------------------------------------------------------------

bool Choices::advance() {
  at_ = 0;
  while (!path_.empty() && path_.back().chosen + 1 >= path_.back().options) path_.pop_back();
  if (path_.empty()) return false;
  ++path_.back().chosen;
  return true;
}

unsigned Choices::choose(unsigned options) {
  if (options <= 1) return 0;
  if (at_ == path_.size()) path_.push_back({options, 0});
  KESSAI_CHECK(path_[at_].options == options);  // else the run is not deterministic
  return path_[at_++].chosen;
}

// ---- one run ------------------------------------------------------------------------------------

namespace {

class Run {
 public:
  explicit Run(const Scheduler::Options& o) : o_(o), random_(o.seed), armed_(o.armed) {
    KESSAI_CHECK(o.clock != nullptr);
    KESSAI_CHECK(o.strategy != Scheduler::Strategy::exhaustive || o.choices != nullptr);
    if (o.choices != nullptr) o.choices->rewind();
    if (o.strategy == Scheduler::Strategy::pct) {
      for (unsigned i = 0; i < o.preemptions; ++i)
        changes_.push_back(random_.below(std::max<std::uint64_t>(o.expected_points, 1)));
      std::ranges::sort(changes_);
    }
  }

  Scheduler::Outcome go(const std::function<void()>& body);
  unsigned start(const char* name, std::function<void()> body);

  // What fiber.hpp asks for.
  void preempt(const Site& at);
  bool block(const void* key, std::uint64_t timeout_ns, fiber::WaitFor what, const Site& at);
  void wake(const void* key, int count);
  void yield(const Site& at);
  void device(const Site& at);
  void join(unsigned number, const Site& at);
  [[nodiscard]] Fiber& running() const { return *running_; }
  [[nodiscard]] std::string schedule() const;
  [[nodiscard]] std::string who_waits() const;
  void arm();
  [[nodiscard]] std::uint64_t points() const {
    return points_ + static_cast<std::uint64_t>(gap_ - fiber::t_points_left);
  }

 private:
  using Strategy = Scheduler::Strategy;

  static void enter(unsigned high, unsigned low);
  [[noreturn]] void main_of(Fiber& f);
  [[nodiscard]] bool counts(const Site& at);
  void settle_points() noexcept;
  void draw_gap() noexcept;
  [[nodiscard]] bool may_preempt() const {
    return armed_ && preemptions_ < o_.most_preemptions &&
           (o_.strategy != Strategy::exhaustive || deviations_ < o_.preemptions);
  }
  void fire_timers();
  /// All wait: goes on with the first timer. False: there is none, or a wake-up is lost.
  bool leap();
  Fiber* pick(Why why);
  void switch_away(Why why, const Site& at);
  void jump(Fiber& to);
  void violate(const std::string& what);

  const Scheduler::Options& o_;
  SeededRandom random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;  ///< [0] has number 1
  Fiber* running_ = nullptr;
  ucontext_t host_{};
  std::vector<std::uint64_t> changes_;  ///< pct: points at which the running fiber's priority falls
  std::uint64_t lowest_ = std::uint64_t{1} << 62;
  std::int64_t gap_ = 0;
  std::uint64_t points_ = 0;  ///< passed before the present gap
  bool armed_ = true;
  unsigned yields_ = 0;  ///< since the last wait
  unsigned suspensions_ = 0;
  unsigned deviations_ = 0;  ///< exhaustive: decisions other than the first option
  std::uint64_t preemptions_ = 0, switches_ = 0, turns_ = 0, hash_ = 0xcbf29ce484222325;
  std::map<std::pair<const char*, unsigned>, bool> sites_;  ///< see counts()
  std::deque<Switch> last_;
  std::optional<std::string> violation_;
#if defined(KESSAI_ASAN_FIBERS)
  const void* host_stack_ = nullptr;
  std::size_t host_bytes_ = 0;
#endif
#if defined(KESSAI_TSAN_FIBERS)
  void* host_tsan_ = __tsan_get_current_fiber();
#endif
};

thread_local Run* t_run = nullptr;
thread_local unsigned t_quiet = 0;

void Run::enter(unsigned high, unsigned low) {
  auto* f = reinterpret_cast<Fiber*>(std::uintptr_t{high} << 32 | low);
  t_run->main_of(*f);
}

void Run::main_of(Fiber& f) {
#if defined(KESSAI_ASAN_FIBERS)
  const void* from = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
  if (host_stack_ == nullptr) {
    host_stack_ = from;
    host_bytes_ = bytes;
  }
#endif
  f.body();
  f.body = nullptr;
  f.state = State::ended;
  wake(&f, INT32_MAX);
  switch_away(Why::ended, Site::current());
  __builtin_unreachable();
}

unsigned Run::start(const char* name, std::function<void()> body) {
  auto f = std::make_unique<Fiber>();
  Fiber* const fresh = f.get();
  f->number = static_cast<unsigned>(fibers_.size()) + 1;
  std::vector<unsigned> taken;
  for (const auto& other : fibers_)
    if (other->state != State::ended) taken.push_back(other->index);
  while (std::ranges::find(taken, f->index) != taken.end()) ++f->index;
  f->name = std::string(name) + "#" + std::to_string(f->number);
  f->body = std::move(body);
  f->priority = (std::uint64_t{1} << 63) | random_.next() >> 1;
  if (o_.uneven) f->slowness = std::uint64_t{1} << (2 * random_.below(3));
  KESSAI_CHECK(::getcontext(&f->context) == 0);
  f->context.uc_stack.ss_sp = f->stack->usable();
  f->context.uc_stack.ss_size = Stack::bytes();
  f->context.uc_link = nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(fresh);
  ::makecontext(&f->context, reinterpret_cast<void (*)()>(&Run::enter), 2,
                static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  // Only makecontext needs it. ASan's swapcontext would take the marks off a stack of known size,
  // all of it at each switch.
  f->context.uc_stack.ss_size = 0;
  fibers_.push_back(std::move(f));
  return fresh->number;
}

Scheduler::Outcome Run::go(const std::function<void()>& body) {
  KESSAI_CHECK(t_run == nullptr);
  t_run = this;
  t_quiet = 0;
  running_ = fibers_[start("main", body) - 1].get();
  draw_gap();
  fiber::t_page_points = o_.page_points;
#if defined(KESSAI_ASAN_FIBERS)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, running_->stack->usable(), Stack::bytes());
#endif
#if defined(KESSAI_TSAN_FIBERS)
  __tsan_switch_to_fiber(running_->tsan, 0);
#endif
  ::swapcontext(&host_, &running_->context);
#if defined(KESSAI_ASAN_FIBERS)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  settle_points();
  fiber::t_points_left = fiber::kNever;
  fiber::t_page_points = false;
  t_run = nullptr;
  t_quiet = 0;
  return {.violation = violation_,
          .points = points_,
          .switches = switches_,
          .preemptions = preemptions_,
          .fibers = static_cast<unsigned>(fibers_.size()),
          .hash = hash_};
}

// ---- points -------------------------------------------------------------------------------------

void Run::settle_points() noexcept {
  points_ = points();
  gap_ = fiber::t_points_left = 0;
}

/// How many points the running fiber passes from here before it is switched away.
void Run::draw_gap() noexcept {
  std::uint64_t gap = fiber::kNever;
  if (may_preempt()) {
    switch (o_.strategy) {
      case Strategy::random_walk: {
        const double u = (static_cast<double>(random_.next() >> 11) + 1) * 0x1p-53;
        gap = static_cast<std::uint64_t>(-std::log(u) * static_cast<double>(o_.mean_gap));
        break;
      }
      case Strategy::pct:
        while (!changes_.empty() && changes_.front() < points_) changes_.erase(changes_.begin());
        if (!changes_.empty()) gap = changes_.front() - points_;
        break;
      case Strategy::sites:
      case Strategy::exhaustive:
        gap = 0;
        break;
    }
  }
  gap_ = fiber::t_points_left = static_cast<std::int64_t>(gap);
}

void Run::arm() {
  settle_points();
  armed_ = true;
  for (std::uint64_t& at : changes_) at += points_;
  draw_gap();
}

/// Whether the strategy preempts at this line at all.
bool Run::counts(const Site& at) {
  if (o_.strategy != Strategy::sites && o_.only_in.empty()) return true;
  const auto [known, fresh] = sites_.try_emplace({at.file_name(), at.line()}, false);
  if (!fresh) return known->second;
  const std::string_view file = at.file_name();
  bool yes = o_.only_in.empty() || std::ranges::any_of(o_.only_in, [&](const std::string& part) {
               return file.find(part) != std::string_view::npos;
             });
  if (o_.strategy == Strategy::sites) {
    std::uint64_t hash = o_.seed ^ at.line();
    for (const char c : place(at)) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    yes = yes && SeededRandom(hash).below(kSites) == 0;
  }
  return known->second = yes;
}

void Run::preempt(const Site& at) {
  settle_points();
  if (!counts(at) || (o_.strategy == Strategy::sites && random_.below(o_.mean_gap) != 0))
    return draw_gap();
  if (o_.suspend_odds != 0 && o_.strategy != Strategy::exhaustive && may_preempt() &&
      random_.below(o_.suspend_odds) == 0 && ++suspensions_ <= kMostSuspensions) {
    // From microseconds to the most, each magnitude as likely.
    const std::uint64_t ns = random_.below(kSuspendMostNs >> random_.below(12)) + 1;
    running_->key = nullptr;
    running_->deadline = o_.clock->now_ns() + ns;
    running_->what = fiber::WaitFor::timer;
    running_->state = State::waiting;
  }
  switch_away(Why::preempted, at);
}

// ---- waiting ------------------------------------------------------------------------------------

bool Run::block(const void* key, std::uint64_t timeout_ns, fiber::WaitFor what, const Site& at) {
  Fiber& f = *running_;
  const std::uint64_t now = o_.clock->now_ns();
  f.key = key;
  f.deadline = timeout_ns < kForEver - now ? now + timeout_ns : kForEver;
  f.what = what;
  f.woken = false;
  f.state = State::waiting;
  settle_points();
  switch_away(Why::waits, at);
  return f.woken;
}

void Run::wake(const void* key, int count) {
  for (; count > 0; --count) {
    std::array<Fiber*, 64> waiting;
    unsigned n = 0;
    for (const auto& f : fibers_)
      if (f->state == State::waiting && f->key == key && n < waiting.size()) waiting[n++] = f.get();
    if (n == 0) return;
    Fiber& f = *waiting[o_.strategy == Strategy::exhaustive ? 0 : random_.below(n)];
    f.state = State::runnable;
    f.woken = true;
    f.key = nullptr;
  }
}

void Run::yield(const Site& at) {
  settle_points();
  switch_away(Why::yields, at);
}

void Run::device(const Site& at) {
  const std::uint64_t ns = o_.strategy == Strategy::exhaustive
                               ? kDeviceMostNs / 2
                               : 1000 + random_.below(kDeviceMostNs) * running_->slowness;
  (void)block(nullptr, ns, fiber::WaitFor::device, at);
}

void Run::join(unsigned number, const Site& at) {
  Fiber& f = *fibers_[number - 1];
  while (f.state != State::ended) (void)block(&f, kForEver, fiber::WaitFor::event, at);
}

// ---- switching ----------------------------------------------------------------------------------

void Run::fire_timers() {
  const std::uint64_t now = o_.clock->now_ns();
  for (const auto& f : fibers_)
    if (f->state == State::waiting && f->deadline <= now) f->state = State::runnable;
}

bool Run::leap() {
  std::uint64_t first = kForEver;
  bool watched = false, works = false;
  for (const auto& f : fibers_) {
    if (f->state != State::waiting) continue;
    first = std::min(first, f->deadline);
    if (f->what != fiber::WaitFor::event) works = true;
    if (f->what == fiber::WaitFor::event && f->watched != 0) watched = true;
  }
  if (first == kForEver) {
    violate("deadlock: every thread waits");
    return false;
  }
  if (watched && !works) {
    violate("a wake-up is lost: every thread waits, and only a time-out would go on");
    return false;
  }
  o_.clock->set(std::max(first, o_.clock->now_ns()));
  fire_timers();
  return true;
}

/// Whose turn it is; null: the run is over or has failed.
Fiber* Run::pick(Why why) {
  o_.clock->advance(why == Why::yields ? kYieldNs : kSwitchNs);
  if (o_.tick_odds != 0 && o_.strategy != Strategy::exhaustive &&
      random_.below(o_.tick_odds) == 0) {
    std::uint64_t first = kForEver;
    for (const auto& f : fibers_)
      if (f->state == State::waiting) first = std::min(first, f->deadline);
    const std::uint64_t now = o_.clock->now_ns();
    if (first > now && first != kForEver && first - now <= kTickMostNs) o_.clock->set(first);
  }
  if (why == Why::waits || why == Why::ended) {
    yields_ = 0;
  } else if (why == Why::yields && ++yields_ > kSpinning) {
    yields_ = 0;
    std::uint64_t first = kForEver;
    for (const auto& f : fibers_)
      if (f->state == State::waiting) first = std::min(first, f->deadline);
    if (first != kForEver) o_.clock->set(std::max(first, o_.clock->now_ns()));
  }
  fire_timers();
  std::vector<Fiber*> can;
  for (;;) {
    bool left = false;
    for (const auto& f : fibers_) {
      left = left || f->state != State::ended;
      if (f->state == State::runnable) can.push_back(f.get());
    }
    if (!left) return nullptr;
    if (!can.empty()) break;
    if (!leap()) return nullptr;
  }
  if (can.size() == 1) return can.front();
  switch (o_.strategy) {
    case Strategy::random_walk:
    case Strategy::sites:
      if (why != Why::waits && why != Why::ended) std::erase(can, running_);
      return can[random_.below(can.size())];
    case Strategy::pct:
      if (why == Why::preempted || why == Why::yields) running_->priority = --lowest_;
      return *std::ranges::max_element(can, {}, &Fiber::priority);
    case Strategy::exhaustive: {
      const auto next =
          std::ranges::find_if(can, [&](const Fiber* f) { return f->number > running_->number; });
      std::ranges::rotate(can, next == can.end() ? can.begin() : next);
      if (why == Why::yields || !armed_ || deviations_ >= o_.preemptions) return can.front();
      if (why == Why::preempted) {  // going on is the first option
        std::erase(can, running_);
        can.insert(can.begin(), running_);
      }
      const unsigned chosen = o_.choices->choose(static_cast<unsigned>(can.size()));
      deviations_ += chosen != 0 ? 1 : 0;
      return can[chosen];
    }
  }
  return nullptr;
}

void Run::switch_away(Why why, const Site& at) {
  Fiber& from = *running_;
  from.at = at;
  Fiber* to = violation_ ? nullptr : pick(why);
  if (to != nullptr && ++turns_ > o_.most_turns) {
    violate("livelock: more than " + std::to_string(o_.most_turns) + " turns");
    to = nullptr;
  }
  if (to == &from) return draw_gap();
  if (to != nullptr) {
    preemptions_ += why == Why::preempted ? 1 : 0;
    last_.push_back({points_, from.number, to->number, why, at});
    if (last_.size() > kKeptSwitches) last_.pop_front();
    for (const std::uint64_t word :
         {points_, std::uint64_t{from.number} << 32 | to->number, static_cast<std::uint64_t>(why)})
      hash_ = (hash_ ^ word) * 0x100000001b3;
    ++switches_;
    draw_gap();
    return jump(*to);
  }
#if defined(KESSAI_ASAN_FIBERS)
  __sanitizer_start_switch_fiber(nullptr, host_stack_, host_bytes_);
#endif
#if defined(KESSAI_TSAN_FIBERS)
  __tsan_switch_to_fiber(host_tsan_, 0);
#endif
  ::setcontext(&host_);
}

void Run::jump(Fiber& to) {
  Fiber& from = *running_;
  running_ = &to;
#if defined(KESSAI_ASAN_FIBERS)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(from.state == State::ended ? nullptr : &fake, to.stack->usable(),
                                 Stack::bytes());
#endif
#if defined(KESSAI_TSAN_FIBERS)
  __tsan_switch_to_fiber(to.tsan, 0);
#endif
  ::swapcontext(&from.context, &to.context);
#if defined(KESSAI_ASAN_FIBERS)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// ---- in words -----------------------------------------------------------------------------------

void Run::violate(const std::string& what) {
  if (!violation_) violation_ = what + who_waits() + "\nlast switches:" + schedule();
}

std::string Run::who_waits() const {
  std::string out;
  const std::uint64_t now = o_.clock->now_ns();
  for (const auto& f : fibers_) {
    if (f->state == State::ended) continue;
    out += "\n  " + f->name + (f->state == State::runnable ? " could go on at " : " waits at ") +
           place(f->at);
    if (f->state == State::waiting && f->deadline != kForEver)
      out += " for " + std::to_string((f->deadline - std::min(f->deadline, now)) / 1000) +
             " us more at most";
  }
  return out;
}

std::string Run::schedule() const {
  static constexpr std::array<const char*, 4> kWhy{" is preempted at ", " yields at ", " waits at ",
                                                   " ends"};
  std::string out;
  for (const Switch& s : last_) {
    out += "\n  " + std::to_string(s.point) + ": " + fibers_[s.from - 1]->name +
           kWhy[static_cast<std::size_t>(s.why)] + (s.why == Why::ended ? "" : place(s.at)) +
           ", then " + fibers_[s.to - 1]->name;
  }
  return out;
}

}  // namespace

Scheduler::Outcome Scheduler::run(const Options& options, const std::function<void()>& body) {
  return Run(options).go(body);
}

void Scheduler::arm() noexcept {
  if (fiber::scheduled()) t_run->arm();
}

std::string Scheduler::schedule_so_far() {
  return t_run != nullptr ? t_run->schedule() + "\nnow:" + t_run->who_waits() : "";
}

Scheduler::Quiet::Quiet() noexcept
    : points_left_(fiber::t_points_left), page_points_(fiber::t_page_points) {
  ++t_quiet;
  fiber::t_points_left = fiber::kNever;
  fiber::t_page_points = false;
}

Scheduler::Quiet::~Quiet() {
  --t_quiet;
  fiber::t_points_left = points_left_;
  fiber::t_page_points = page_points_;
}

Scheduler::Watched::Watched() noexcept {
  if (fiber::scheduled()) ++t_run->running().watched;
}
Scheduler::Watched::~Watched() {
  if (fiber::scheduled()) --t_run->running().watched;
}

// ---- fiber.hpp ----------------------------------------------------------------------------------

namespace fiber {

bool scheduled() noexcept { return t_run != nullptr && t_quiet == 0; }
void preempt(const Site& at) noexcept {
  if (!scheduled()) {
    t_points_left = kNever;
    return;
  }
  t_run->preempt(at);
}
bool block(const void* key, std::uint64_t timeout_ns, WaitFor what, const Site& at) noexcept {
  return t_run->block(key, timeout_ns, what, at);
}
void wake(const void* key, int count) noexcept { t_run->wake(key, count); }
void yield(const Site& at) noexcept { t_run->yield(at); }
void device(const Site& at) noexcept {
  if (scheduled()) t_run->device(at);
}

void acquire(bool& held, const Site& at) noexcept {
  point(at);
  while (held) (void)block(&held, kForEver, WaitFor::event, at);
  held = true;
}
bool try_acquire(bool& held, const Site& at) noexcept {
  point(at);
  return !std::exchange(held, true);
}
void release(bool& held) noexcept {
  held = false;
  if (scheduled()) wake(&held, INT32_MAX);
}

unsigned index() noexcept { return t_run->running().index; }
unsigned serial() noexcept { return kSerialBase + t_run->running().number; }
unsigned start(const char* name, std::function<void()> body) {
  return t_run->start(name, std::move(body));
}
void join(unsigned number, const Site& at) noexcept { t_run->join(number, at); }

}  // namespace fiber
}  // namespace kessai::io
#endif
