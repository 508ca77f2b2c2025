// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/power.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <list>
#include <optional>
#include <utility>

#include "io/check.hpp"
#include "io/env.hpp"
#include "io/sync.hpp"
#include "tools/interrupt.hpp"
#include "tools/torture/disk_recording.hpp"
#include "tools/torture/ended.hpp"
#include "tools/torture/fuse_disk.hpp"
#include "tools/torture/kill_life.hpp"
#include "tools/torture/volume.hpp"

namespace kessai::torture {
namespace {

constexpr std::uint64_t kMostEvents = 1 << 17;
constexpr std::uint64_t kMostRecorded = 256u << 20;
constexpr unsigned kMostStores = 16;
constexpr std::uint32_t kRecordingsOfVolume = 16;  // then a fresh file system
constexpr std::uint32_t kCutsOfRecording = 40;
constexpr std::uint32_t kCheckEvery = 8;  // cuts
constexpr double kLookS = 0.1;            // between two looks at whether all is over
constexpr double kRecordS = 1.0;          // most of the time that a life works

double now_s() { return static_cast<double>(io::system_clock().now_ns()) / 1e9; }

/// A child process that is killed with its parent, and by the destructor. Of the descriptors of all
/// threads that it inherits it has standard ones and, as kKept, `keep`: others would keep disks
/// busy that are not its own.
class Process {
 public:
  static constexpr int kKept = 3;
  template <class F>
  explicit Process(const F& run, int keep = -1) {
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    if (keep >= 0 && keep != kKept) dup2(keep, kKept);
    close_range(keep >= 0 ? kKept + 1 : kKept, ~0U, 0);
    for (const int sig : {SIGINT, SIGTERM}) std::signal(sig, SIG_IGN);
    _exit(run());
  }
  ~Process() {
    if (pid_ > 0) (void)kill_it();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] bool started() const { return pid_ > 0; }
  /// Its end, as of waitpid; nothing when it goes on for `seconds`, or when Ctrl-C was pressed.
  std::optional<int> wait(double seconds) {
    const Ended ended(pid_);
    const double until = now_s() + seconds;
    int status = 0;
    for (;;) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = 0;
        return status;
      }
      const double left = until - now_s();
      if (left <= 0 || tools::interrupted()) return std::nullopt;
      ended.wait(static_cast<std::uint64_t>(std::min(left, kLookS) * 1e9));
    }
  }
  int kill_it() {
    int status = 0;
    kill(pid_, SIGKILL);
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_ = 0;
};

class Runner {
 public:
  Runner(const PowerPlan& plan, unsigned number, std::string folder,
         const std::vector<FileSystem>& kinds, std::vector<DiskImage> images,
         std::atomic<bool>& all_over)
      : plan_(plan),
        number_(number),
        folder_(std::move(folder)),
        kinds_(kinds),
        all_over_(all_over),
        random_(plan.seed * kMostStores + number),
        recording_(kMostEvents, kMostRecorded),
        image_(std::move(images[0])),
        medium_(std::move(images[1])),
        cut_(std::move(images[2])) {}

  PowerResult run() {
    began_ = now_s();
    for (std::uint32_t n = 0; going(); ++n) {
      if (n % kRecordingsOfVolume == 0 && !fresh_volume(n / kRecordingsOfVolume)) break;
      medium_.become(image_);
      if (!record() || recording_.count() == 0) continue;
      make_cuts();
      if (going()) go_on_from_a_cut();
    }
    result_.seconds = now_s() - began_;
    return std::move(result_);
  }

 private:
  /// One violation is enough for all.
  [[nodiscard]] bool good() const { return !all_over_ && !tools::interrupted(); }
  [[nodiscard]] bool going() const { return good() && now_s() - began_ < plan_.seconds; }
  /// After Ctrl-C, which the programs we call get as well, failures are no findings.
  bool violation(const std::string& kind, const std::string& text) {
    if (!tools::interrupted()) result_.violations.push_back({kind, text});
    all_over_ = true;
    return false;
  }
  bool error(const char* what, const Error& e) {
    return violation("error", std::string(what) + ": " + e.message());
  }

  bool fresh_volume(std::uint64_t n) {
    kind_ = &kinds_[(plan_.seed + number_ + n) % kinds_.size()];
    image_.clear();
    board_->forget();
    if (auto made = make_file_system(*kind_, image_); !made) return error("mkfs", made.error());
    return true;
  }

  [[nodiscard]] Life next_life() {
    Life life;
    life.number = ++lives_;
    life.seed = random_.next() >> 8;
    life.s2pl = plan_.s2pl;
    life.mutant = plan_.mutant;
    return life;
  }

  // ---- recording -------------------------------------------------------------------------------

  /// image_ -> a life on it, recorded; medium_ stays what the disk held before.
  bool record() {
    recording_.begin();
    board_->moment = 0;
    const std::string disk = folder_ + "/fuse", store = folder_ + "/recorded";
    const auto fuse = mount_fuse(disk);
    if (!fuse) return error("the disk", fuse.error());
    {
      const std::uint64_t server_seed = random_.next();
      Process server(
          [&] {
            return serve({.fd = Process::kKept,
                          .image = image_.span(),
                          .recording = &recording_,
                          .moment = &board_->moment,
                          .seed = server_seed});
          },
          *fuse);
      close(*fuse);  // the server has it
      if (server.started()) live_on(disk + "/" + kFuseDiskName, store);
      if (auto done = unmount_folder(disk); !done && good()) error("the disk", done.error());
    }
    ++result_.recordings;
    result_.commits += board_->commits.exchange(0);
    result_.acked += board_->acked.exchange(0);
    for (std::uint64_t i = 0; i < recording_.count(); ++i)
      ++(recording_.event(i).is_flush() ? result_.flushes : result_.writes);
    take_complaints(*board_, "while recording");
    return good();
  }

  void live_on(const std::string& disk, const std::string& folder) {
    const int backing = open(disk.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (backing < 0) {
      violation("error", disk + ": " + std::strerror(errno));
      return;
    }
    auto volume = Volume::mount(*kind_, backing, true, folder);
    close(backing);
    if (!volume) {
      error("the recorded disk", volume.error());
      return;
    }
    live_recorded(folder + "/store");
    if (auto done = volume->unmount(); !done) error("the recorded disk", done.error());
  }

  void live_recorded(const std::string& store) {
    Life life = next_life();
    life.store = store;
    board_->stop = 0;
    Process process([&] { return live(life, *board_); });
    const double until = now_s() + kRecordS * static_cast<double>(random_.below(1000)) * 1e-3;
    const double hangs_at = until + plan_.hang_seconds;
    const bool killed = random_.below(2) == 0;
    const auto working = [&] { return board_->stage == at_stage(life.number, Stage::working); };
    for (double now = now_s(); good() && !recording_.full(); now = now_s()) {
      if (now > hangs_at) {
        violation("hang", "an open did not end");
        return;
      }
      if (now > until && working()) break;
      if (const auto status = process.wait(0.01)) return judge(*status, "a life");
    }
    if (!good()) return;
    if (killed) return judge(process.kill_it(), "a life");
    board_->stop = life.number;
    await(process, "a life");
  }

  void await(Process& process, const char* who) {
    if (const auto status = process.wait(plan_.hang_seconds)) return judge(*status, who);
    if (good()) violation("hang", std::string(who) + " did not end");
  }

  void judge(int status, const std::string& who) {
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) return;  // 1: there is a complaint
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return;
    violation("crash", who + (WIFEXITED(status)
                                  ? " gave up with exit code " + std::to_string(WEXITSTATUS(status))
                                  : " died of signal " + std::to_string(WTERMSIG(status))));
  }

  // ---- cuts ------------------------------------------------------------------------------------

  /// Cuts in the order of time, so that the medium only goes on.
  void make_cuts() {
    std::vector<PowerCut> cuts;
    for (std::uint32_t i = 0; i < kCutsOfRecording; ++i)
      cuts.push_back(drawn_cut(recording_, random_.next()));
    std::ranges::sort(cuts, {}, &PowerCut::at);
    const std::uint64_t chosen = random_.below(cuts.size());
    applied_ = 0;
    for (std::uint64_t i = 0; i < cuts.size() && going(); ++i) {
      make_cut(cuts[i], i == chosen);
      if (plan_.watch) plan_.watch(now_s() - began_);
    }
  }

  void make_cut(const PowerCut& cut, bool chosen) {
    const std::uint64_t durable = recording_.durable_at(cut.at);
    recording_.apply(applied_, durable, medium_.span());
    applied_ = durable;
    cut_.become(medium_);
    result_.torn += lay_over(recording_, cut, cut_.span(), kind_->superblock) != 0;
    if (chosen) {  // the disk of the next recording, before anybody looked at it
      image_.become(cut_);
      next_at_ = cut.at;
    }
    cut_board_->become_cut_of(*board_, cut.at);
    ++result_.cuts;
    look_at_cut(cut);
    if (!result_.violations.empty()) keep_evidence(cut);
  }

  void look_at_cut(const PowerCut& cut) {
    const std::string folder = folder_ + "/cut";
    auto volume = Volume::mount(*kind_, cut_.fd(), false, folder);
    if (!volume) {
      error("after a power cut", volume.error());
      return;
    }
    Life life = next_life();
    life.store = folder + "/store";
    life.last = true;
    life.check = result_.cuts % kCheckEvery == 0;
    {
      Process process([&] { return live(life, *cut_board_); });
      await(process, "the look at what a cut left");
    }
    if (auto done = volume->unmount(); !done) error("after a power cut", done.error());
    take_complaints(*cut_board_, cut.text());
  }

  void take_complaints(KillBoard& board, const std::string& where) {
    result_.lost += board.lost.exchange(0);
    result_.half_applied += board.half_applied.exchange(0);
    for (Complaint& c : board.complaint) {
      if (c.kind[0] != '\0') violation(c.kind, std::string(c.text) + "; " + where);
      c.kind[0] = '\0';
    }
  }

  // The cut as it was before anybody looked at it.
  void keep_evidence(const PowerCut& cut) {
    cut_.become(medium_);
    lay_over(recording_, cut, cut_.span(), kind_->superblock);
    const std::string path = plan_.directory + "/kvtorture-power-" + std::to_string(plan_.seed) +
                             "-" + std::to_string(number_) + ".img";
    std::string& text = result_.violations.back().text;
    text += "; " + std::string(kind_->fs) + " " + std::string(kind_->variant) + ", " + cut.text();
    if (cut_.save(path))
      text += "\nthe disk is kept in " + path + " (mount -o loop; the store is /store)";
    else
      text += "\nthe disk cannot be kept in " + path + ": " + std::strerror(errno);
  }

  /// The journal of the next recording is that of the cut whose disk it goes on from.
  void go_on_from_a_cut() {
    cut_board_->become_cut_of(*board_, next_at_);
    board_->become_cut_of(*cut_board_, 0);
  }

  const PowerPlan& plan_;
  const unsigned number_;
  const std::string folder_;
  const std::vector<FileSystem>& kinds_;
  std::atomic<bool>& all_over_;
  const FileSystem* kind_ = nullptr;
  io::SeededRandom random_;
  DiskRecording recording_;
  DiskImage image_;   ///< what the recorded disk reads back; then, of the next recording
  DiskImage medium_;  ///< what is certainly on it, up to event applied_
  DiskImage cut_;     ///< what a cut leaves
  SharedKillBoard board_, cut_board_;
  std::uint64_t applied_ = 0;
  std::uint32_t lives_ = 0;
  std::uint64_t next_at_ = 0;
  PowerResult result_;
  double began_ = 0;
};

PowerResult sum_of(const std::vector<PowerResult>& results) {
  PowerResult sum;
  for (const PowerResult& r : results) {
    for (const auto field : {&PowerResult::cuts, &PowerResult::recordings, &PowerResult::commits,
                             &PowerResult::acked, &PowerResult::lost, &PowerResult::half_applied,
                             &PowerResult::writes, &PowerResult::flushes, &PowerResult::torn})
      sum.*field += r.*field;
    sum.seconds = std::max(sum.seconds, r.seconds);
    sum.violations.insert(sum.violations.end(), r.violations.begin(), r.violations.end());
  }
  return sum;
}

/// Several stores at once, because each mostly waits for the kernel.
Result<PowerResult> run_stores(const PowerPlan& plan, const std::string& folder,
                               const std::vector<FileSystem>& kinds) {
  PowerPlan quiet = plan;
  quiet.watch = {};
  std::atomic<bool> all_over{false};
  std::list<Runner> runners;
  for (unsigned n = 0; n < std::clamp(plan.stores, 1u, kMostStores); ++n) {
    std::vector<DiskImage> images;
    for (int i = 0; i < 3; ++i) {
      KESSAI_ASSIGN(image, DiskImage::make(kinds.front().bytes));
      images.push_back(std::move(image));
    }
    const std::string own = folder + "/" + std::to_string(n);
    std::error_code failed;
    for (const char* name : {"", "/fuse", "/recorded", "/cut"})
      if (!failed) std::filesystem::create_directory(own + name, failed);
    if (failed) return fail(Code::io_error, own + ": " + failed.message());
    runners.emplace_back(n == 0 ? plan : quiet, n, own, kinds, std::move(images), all_over);
  }
  std::vector<PowerResult> results(runners.size());
  {
    std::vector<io::Thread> others;
    auto runner = std::next(runners.begin());
    for (std::size_t n = 1; n < results.size(); ++n, ++runner)
      others.emplace_back("power", [&results, n, runner] { results[n] = runner->run(); });
    results[0] = runners.front().run();
  }
  return sum_of(results);
}

}  // namespace

Result<PowerResult> run_power(const PowerPlan& plan) {
  auto kinds = file_systems(plan.fs);
  if (kinds.empty())
    return std::unexpected(
        Error(Code::invalid_argument, "--fs takes ext4, the one that power cuts are made for"));
  if (auto missing = why_no_mounts()) return std::unexpected(*missing);
  KESSAI_TRY(enter_private_mounts());
  std::error_code failed;
  const bool made = std::filesystem::create_directories(plan.directory, failed);
  const std::string folder = plan.directory + "/power-" + std::to_string(getpid());
  if (!failed) std::filesystem::create_directory(folder, failed);
  if (failed)
    return std::unexpected(Error(Code::io_error,
                                 ErrorDetail{.what = "no folder for the mounts", .path = folder},
                                 failed.value()));
  // A file system of our own on the folder: what is in it goes with the last process.
  if (mount("kvtorture", folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") != 0)
    return std::unexpected(Error(
        Code::not_supported, ErrorDetail{.what = "mounting was refused", .path = folder}, errno));
  auto result = run_stores(plan, folder, kinds);
  (void)unmount_folder(folder);
  std::filesystem::remove(folder, failed);
  if (made) std::filesystem::remove(plan.directory, failed);  // empty, or it holds evidence
  return result;
}

}  // namespace kessai::torture
