// SPDX-License-Identifier: Apache-2.0
// The inside of the simulated disk; stays inside io/.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "io/check.hpp"
#include "io/env.hpp"
#include "io/sim_disk.hpp"

namespace kessai::io {

/// The bytes of a file: sparse, zero where never written, cheap to copy (pages are shared and
/// copied before they change).
class SimContent {
 public:
  void read(std::uint64_t offset, std::span<std::byte> into) const;
  void write(std::uint64_t offset, std::span<const std::byte> from);
  void zero(std::uint64_t offset, std::uint64_t bytes);
  void truncate(std::uint64_t size);  ///< zero from here on
  /// Offsets of the pages below `size` that differ from the other's.
  [[nodiscard]] std::vector<std::uint64_t> differing(const SimContent& o, std::uint64_t size) const;
  void mix_hash(std::uint64_t& hash) const;

 private:
  static constexpr std::size_t kPage = 4096;
  static constexpr std::size_t kFan = 64;
  struct Page {
    Page() = default;
    Page(const Page& o) : bytes(o.bytes) {}
    std::array<std::byte, kPage> bytes{};
    mutable std::atomic<std::uint64_t> hash{0};  ///< 0 = not computed
  };
  using Chunk = std::array<std::shared_ptr<Page>, kFan>;
  [[nodiscard]] const Page* find(std::uint64_t page) const;
  Page& own(std::uint64_t page);

  std::vector<std::shared_ptr<Chunk>> chunks_;
};

using SimBytes = std::shared_ptr<const std::vector<std::byte>>;

/// One volatile change of a file: a write (`data`) or a new size.
struct SimItem {
  std::uint64_t seq = 0;
  bool resize = false;
  bool extends = false;      ///< this write itself made the file longer
  std::uint64_t offset = 0;  ///< or the new size
  SimBytes data{};
  std::size_t begin = 0;  ///< part of `data` that counts (later durable writes cut pieces out)
  std::size_t size = 0;
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return std::span(*data).subspan(begin, size);
  }
};

struct SimInode {
  SimContent durable;
  std::uint64_t durable_size = 0;
  SimContent current;
  std::uint64_t current_size = 0;
  std::optional<SimContent> intended;  ///< see SimDisk::keep_intended
  std::vector<SimItem> items;
  std::uint64_t lock_owner = 0;
  unsigned handles = 0;

  void write_current(std::uint64_t offset, std::span<const std::byte> from);
  void resize_current(std::uint64_t bytes);
  void intend(std::uint64_t offset, std::span<const std::byte> from) {
    if (intended) intended->write(offset, from);
  }
  /// To the durable side. A write that did not extend the file itself is cut at the size.
  void harden(const SimItem& item);
  void harden_size(std::uint64_t bytes);
  void harden_until(std::uint64_t seq);
  /// A durable write: sizes first, then the bytes; older volatile bytes below it can't come back.
  void write_durable(std::uint64_t offset, std::span<const std::byte> from);
};

using SimInodeId = std::uint64_t;

/// A volatile change of the directory; 0 = the name is gone.
struct SimEntry {
  std::uint64_t seq = 0;
  std::vector<std::pair<std::string, SimInodeId>> changes{};
};

struct SimUnderWay {
  std::uint64_t id = 0;
  SimInodeId inode = 0;
  std::string file{};
  std::uint64_t offset = 0;
  SimBytes data{};
  bool durable = false;
  bool zombie = false;  ///< its process was killed
};

class SimDisk::Medium {
 public:
  explicit Medium(std::uint64_t seed, std::uint32_t block) : rng(seed), block_size(block) {}
  Medium(const Medium& o);

  static constexpr std::uint64_t kZombieOwner = ~std::uint64_t{0};

  /// Counts the operation, runs the observer, fails when the power or the process is gone, and
  /// returns the fault to apply.
  Result<std::optional<Fault>> begin(std::string_view kind, std::string_view file,
                                     std::uint64_t epoch_of_caller);
  [[nodiscard]] Result<void> alive(std::uint64_t epoch_of_caller) const;
  SimInode& inode(SimInodeId id) { return inodes.at(id); }
  [[nodiscard]] std::uint64_t now() const {
    const std::lock_guard lock(mutex);
    return seq;
  }
  [[nodiscard]] Result<void> check_space(const SimInode& of, std::uint64_t new_size,
                                         const std::string& path) const;
  /// A completed write or durable write takes effect, as `fault` has it.
  Result<void> apply_write(SimInodeId id, std::string_view file, std::uint64_t offset,
                           std::span<const std::byte> from, bool durable,
                           const std::optional<Fault>& fault, std::uint64_t epoch_of_caller);
  /// What apply_write does when the device does what it is told.
  void store(SimInode& node, std::uint64_t offset, std::span<const std::byte> from, bool durable);
  /// `begun`: `seq` when the flush began; what came later it need not cover.
  Result<void> apply_flush(SimInodeId id, std::string_view file, const std::optional<Fault>& fault,
                           std::uint64_t begun);
  void apply_directory_flush(std::uint64_t begun);
  void change_entries(std::vector<std::pair<std::string, SimInodeId>> changes);
  void collect_garbage();
  void land(std::size_t index);  ///< of under_way
  void land_zombies();
  [[nodiscard]] SimInodeId look_up(
      std::string_view name) const;  ///< 0 when absent; durable names count
  [[nodiscard]] std::shared_ptr<Medium> survivor(CrashOutcome outcome, std::uint64_t seed) const;
  [[nodiscard]] std::string path_of(std::string_view file) const {
    return "sim:/" + std::string(file);
  }

  mutable std::recursive_mutex mutex;  // guards everything below
  SeededRandom rng;
  std::uint32_t block_size;
  std::uint64_t capacity = std::uint64_t{16} << 30;
  std::uint64_t seq = 0;
  SimInodeId next_inode = 1;
  std::map<SimInodeId, SimInode> inodes;
  std::map<std::string, SimInodeId, std::less<>> names;
  std::map<std::string, SimInodeId, std::less<>> durable_names;
  std::vector<SimEntry> entries;
  bool keeps_intended = false;

  // Not copied with the medium.
  std::vector<SimUnderWay> under_way;
  std::uint64_t next_id = 1;  ///< of handles and operations under way
  std::uint64_t ops = 0;
  std::uint64_t crash_at = Fault::kAnyOp;
  bool crashed = false;
  bool landing = false;
  std::uint64_t epoch = 0;  ///< killed processes so far
  SimDisk::Observer observer;
  std::vector<Fault> faults;
  std::uint64_t faults_fired = 0;

 private:
  std::optional<Fault> match_fault(std::uint64_t op, std::string_view kind, std::string_view file);
};

/// What the caller is told of an io_error or disk_full, as the real back ends would.
[[nodiscard]] Error error_of(const Fault& fault, const std::string& path, std::uint64_t offset);

[[nodiscard]] std::unique_ptr<Directory> make_sim_directory(
    std::shared_ptr<SimDisk::Medium> medium);

}  // namespace kessai::io
