// SPDX-License-Identifier: Apache-2.0
// A process's view of the simulated disk: File, Queue and Directory.
#include <cerrno>

#include "io/sim_private.hpp"
#include "io/sync.hpp"

namespace kessai::io {
namespace {

using Medium = SimDisk::Medium;
using MediumPtr = std::shared_ptr<Medium>;

// Under a Scheduler an operation takes virtual time before it takes effect. No fiber may lose the
// processor while it holds the medium's mutex, so this comes first.
#if defined(KESSAI_TORTURE)
void takes_time(const Site& at = Site::current()) { fiber::device(at); }
#else
void takes_time() {}
#endif

bool fails(const std::optional<Fault>& fault) {
  return fault && (fault->what == Fault::What::io_error || fault->what == Fault::What::disk_full);
}

class SimFile final : public File {
 public:
  /// The caller holds the medium's mutex.
  SimFile(MediumPtr medium, SimInodeId inode, std::string name, bool writable, std::uint32_t block)
      : medium_(std::move(medium)),
        inode_(inode),
        name_(std::move(name)),
        path_(medium_->path_of(name_)),
        writable_(writable),
        block_(block),
        epoch_(medium_->epoch),
        handle_(medium_->next_id++) {
    ++medium_->inode(inode_).handles;
  }
  ~SimFile() override {
    const std::lock_guard lock(medium_->mutex);
    if (epoch_ != medium_->epoch) return;  // kill_processes closed it
    SimInode& node = medium_->inode(inode_);
    --node.handles;
    if (node.lock_owner == handle_) node.lock_owner = 0;
  }

  const std::string& path() const noexcept override { return path_; }

  Result<std::uint64_t> size() override {
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(medium_->alive(epoch_));
    return medium_->inode(inode_).current_size;
  }

  Result<void> read(std::uint64_t offset, std::span<std::byte> into) override {
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(check_aligned(offset, into.data(), into.size()));
    KESSAI_ASSIGN(fault, medium_->begin("read", name_, epoch_));
    return read_begun(offset, into, fault);
  }

  Result<void> read_begun(std::uint64_t offset, std::span<std::byte> into,
                          const std::optional<Fault>& fault) {
    if (fails(fault)) return fail(error_of(*fault, path_, offset));
    const SimInode& node = medium_->inode(inode_);
    if (offset + into.size() > node.current_size) {
      return fail(
          Code::damaged,
          ErrorDetail{.what = "file ends at byte " + std::to_string(node.current_size) +
                              ", read past it at offset " + std::to_string(offset) + ": truncated",
                      .path = path_,
                      .offset = offset});
    }
    if (fault && fault->what == Fault::What::misdirected) {
      const std::uint64_t at = offset + static_cast<std::uint64_t>(fault->distance);
      if (at <= node.current_size && into.size() <= node.current_size - at) offset = at;
    }
    node.current.read(offset, into);
    return {};
  }

  Result<void> write(std::uint64_t offset, std::span<const std::byte> from) override {
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(check_write(offset, from, false));
    KESSAI_ASSIGN(fault, medium_->begin("write", name_, epoch_));
    return medium_->apply_write(inode_, name_, offset, from, false, fault, epoch_);
  }

  Result<void> flush() override {
    const std::uint64_t begun = medium_->now();
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(check_sticky());
    KESSAI_ASSIGN(fault, medium_->begin("flush", name_, epoch_));
    return remember(medium_->apply_flush(inode_, name_, fault, begun));
  }

  Result<void> flush_and_drop_cache() override {
    KESSAI_TRY(flush());
    const std::lock_guard lock(medium_->mutex);
    SimInode& node = medium_->inode(inode_);
    if (!node.items.empty()) return {};  // a flush that lied
    node.current = node.durable;
    node.current_size = node.durable_size;
    return {};
  }

  Result<void> resize(std::uint64_t bytes) override {
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    if (!writable_) return fail(not_writable());
    KESSAI_ASSIGN(fault, medium_->begin("resize", name_, epoch_));
    if (fails(fault)) return fail(error_of(*fault, path_, bytes));
    SimInode& node = medium_->inode(inode_);
    KESSAI_TRY(medium_->check_space(node, bytes, path_));
    if (bytes == node.current_size) return {};
    node.resize_current(bytes);
    node.items.push_back({.seq = ++medium_->seq, .resize = true, .offset = bytes, .data = nullptr});
    return {};
  }

  Result<void> lock(std::uint64_t timeout_ns) override {
    const std::lock_guard lock(medium_->mutex);
    KESSAI_ASSIGN(fault, medium_->begin("lock", name_, epoch_));
    if (fails(fault)) return fail(error_of(*fault, path_, 0));
    SimInode& node = medium_->inode(inode_);
    // Waiting is what lets the writes of a killed process land.
    if (node.lock_owner == Medium::kZombieOwner && timeout_ns > 0) medium_->land_zombies();
    if (node.lock_owner != 0 && node.lock_owner != handle_) {
      return fail(Code::locked,
                  ErrorDetail{.what = "another process has the file open, or its last writes are "
                                      "still under way",
                              .path = path_});
    }
    node.lock_owner = handle_;
    return {};
  }

  Result<void> check_write(std::uint64_t offset, std::span<const std::byte> from,
                           bool durable) const {
    if (!writable_) return fail(not_writable());
    KESSAI_TRY(check_aligned(offset, from.data(), from.size()));
    return durable ? check_sticky() : Result<void>{};
  }

  /// The real back ends answer EINVAL.
  Result<void> check_aligned(std::uint64_t offset, const std::byte* data, std::size_t size) const {
    if (offset % block_ == 0 && size % block_ == 0 &&
        reinterpret_cast<std::uintptr_t>(data) % 512 == 0)
      return {};
    return fail(Code::io_error,
                ErrorDetail{.what = "misaligned transfer of " + std::to_string(size) +
                                    " bytes, the block size is " + std::to_string(block_),
                            .path = path_,
                            .offset = offset},
                EINVAL);
  }

  Result<void> check_sticky() const {
    if (!failed_flush_) return {};
    return fail(
        Code::io_error,
        ErrorDetail{.what = "a flush of this file failed, its writes may be lost", .path = path_},
        EIO);
  }

  Result<void> remember(Result<void> flushed) {
    failed_flush_ = failed_flush_ || !flushed;
    return flushed;
  }

  [[nodiscard]] SimInodeId inode() const { return inode_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }

 private:
  [[nodiscard]] Error not_writable() const {
    return {Code::read_only,
            ErrorDetail{.what = "write to a file opened for reading", .path = path_}};
  }

  const MediumPtr medium_;
  const SimInodeId inode_;
  const std::string name_;
  const std::string path_;
  const bool writable_;
  const std::uint32_t block_;
  const std::uint64_t epoch_;
  const std::uint64_t handle_;
  bool failed_flush_ = false;  // guarded by the medium's mutex
};

class SimQueue final : public Queue {
 public:
  SimQueue(MediumPtr medium, unsigned depth) : medium_(std::move(medium)), depth_(depth) {}
  ~SimQueue() override {
    prepared_.clear();
    std::vector<Completion> ignored;
    (void)reap(ignored, in_flight());
  }

  unsigned depth() const noexcept override { return depth_; }
  unsigned in_flight() const noexcept override {
    return static_cast<unsigned>(prepared_.size() + submitted_.size());
  }

  void read(File& file, std::uint64_t offset, std::span<std::byte> into,
            std::uint64_t tag) override {
    prepare({.file = &file_of(file), .offset = offset, .into = into, .from = {}, .tag = tag});
  }
  void write(File& file, std::uint64_t offset, std::span<const std::byte> from,
             std::uint64_t tag) override {
    prepare({.file = &file_of(file),
             .offset = offset,
             .into = {},
             .from = from,
             .tag = tag,
             .writes = true});
  }
  void write_durable(File& file, std::uint64_t offset, std::span<const std::byte> from,
                     std::uint64_t tag) override {
    prepare({.file = &file_of(file),
             .offset = offset,
             .into = {},
             .from = from,
             .tag = tag,
             .writes = true,
             .durable = true});
  }

  void submit() override {
    const std::lock_guard lock(medium_->mutex);
    for (Operation& op : prepared_) {
      op.id = medium_->next_id++;
      if (op.writes && medium_->alive(op.file->epoch()) &&
          op.file->check_write(op.offset, op.from, op.durable)) {
        op.sent = std::make_shared<const std::vector<std::byte>>(op.from.begin(), op.from.end());
        medium_->under_way.push_back({.id = op.id,
                                      .inode = op.file->inode(),
                                      .file = op.file->name(),
                                      .offset = op.offset,
                                      .data = op.sent,
                                      .durable = op.durable});
      }
      submitted_.push_back(std::move(op));
    }
    prepared_.clear();
  }

  std::size_t reap(std::vector<Completion>& out, unsigned wait_for) override {
    KESSAI_CHECK(wait_for <= in_flight());
    submit();
    if (wait_for > 0) takes_time();
    const std::lock_guard lock(medium_->mutex);
    std::size_t got = 0;
    while (!submitted_.empty() && (got < wait_for || medium_->rng.below(2) == 0)) {
      const std::size_t i = medium_->rng.below(submitted_.size());
      const Operation op = submitted_[i];
      submitted_.erase(submitted_.begin() + static_cast<std::ptrdiff_t>(i));
      out.push_back({op.tag, complete(op)});
      ++got;
    }
    return got;
  }

 private:
  struct Operation {
    SimFile* file = nullptr;
    std::uint64_t offset = 0;
    std::span<std::byte> into;
    std::span<const std::byte> from;
    std::uint64_t tag = 0;
    bool writes = false;
    bool durable = false;
    std::uint64_t id = 0;
    SimBytes sent{};  ///< null when it was refused at submission
  };

  static SimFile& file_of(File& file) {
    auto* sim = dynamic_cast<SimFile*>(&file);
    KESSAI_CHECK(sim != nullptr);
    return *sim;
  }

  void prepare(Operation op) {
    KESSAI_CHECK(in_flight() < depth_);
    prepared_.push_back(std::move(op));
  }

  Result<void> complete(const Operation& op) {
    SimFile& file = *op.file;
    KESSAI_TRY(
        medium_->alive(file.epoch()));  // else what is under way stays so, and may still land
    if (!op.writes) {
      KESSAI_TRY(file.check_aligned(op.offset, op.into.data(), op.into.size()));
      KESSAI_ASSIGN(fault, medium_->begin("read", file.name(), file.epoch()));
      return file.read_begun(op.offset, op.into, fault);
    }
    if (!op.sent) return file.check_write(op.offset, op.from, op.durable);
    KESSAI_ASSIGN(
        fault, medium_->begin(op.durable ? "write_durable" : "write", file.name(), file.epoch()));
    std::erase_if(medium_->under_way, [&op](const SimUnderWay& u) { return u.id == op.id; });
    // The device reads the buffer at any time before completion: it must not change meanwhile.
    KESSAI_CHECK(std::ranges::equal(op.from, *op.sent));
    auto written = medium_->apply_write(file.inode(), file.name(), op.offset, op.from, op.durable,
                                        fault, file.epoch());
    return op.durable ? file.remember(std::move(written)) : written;
  }

  const MediumPtr medium_;
  const unsigned depth_;
  std::vector<Operation> prepared_;
  std::vector<Operation> submitted_;
};

class SimDirectory final : public Directory {
 public:
  explicit SimDirectory(MediumPtr medium) : medium_(std::move(medium)) {
    const std::lock_guard lock(medium_->mutex);
    epoch_ = medium_->epoch;
    block_size_ = medium_->block_size;
  }

  const std::string& path() const noexcept override { return path_; }
  Backend backend() const noexcept override { return Backend::simulated; }
  std::uint32_t block_size() const noexcept override { return block_size_; }

  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override {
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    const bool create = mode == OpenMode::create_new;
    KESSAI_TRY(check_name(name));
    KESSAI_TRY(begin(create ? "create" : "open", name));
    auto found = medium_->names.find(name);
    const bool exists = found != medium_->names.end();
    if (create && exists) {
      return fail(Code::store_exists,
                  ErrorDetail{.what = "cannot create: File exists", .path = medium_->path_of(name)},
                  EEXIST);
    }
    if (!create && !exists) return fail(missing("open", name));
    const SimInodeId id = create ? medium_->next_inode++ : found->second;
    if (create) {
      SimInode& made = medium_->inodes[id];
      if (medium_->keeps_intended) made.intended.emplace();
      medium_->change_entries({{std::string(name), id}});
    }
    return std::make_unique<SimFile>(medium_, id, std::string(name), mode != OpenMode::read_only,
                                     block_size_);
  }

  Result<void> rename(std::string_view from, std::string_view to) override {
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(check_name(from));
    KESSAI_TRY(check_name(to));
    KESSAI_TRY(begin("rename", from));
    const auto found = medium_->names.find(from);
    if (found == medium_->names.end()) return fail(missing("rename", from));
    if (from != to)
      medium_->change_entries(
          {{std::string(from), 0}, {std::string(to), SimInodeId{found->second}}});
    return {};
  }

  Result<void> remove(std::string_view name) override {
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(check_name(name));
    KESSAI_TRY(begin("remove", name));
    if (!medium_->names.contains(name)) return fail(missing("remove", name));
    medium_->change_entries({{std::string(name), 0}});
    return {};
  }

  Result<std::vector<std::string>> list() override {
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(medium_->alive(epoch_));
    std::vector<std::string> out;
    for (const auto& [name, id] : medium_->names) out.push_back(name);
    return out;
  }

  Result<void> flush() override {
    const std::uint64_t begun = medium_->now();
    takes_time();
    const std::lock_guard lock(medium_->mutex);
    if (failed_flush_) {
      return fail(Code::io_error,
                  ErrorDetail{.what = "a flush of this directory failed, its entries may be lost",
                              .path = path_},
                  EIO);
    }
    KESSAI_ASSIGN(fault, medium_->begin("dir_flush", "", epoch_));
    if (fails(fault)) {
      failed_flush_ = true;
      return fail(error_of(*fault, path_, 0));
    }
    if (fault && fault->what == Fault::What::lost) return {};
    medium_->apply_directory_flush(begun);
    return {};
  }

  Result<std::unique_ptr<Queue>> make_queue(unsigned depth) override {
    if (depth == 0 || depth > 4096)
      return fail(Code::invalid_argument, "a queue has a depth of 1 to 4096");
    const std::lock_guard lock(medium_->mutex);
    KESSAI_TRY(medium_->alive(epoch_));
    return std::make_unique<SimQueue>(medium_, depth);
  }

 private:
  Result<void> begin(std::string_view kind, std::string_view name) {
    KESSAI_ASSIGN(fault, medium_->begin(kind, name, epoch_));
    if (fails(fault)) return fail(error_of(*fault, medium_->path_of(name), 0));
    return {};
  }

  Result<void> check_name(std::string_view name) const {
    if (!name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos)
      return {};
    return fail(
        Code::invalid_argument,
        ErrorDetail{.what = "not a plain file name: \"" + std::string(name) + "\"", .path = path_});
  }

  [[nodiscard]] Error missing(const char* verb, std::string_view name) const {
    return {Code::store_missing,
            ErrorDetail{.what = std::string("cannot ") + verb + ": No such file or directory",
                        .path = medium_->path_of(name)},
            ENOENT};
  }

  const MediumPtr medium_;
  const std::string path_ = "sim:";
  std::uint64_t epoch_ = 0;
  std::uint32_t block_size_ = 4096;
  bool failed_flush_ = false;  // guarded by the medium's mutex
};

}  // namespace

std::unique_ptr<Directory> make_sim_directory(std::shared_ptr<SimDisk::Medium> medium) {
  return std::make_unique<SimDirectory>(std::move(medium));
}

}  // namespace kessai::io
