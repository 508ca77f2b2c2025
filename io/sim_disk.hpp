// SPDX-License-Identifier: Apache-2.0
// The simulated disk of the crash tests: a medium in memory that knows, for each byte, name and
// size, what is certainly on it, what is only in a volatile cache, and what is under way.
//
// Model
//   * A completed write is volatile until a flush of its file that began after it completed, or is
//     durable at completion when it was a durable write (with the sizes needed to read it).
//   * Queue writes that were submitted and not reaped are under way: at a crash they are lost, kept
//     or torn. They complete in a seeded random order. Prepared, unsubmitted ones are the
//     process's.
//   * Creates, renames and removals are volatile until the directory is flushed; a rename is
//   atomic.
//     Sizes set by resize become durable with a flush of the file, and survive in order: a later
//     size never without the earlier ones.
//   * Every operation has an index. The observer runs before it takes effect and may call
//     `survivor()` for each CrashOutcome: what would be found if the power failed right here. So
//     one run of a workload yields the crash states of every index without running it again.
//
// Deterministic for a given seed when one thread uses it. Thread-safe: one recursive mutex, held
// while the observer runs (the observer may call any method of the disk).
// A copy shares no state that can change (pages are copied on write); it has no observer, faults,
// locks, attached processes or operations under way, and counts operations from 0.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.hpp"

namespace kessai::io {

/// What a crash leaves of the volatile state. "Items" are unflushed writes, sizes and directory
/// entries in completion order, then the writes under way in random order.
enum class CrashOutcome : std::uint8_t {
  none,           ///< nothing volatile survives
  all,            ///< everything does, also what was under way
  prefix,         ///< the items before a random point
  all_but_one,    ///< one random item is lost
  one_only,       ///< one random item survives
  random_512,     ///< each sector of each write by itself, each entry by itself
  random_4096,    ///< the same in blocks of 4096 bytes
  torn_last,      ///< all, but the last write stops inside: clean cut, shorn or zeroed sector
  entries_lost,   ///< data and sizes survive, directory entries do not
  metadata_only,  ///< entries and sizes survive, written bytes do not
  reordered,      ///< a random prefix per file, another for the entries
};
inline constexpr std::array kCrashOutcomes{
    CrashOutcome::none,          CrashOutcome::all,       CrashOutcome::prefix,
    CrashOutcome::all_but_one,   CrashOutcome::one_only,  CrashOutcome::random_512,
    CrashOutcome::random_4096,   CrashOutcome::torn_last, CrashOutcome::entries_lost,
    CrashOutcome::metadata_only, CrashOutcome::reordered};
[[nodiscard]] std::string_view outcome_name(CrashOutcome outcome) noexcept;

/// One kind of misbehaviour at one place. It fires on operations that match all of `op`, `kind` and
/// `file`, after `skip` matches, `count` times.
struct Fault {
  enum class What : std::uint8_t {
    io_error,        ///< EIO; a flush or durable write then treats the cache as `after_flush` says
    disk_full,       ///< ENOSPC, nothing written
    short_transfer,  ///< a write is done in two operations, invisible to the caller
    lost,            ///< a write is answered and never stored
    misdirected,     ///< what is written or read lies `distance` bytes further on, or in `target`
  };
  /// What a failed flush leaves of the unflushed writes.
  enum class AfterFlush : std::uint8_t {
    kept,      ///< still read back, never written: a later flush lies (Linux page cache)
    reverted,  ///< reads see the durable bytes again
    late,      ///< still dirty: a later flush writes them
  };
  static constexpr std::uint64_t kAnyOp = ~std::uint64_t{0};

  What what = What::io_error;
  std::uint64_t op = kAnyOp;  ///< operation index
  std::string kind;           ///< as told to the observer; "" = any
  std::string file;           ///< name; "" = any
  std::uint64_t skip = 0;
  std::uint64_t count = 1;
  AfterFlush after_flush = AfterFlush::kept;
  std::int64_t distance = 4096;  ///< outside the file: a write is lost, a read is right
  std::string target{};  ///< the file that a misdirected write hits, wrapped to its size; "" = its
                         ///< own
  int os_error = 0;      ///< of io_error and disk_full, as the kernel numbers them; 0: EIO, ENOSPC
};

class SimDisk {
 public:
  /// Kinds: create open rename remove dir_flush read write write_durable flush resize lock. Looking
  /// up sizes and names is no operation. `file` is the name under which the file was opened ("" for
  /// the directory). A queued write is an operation when it completes.
  using Observer =
      std::function<void(std::uint64_t op, std::string_view kind, std::string_view file)>;

  explicit SimDisk(std::uint64_t seed = 1, std::uint32_t block_size = 4096);
  ~SimDisk();
  SimDisk(const SimDisk& o);
  SimDisk& operator=(const SimDisk& o);
  SimDisk(SimDisk&&) noexcept;
  SimDisk& operator=(SimDisk&&) noexcept;

  /// A process's view. Valid also after the SimDisk object is gone.
  [[nodiscard]] std::unique_ptr<Directory> attach();

  [[nodiscard]] std::uint64_t ops() const;  ///< operations begun so far = index of the next one
  void set_observer(Observer observer);
  void set_block_size(std::uint32_t bytes);  ///< 512 or 4096, for directories attached later
  void set_capacity(std::uint64_t bytes);    ///< sum of file sizes beyond which growth is disk_full

  /// The medium as it may be found if the power failed now. Works during an observer call, and
  /// after crash().
  [[nodiscard]] SimDisk survivor(CrashOutcome outcome, std::uint64_t seed) const;
  /// Volatile items now; 0 means that all outcomes are alike.
  [[nodiscard]] std::size_t volatile_items() const;

  /// The power fails: every operation of every attached directory fails from now on, changing
  /// nothing.
  void crash();
  void crash_at(std::uint64_t op);  ///< crash before the operation with this index takes effect
  [[nodiscard]] bool crashed() const;
  /// kill -9 of all attached processes: the kernel's cache stays, submitted operations stay under
  /// way and hold their files' locks until they land: at a lock() with a time-out, or at settle()
  ///
  void kill_processes();
  void settle();

  void add_fault(Fault fault);
  void clear_faults();
  [[nodiscard]] std::uint64_t faults_fired() const;

  // For tests that look at or damage the stored bytes.
  [[nodiscard]] std::vector<std::string> files() const;  ///< sorted
  [[nodiscard]] bool exists(std::string_view name) const;
  [[nodiscard]] std::vector<std::byte> file_bytes(
      std::string_view name) const;  ///< as a process would read
  void set_file_bytes(std::string_view name,
                      std::span<const std::byte> bytes);  ///< durable; creates
  void remove_file(std::string_view name);                ///< durable
  void flip(std::string_view file, std::uint64_t bit);    ///< in every copy of that byte
  /// Other bytes, in every copy of them. REQUIRES that the file is that long.
  void overwrite(std::string_view file, std::uint64_t offset, std::span<const std::byte> bytes);
  /// From now on the disk keeps beside each file what it would hold if no write had been lost or
  /// misdirected. Copies go on with it.
  void keep_intended();
  /// That content. REQUIRES keep_intended().
  [[nodiscard]] std::vector<std::byte> intended_bytes(std::string_view name) const;
  /// The blocks of 4096 bytes in which `file` differs from it: their offsets, ascending.
  [[nodiscard]] std::vector<std::uint64_t> wrong_blocks(std::string_view file) const;
  /// Of the durable names, sizes and bytes. Equal images have equal hashes.
  [[nodiscard]] std::uint64_t image_hash() const;

  class Medium;  // private

 private:
  explicit SimDisk(std::shared_ptr<Medium> medium);
  std::shared_ptr<Medium> medium_;
};

}  // namespace kessai::io
