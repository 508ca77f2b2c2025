// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/media_run.hpp"

#include <cerrno>
#include <set>

#include "tools/torture/log_picture.hpp"
#include "tools/torture/media_client.hpp"

namespace kessai::crash {
namespace {

constexpr std::uint64_t kTrialsOfAStore = 64;
constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kNumbers = 0x9e3779b97f4a7c15;

using io::Fault;

enum class Kind : std::uint8_t {
  bit,
  zeros,
  garbage,
  lost_write,
  misdirected_write,
  misdirected_read,
  disk_error,
  count
};
constexpr std::array<const char*, static_cast<std::size_t>(Kind::count)> kNames{
    "bit_flip",          "zeroed",           "garbage",   "lost_write",
    "misdirected_write", "misdirected_read", "disk_error"};
constexpr std::array<std::uint64_t, 6> kSizes{8, 512, 4096, 8192, 12288, 65536};

/// A store that nobody has open, and what a client may find in it.
struct Store {
  io::SimDisk disk;
  Client client{Tables{}};  ///< all of its commits are durable
  std::uint64_t wal_limit = 0;
  std::uint64_t seed = 0;             ///< of processes that recover it
  std::vector<std::string> recovery;  ///< kind of each disk operation of a recovery
  std::vector<std::uint64_t> pages;   ///< offsets of blocks of the data file that hold something
  std::set<std::uint64_t> doubled;    ///< of these, those that the checkpoint before can replace
  std::vector<std::string> log_files;
  std::optional<LogPicture> log{};
};

class MediaHarness {
 public:
  explicit MediaHarness(const MediaPlan& plan) : plan_(plan), random_(plan.seed) {
    io::SeededRandom draw(plan.seed + 17);
    const auto some_of = [&](std::uint64_t n) {
      std::vector<std::uint64_t> out;
      while (out.empty()) {
        for (std::uint64_t i = 0; i < n; ++i)
          if (draw.below(2) == 0) out.push_back(i);
      }
      return out;
    };
    for (const auto kind : some_of(static_cast<std::uint64_t>(Kind::count)))
      kinds_.push_back(static_cast<Kind>(kind));
    for (const auto size : some_of(kSizes.size())) sizes_.push_back(kSizes[size]);
  }

  CrashRun run() {
    std::optional<std::uint64_t> built;
    for (trial_ = 0; trial_ < plan_.trials && good(); ++trial_) {
      if (plan_.only != MediaPlan::kAll && trial_ != plan_.only) continue;
      if (plan_.go_on && !plan_.go_on()) break;
      const std::uint64_t number = trial_ / kTrialsOfAStore;
      if (built != number) {
        build(number);
        built = number;
        if (!good()) break;
      }
      random_ = io::SeededRandom(plan_.seed * kNumbers + trial_ * 2 + 1);
      ++run_.outcomes;
      trial();
      mix(run_.distinct);
    }
    return std::move(run_);
  }

 private:
  [[nodiscard]] bool good() const { return !run_.violation; }
  void violate(const std::string& what) {
    if (!good()) return;
    run_.violated_at = trial_;
    run_.violation = "seed " + std::to_string(plan_.seed) + " trial " + std::to_string(trial_) +
                     (fault_.empty() ? "" : " (" + fault_ + ")") + ": " + what;
  }
  void mix(std::uint64_t n) { run_.trace_hash = (run_.trace_hash ^ n) * 0x100000001b3; }
  template <class T>
  const T& one_of(const std::vector<T>& v) {
    return v[random_.below(v.size())];
  }

  // ---- the stores ------------------------------------------------------------------------------

  void prepare(Process& p) const {
    p.options.wal_limit = store_.wal_limit;
    p.set_recovery_window(store_.seed % 2 == 0 ? 0 : 4000);
  }

  /// Two or three lives, the last of them often short: a generation with few frames or none.
  void build(std::uint64_t number) {
    fault_.clear();
    random_ = io::SeededRandom(plan_.seed * kNumbers + ~number);
    store_ = Store();
    store_.disk = io::SimDisk(random_.next());
    store_.wal_limit = (random_.below(2) == 0 ? 128 : 512) << 10;
    store_.seed = random_.next();
    Client client({{"main", std::make_shared<Rows>()}});
    const auto lives = 2 + random_.below(2);
    for (std::uint64_t life = 0; life < lives && good(); ++life) {
      Process p(store_.disk, random_.next());
      prepare(p);
      p.options.create = life == 0;
      if (!client.good(p.open())) break;
      if (life == 0) client.load(p, random_, 40 + static_cast<int>(random_.below(160)));
      client.work(p, random_, static_cast<int>(random_.below(life == 0 ? 80 : 24)));
      if (random_.below(3) == 0) client.good(p.db->checkpoint());
      if (random_.below(3) == 0)
        client.good(p.close());
      else
        client.settle(p);
    }
    run_.commits += client.states.size();
    if (client.wrong || !client.errors.empty())
      return violate("without a fault: " + client.wrong.value_or(client.errors.empty()
                                                                     ? ""
                                                                     : client.errors[0].message()));
    if (random_.below(3) == 0)
      store_.disk = store_.disk.survivor(io::CrashOutcome::none, random_.next());
    store_.disk.settle();
    store_.disk.keep_intended();
    client.told = client.states.size() - 1;
    store_.client = std::move(client);
    look_at_store();
  }

  void look_at_store() {
    io::SimDisk copy = store_.disk;
    std::vector<std::string> kinds;
    copy.set_observer(
        [&](std::uint64_t, std::string_view kind, std::string_view) { kinds.emplace_back(kind); });
    Process p(copy, store_.seed);
    prepare(p);
    if (auto r = p.open(); !r) return violate("without a fault: " + r.error().message());
    copy.set_observer({});
    store_.recovery = std::move(kinds);
    const auto found = read_all(*p.db);
    if (!found || !same(*found, store_.client.states.back()))
      return violate("without a fault: the store holds something else");
    if (auto bad = first_damage(*p.db)) return violate("without a fault: " + *bad);
    const auto bytes = store_.disk.file_bytes(btree::kDataFile);
    for (std::uint64_t at = 0; at < bytes.size(); at += kBlock) {
      const auto block = std::span(bytes).subspan(at, kBlock);
      if (std::ranges::any_of(block, [](std::byte b) { return b != std::byte{0}; }))
        store_.pages.push_back(at);
    }
    note_doubled(bytes);
    for (const auto& name : store_.disk.files())
      if (name.starts_with("wal-")) store_.log_files.push_back(name);
    store_.log.emplace(store_.disk);
  }

  /// Superblocks, and a map of one chunk that the checkpoint before does not share.
  void note_doubled(const std::vector<std::byte>& bytes) {
    std::map<std::uint64_t, btree::Superblock> valid;
    for (std::uint64_t at = 0; at < btree::kFirstSlotOffset; at += btree::kSuperblockStride) {
      const auto sb = btree::decode_superblock(
          std::span<const std::byte, kPageSize>(bytes.data() + at, kPageSize));
      if (sb) valid[sb->number] = *sb;
      store_.doubled.insert(at);
    }
    const btree::Superblock &newest = valid.rbegin()->second, &older = (++valid.rbegin())->second;
    if (newest.map_depth == 1 && newest.map_slot != older.map_slot)
      store_.doubled.insert(btree::kFirstSlotOffset + (newest.map_slot - 1) * kPageSize);
  }

  // ---- one trial -------------------------------------------------------------------------------

  void trial() {
    kind_ = one_of(kinds_);
    replaceable_ = false;
    fault_ = kNames[static_cast<std::size_t>(kind_)];
    switch (kind_) {
      case Kind::bit:
      case Kind::zeros:
      case Kind::garbage:
        return strike();
      case Kind::lost_write:
      case Kind::misdirected_write:
        return bad_write();
      case Kind::misdirected_read:
        return random_.below(2) == 0 ? bad_read_of_work() : failing_recovery();
      case Kind::disk_error:
      case Kind::count:
        return failing_recovery();
    }
  }

  struct Verdict {
    bool detected = false;
    bool unproven = false;
  };
  void count(const Verdict& v) {
    FaultCount& c = run_.media[kNames[static_cast<std::size_t>(kind_)]];
    ++c.injected;
    ++(v.unproven ? c.unproven : v.detected ? c.detected : c.harmless);
    mix(v.unproven ? 3 : v.detected ? 2 : 1);
  }

  // ---- bytes that change while nobody looks ----------------------------------------------------

  void strike() {
    io::SimDisk disk = store_.disk;
    if (!change_bytes(disk)) return;  // zeros over zeros
    const auto blocks = disk.wrong_blocks(btree::kDataFile);
    replaceable_ = blocks.size() == 1 && store_.doubled.contains(blocks.front());
    const auto v = judge(disk, store_.client, *store_.log);
    if (good()) count(v);
  }

  bool change_bytes(io::SimDisk& disk) {
    std::string file = btree::kDataFile;
    std::uint64_t at = 0;
    if (random_.below(5) < 2) {
      file = one_of(store_.log_files);
      const std::uint64_t blocks = disk.file_bytes(file).size() / kBlock;
      const std::array<std::uint64_t, 3> first{1, std::min<std::uint64_t>(blocks, 8), blocks};
      at = random_.below(first[random_.below(3)]) * kBlock;
    } else {
      at = random_.below(4) == 0 ? random_.below(btree::kSuperblocks) * btree::kSuperblockStride
                                 : one_of(store_.pages);
    }
    if (kind_ == Kind::bit) {
      const std::uint64_t bit = at * 8 + random_.below(random_.below(2) == 0 ? 1600 : kBlock * 8);
      fault_ += " of " + file + " bit " + std::to_string(bit);
      disk.flip(file, bit);
      return true;
    }
    const std::uint64_t size = one_of(sizes_);
    if (size < kBlock) at += random_.below(kBlock / size) * size;
    const std::uint64_t whole = disk.file_bytes(file).size();
    std::vector<std::byte> bytes(std::min(size, whole - at));
    if (kind_ == Kind::garbage) random_.fill(bytes);
    fault_ +=
        " of " + file + " " + std::to_string(bytes.size()) + " bytes at " + std::to_string(at);
    disk.overwrite(file, at, bytes);
    return !disk.wrong_blocks(file).empty();
  }

  // ---- writes and reads that go wrong at work --------------------------------------------------

  Fault drawn_fault() {
    Fault f;
    f.what = kind_ == Kind::lost_write ? Fault::What::lost : Fault::What::misdirected;
    f.distance = static_cast<std::int64_t>((1 + random_.below(1ULL << random_.below(8))) * kBlock);
    if (random_.below(2) == 0) f.distance = -f.distance;
    f.skip = random_.below(random_.below(2) == 0 ? 6 : 40);
    if (kind_ == Kind::misdirected_read) {
      f.kind = "read";
      if (random_.below(2) == 0) f.file = btree::kDataFile;
      return f;
    }
    const auto dice = random_.below(8);
    f.kind = dice < 3 ? "write_durable" : "write";
    if (dice >= 4) f.file = btree::kDataFile;
    if (dice == 3) {  // the header of a generation, when it is written at once
      f.file = one_of(store_.log_files);
      f.skip = random_.below(3);
    }
    if (random_.below(4) == 0)
      f.target = random_.below(2) == 0 ? btree::kDataFile : one_of(store_.log_files);
    return f;
  }
  void name_fault(const Fault& f) {
    fault_ += " of " + f.kind + " " + f.file + " after " + std::to_string(f.skip) + ", by " +
              std::to_string(f.distance) + (f.target.empty() ? "" : " into " + f.target);
  }

  void bad_write() {
    io::SimDisk disk = store_.disk;
    Client client = store_.client;
    const Fault fault = drawn_fault();
    name_fault(fault);
    live(disk, client, fault);
    if (!good() || disk.faults_fired() == 0) return;
    disk.clear_faults();
    auto v = judge(disk, client, LogPicture(disk));
    v.detected |= !client.errors.empty();
    if (good()) count(v);
  }

  /// A misdirected read passes: the next process finds everything.
  void bad_read_of_work() {
    io::SimDisk disk = store_.disk;
    Client client = store_.client;
    const Fault fault = drawn_fault();
    name_fault(fault);
    live(disk, client, fault);
    if (!good() || disk.faults_fired() == 0) return;
    disk.clear_faults();
    must_be_whole(disk, client);
    if (good()) count({.detected = !client.errors.empty()});
  }

  /// Open, work, close or kill, with the fault from before the open on or after it.
  void live(io::SimDisk& disk, Client& client, const Fault& fault) {
    Process p(disk, store_.seed);
    prepare(p);
    const bool early = random_.below(2) == 0 || fault.file.starts_with("wal-");
    if (early) disk.add_fault(fault);
    if (client.good(p.open())) {
      if (!early) disk.add_fault(fault);
      client.work(p, random_, 2 + static_cast<int>(random_.below(24)));
      if (!client.over && random_.below(2) == 0) client.good(p.db->checkpoint());
      if (!client.over) client.work(p, random_, static_cast<int>(random_.below(12)));
      if (!client.over) client.settle(p);
      if (!client.over) {
        disk.clear_faults();  // looking writes, too: pages are evicted
        look_at_open_store(*p.db, disk, client);
      }
      if (random_.below(3) == 0 && client.good(p.close())) client.told = client.states.size() - 1;
    }
    if (client.wrong) violate(*client.wrong);
    for (const Error& e : client.errors) {
      if (disk.faults_fired() == 0) return violate("without a fault: " + e.message());
      if (!names_damage(e)) return violate("an unexpected error: " + e.message());
    }
  }

  void look_at_open_store(Database& db, const io::SimDisk& disk, Client& client) {
    const auto report = db.check();
    if (!report) {
      static_cast<void>(client.good(std::unexpected(report.error())));
      return;
    }
    must_name_damage(db, disk, *report);
    // Of the two newest superblocks, the open store knows what they must be.
    std::map<std::uint64_t, std::uint64_t> newest;  // number -> offset
    const auto meant = disk.intended_bytes(btree::kDataFile);
    for (std::uint64_t at = 0; at < btree::kFirstSlotOffset; at += btree::kSuperblockStride) {
      const auto sb = btree::decode_superblock(
          std::span<const std::byte, kPageSize>(meant.data() + at, kPageSize));
      if (sb) newest[sb->number] = at;
    }
    const auto named = offsets_of(*report);
    for (const std::uint64_t at : disk.wrong_blocks(btree::kDataFile)) {
      for (const auto& [number, offset] : newest) {
        if (offset == at && number + 2 > newest.rbegin()->first && !named.contains(at))
          violate("check() does not name superblock number " + std::to_string(number));
      }
    }
    // It is an error for the client, like one that a call answers.
    for (const Damage& d : report->damage)
      client.errors.emplace_back(Code::damaged, ErrorDetail{.what = d.what, .path = d.file});
  }

  // ---- recoveries on a failing disk ------------------------------------------------------------

  void failing_recovery() {
    io::SimDisk disk = store_.disk;
    const std::uint64_t op = random_.below(store_.recovery.size());
    const std::string& kind = store_.recovery[op];
    if (kind_ == Kind::misdirected_read && kind != "read") return;
    const bool typed_as_damage = kind_ == Kind::misdirected_read;
    for (const Fault& f : typed_as_damage ? std::vector{misread(op)} : disk_errors(op, kind))
      disk.add_fault(f);
    fault_ += " at operation " + std::to_string(op) + " of recovery (" + kind + ")";
    Client client = store_.client;
    bool opened = false;
    {
      Process p(disk, store_.seed);
      prepare(p);
      opened = client.good(p.open());
      if (opened) client.work(p, random_, static_cast<int>(random_.below(8)));
    }
    if (client.wrong) return violate(*client.wrong);
    for (const Error& e : client.errors) {
      const bool ok = typed_as_damage ? names_damage(e) : names_disk_error(e);
      if (!ok) return violate("an unexpected error: " + e.message());
    }
    const bool fired = disk.faults_fired() > 0;
    disk.clear_faults();
    if (!fired) return;
    if (!typed_as_damage && random_.below(3) == 0)
      disk = disk.survivor(io::kCrashOutcomes[random_.below(io::kCrashOutcomes.size())],
                           random_.next());
    must_be_whole(disk, client);
    if (good()) count({.detected = !client.errors.empty()});
  }

  Fault misread(std::uint64_t op) {
    Fault f = drawn_fault();
    f.file.clear();
    f.skip = 0;
    f.op = op;
    return f;
  }

  /// One error, or a disk that takes nothing more from there on.
  std::vector<Fault> disk_errors(std::uint64_t op, const std::string& kind) {
    static constexpr std::array kFull{ENOSPC, EDQUOT, EFBIG};
    const bool grows = kind == "write" || kind == "write_durable" || kind == "create" ||
                       kind == "resize" || kind == "flush";
    Fault f;
    f.op = op;
    f.after_flush = std::array{Fault::AfterFlush::kept, Fault::AfterFlush::reverted,
                               Fault::AfterFlush::late}[random_.below(3)];
    const auto dice = random_.below(8);
    std::string name = "EIO";
    if (kind.starts_with("write") && dice == 0) {
      f.what = Fault::What::short_transfer;
      name = "short";
    } else if (grows && dice < 4) {
      f.what = Fault::What::disk_full;
      f.os_error = kFull[random_.below(kFull.size())];
      name = "full";
    } else if (kind != "read" && kind != "open" && kind != "lock" && dice < 6) {
      f.os_error = EROFS;
      name = "EROFS";
    }
    ++run_.faults["recovery_" + name + "_" + kind];
    fault_ += " " + name;
    std::vector<Fault> out{f};
    if (f.os_error == 0 || random_.below(2) == 0) return out;
    for (const char* later : {"write", "write_durable", "create", "resize", "rename", "remove"}) {
      f.op = Fault::kAnyOp;
      f.kind = later;
      f.count = 1000;
      f.skip = static_cast<std::uint64_t>(std::count(
          store_.recovery.begin(), store_.recovery.begin() + static_cast<std::ptrdiff_t>(op),
          std::string(later)));
      out.push_back(f);
    }
    return out;
  }

  // ---- the oracle ------------------------------------------------------------------------------

  static bool names_damage(const Error& e) {
    if (e == Code::poisoned || e == Code::unknown_outcome) return true;
    const bool typed =
        e == Code::damaged || e == Code::log_damaged || e == Code::superblock_damaged;
    return typed && !e.detail().what.empty() && !e.detail().path.empty();
  }
  static bool names_disk_error(const Error& e) {
    if (e == Code::poisoned || e == Code::unknown_outcome) return true;
    const bool typed = e == Code::io_error || e == Code::disk_full || e == Code::permission_denied;
    return typed && !e.detail().what.empty();
  }

  static std::set<std::uint64_t> offsets_of(const CheckReport& report) {
    std::set<std::uint64_t> out;
    for (const Damage& d : report.damage)
      if (d.file.ends_with(btree::kDataFile)) out.insert(d.offset);
    return out;
  }

  /// Live pages whose stored bytes are not what was written.
  void must_name_damage(Database& db, const io::SimDisk& disk, const CheckReport& report) {
    for (const Damage& d : report.damage)
      if (d.file.empty() || d.what.empty()) return violate("check() names no place: " + d.what);
    const auto before = disk.wrong_blocks(btree::kDataFile);
    if (before.empty()) return;
    // Asked again: the look at a page may evict another one, into a slot that was wrong.
    const auto wrong = [&](std::uint64_t at) {
      return std::ranges::binary_search(before, at) &&
             std::ranges::binary_search(disk.wrong_blocks(btree::kDataFile), at);
    };
    const auto named = offsets_of(report);
    for (std::uint64_t id = 1;; ++id) {
      const auto page = db.page(id);
      if (!page && page.error() == Code::invalid_argument) return;
      if (page && page->slot == 0) continue;
      const std::uint64_t at = page ? btree::kFirstSlotOffset + (page->slot - 1) * kPageSize
                                    : page.error().detail().offset;
      if (!named.contains(at) && wrong(at))
        return violate("check() does not name page " + std::to_string(id) + " at " +
                       std::to_string(at));
    }
  }

  /// Opens what a fault left: right, or an error that says where, or the one loss in the table.
  Verdict judge(io::SimDisk& disk, const Client& client, const LogPicture& log) {
    const auto may_end = log.may_end_at(disk);
    Process p(disk, random_.next());
    prepare(p);
    ++run_.distinct;
    if (auto r = p.open(); !r) {
      if (!names_damage(r.error()) || replaceable_)
        violate("an unexpected error of open: " + r.error().message());
      return {.detected = true};
    }
    const auto found = read_all(*p.db);
    const auto report = p.db->check();
    if (!report && !names_damage(report.error()))
      violate("an unexpected error of check(): " + report.error().message());
    if (report) must_name_damage(*p.db, disk, *report);
    const bool reported = !report || !report->damage.empty();
    const std::size_t newest = client.states.size() - 1;
    if (!found) {
      if (!names_damage(found.error()) || replaceable_)
        violate("an unexpected error of a scan: " + found.error().message());
      if (!reported) violate("check() is clean, yet: " + found.error().message());
      std::optional<std::string> bad;
      for (std::size_t s = newest + 1; s-- > client.told;) {
        bad = contradiction(*p.db, client.states[s]);
        if (!bad) break;
      }
      if (bad) violate("wrong data beside damage that is reported: " + *bad);
      return {.detected = true};
    }
    const std::size_t oldest =
        may_end ? std::min(client.told, client.state_at(*may_end)) : client.told;
    for (std::size_t s = newest + 1; s-- > oldest;) {
      if (same(*found, client.states[s]))
        return {.detected = reported, .unproven = s < client.told};
    }
    violate((reported ? "wrong data, only check() knows: " : "wrong data, unnoticed: ") +
            difference(*found, client.states[client.told]).value_or("none") + " (" +
            std::to_string(client.told) + " of " + std::to_string(newest) + " are promised)");
    return {};
  }

  /// What went wrong has passed and left nothing: everything promised is there.
  void must_be_whole(io::SimDisk& disk, const Client& client) {
    Process p(disk, random_.next());
    prepare(p);
    ++run_.distinct;
    if (auto r = p.open(); !r) return violate("the next open: " + r.error().message());
    const auto found = read_all(*p.db);
    if (!found) return violate("after the next open: " + found.error().message());
    bool known = false;
    for (std::size_t s = client.states.size(); s-- > client.told && !known;)
      known = same(*found, client.states[s]);
    if (!known)
      return violate("after the next open: " +
                     difference(*found, client.states[client.told]).value_or("none"));
    if (auto bad = first_damage(*p.db)) return violate("after the next open: " + *bad);
    if (auto lsn = p.db->put(p.db->tree("main").value(), "after", "1"); !lsn)
      violate("no commit after the next open: " + lsn.error().message());
  }

  const MediaPlan plan_;
  io::SeededRandom random_;
  std::vector<Kind> kinds_;
  std::vector<std::uint64_t> sizes_;
  Store store_;
  Kind kind_ = Kind::bit;
  bool replaceable_ = false;  ///< what was struck has a second copy
  std::uint64_t trial_ = 0;
  std::string fault_;
  CrashRun run_;
};

}  // namespace

CrashRun media_run(const MediaPlan& plan) { return MediaHarness(plan).run(); }

}  // namespace kessai::crash
