// SPDX-License-Identifier: Apache-2.0
#include "io/sim_disk.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cerrno>
#include <set>

#include "io/os_private.hpp"
#include "io/sim_private.hpp"

namespace kessai::io {

std::string_view outcome_name(CrashOutcome outcome) noexcept {
  switch (outcome) {
    case CrashOutcome::none:
      return "none";
    case CrashOutcome::all:
      return "all";
    case CrashOutcome::prefix:
      return "prefix";
    case CrashOutcome::all_but_one:
      return "all_but_one";
    case CrashOutcome::one_only:
      return "one_only";
    case CrashOutcome::random_512:
      return "random_512";
    case CrashOutcome::random_4096:
      return "random_4096";
    case CrashOutcome::torn_last:
      return "torn_last";
    case CrashOutcome::entries_lost:
      return "entries_lost";
    case CrashOutcome::metadata_only:
      return "metadata_only";
    case CrashOutcome::reordered:
      return "reordered";
  }
  return "?";
}

// --- one file

void SimInode::write_current(std::uint64_t offset, std::span<const std::byte> from) {
  current.write(offset, from);
  current_size = std::max(current_size, offset + from.size());
}

void SimInode::resize_current(std::uint64_t bytes) {
  if (bytes < current_size) current.truncate(bytes);
  if (bytes < current_size && intended) intended->truncate(bytes);
  current_size = bytes;
}

void SimInode::harden_size(std::uint64_t bytes) {
  if (bytes < durable_size) durable.truncate(bytes);
  durable_size = bytes;
}

void SimInode::harden(const SimItem& item) {
  if (item.resize) return harden_size(item.offset);
  auto bytes = item.bytes();
  if (item.extends) durable_size = std::max(durable_size, item.offset + bytes.size());
  if (item.offset >= durable_size) return;
  durable.write(item.offset,
                bytes.first(std::min<std::uint64_t>(bytes.size(), durable_size - item.offset)));
}

void SimInode::harden_until(std::uint64_t seq) {
  const auto later = std::ranges::find_if(items, [&](const SimItem& i) { return i.seq > seq; });
  std::for_each(items.begin(), later, [&](const SimItem& item) { harden(item); });
  items.erase(items.begin(), later);
}

void SimInode::write_durable(std::uint64_t offset, std::span<const std::byte> from) {
  const std::uint64_t end = offset + from.size();
  std::vector<SimItem> kept;
  auto keep = [&kept](SimItem item, std::uint64_t from_offset, std::uint64_t to_offset) {
    if (from_offset >= to_offset) return;
    item.begin += from_offset - item.offset;
    item.offset = from_offset;
    item.size = to_offset - from_offset;
    kept.push_back(std::move(item));
  };
  for (SimItem& item : items) {
    if (item.resize) {
      harden_size(item.offset);
      for (SimItem& k : kept)
        k.size =
            std::min<std::uint64_t>(k.size, item.offset > k.offset ? item.offset - k.offset : 0);
      std::erase_if(kept, [](const SimItem& k) { return k.size == 0; });
      continue;
    }
    const std::uint64_t item_end = item.offset + item.size;
    keep(item, item.offset, std::min(item_end, offset));
    keep(item, std::max(item.offset, end), item_end);
  }
  items = std::move(kept);
  durable_size = std::max(durable_size, end);
  durable.write(offset, from);
}

// --- the medium

SimDisk::Medium::Medium(const Medium& o) : rng(0), block_size(0) {
  const std::lock_guard lock(o.mutex);
  rng = o.rng;
  block_size = o.block_size;
  capacity = o.capacity;
  seq = o.seq;
  next_inode = o.next_inode;
  inodes = o.inodes;
  names = o.names;
  durable_names = o.durable_names;
  entries = o.entries;
  keeps_intended = o.keeps_intended;
  for (auto& [id, node] : inodes) {
    node.lock_owner = 0;
    node.handles = 0;
  }
}

Error error_of(const Fault& fault, const std::string& path, std::uint64_t offset) {
  const int usual = fault.what == Fault::What::disk_full ? ENOSPC : EIO;
  return os_error(fault.os_error != 0 ? fault.os_error : usual, "simulated", path, offset);
}

Result<void> SimDisk::Medium::alive(std::uint64_t epoch_of_caller) const {
  if (crashed) return fail(Code::io_error, ErrorDetail{.what = "power lost"}, EIO);
  if (epoch_of_caller != epoch)
    return fail(Code::io_error, ErrorDetail{.what = "this process was killed"}, EIO);
  return {};
}

Result<std::optional<Fault>> SimDisk::Medium::begin(std::string_view kind, std::string_view file,
                                                    std::uint64_t epoch_of_caller) {
  KESSAI_TRY(alive(epoch_of_caller));
  if (!landing && rng.below(8) == 0) {
    const auto zombie = std::ranges::find(under_way, true, &SimUnderWay::zombie);
    if (zombie != under_way.end()) land(static_cast<std::size_t>(zombie - under_way.begin()));
  }
  const std::uint64_t op = ops++;
  if (op == crash_at) crashed = true;
  if (!crashed && observer) observer(op, kind, file);
  KESSAI_TRY(alive(epoch_of_caller));
  return match_fault(op, kind, file);
}

std::optional<Fault> SimDisk::Medium::match_fault(std::uint64_t op, std::string_view kind,
                                                  std::string_view file) {
  for (Fault& f : faults) {
    if (f.count == 0 || (f.op != Fault::kAnyOp && f.op != op) ||
        (!f.kind.empty() && f.kind != kind) || (!f.file.empty() && f.file != file)) {
      continue;
    }
    if (f.skip > 0) {
      --f.skip;
      continue;
    }
    --f.count;
    ++faults_fired;
    return f;
  }
  return std::nullopt;
}

Result<void> SimDisk::Medium::check_space(const SimInode& of, std::uint64_t new_size,
                                          const std::string& path) const {
  if (new_size <= of.current_size) return {};
  std::uint64_t used = 0;
  for (const auto& [id, node] : inodes) used += node.current_size;
  if (new_size <= capacity && used - of.current_size <= capacity - new_size) return {};
  return fail(
      Code::disk_full,
      ErrorDetail{.what = "simulated disk is full", .path = path, .offset = of.current_size},
      ENOSPC);
}

Result<void> SimDisk::Medium::apply_write(SimInodeId id, std::string_view file,
                                          std::uint64_t offset, std::span<const std::byte> from,
                                          bool durable, const std::optional<Fault>& fault,
                                          std::uint64_t epoch_of_caller) {
  SimInode& node = inode(id);
  const std::string path = path_of(file);
  bool volatile_only = false;
  Result<void> result;
  if (fault) {
    switch (fault->what) {
      case Fault::What::io_error:
        result = fail(error_of(*fault, path, offset));
        if (!durable || fault->after_flush == Fault::AfterFlush::reverted) return result;
        volatile_only = fault->after_flush == Fault::AfterFlush::kept;
        durable = false;
        break;
      case Fault::What::disk_full:
        return fail(error_of(*fault, path, offset));
      case Fault::What::short_transfer: {
        const std::size_t half = from.size() / 1024 * 512;
        if (half == 0) break;
        KESSAI_TRY(apply_write(id, file, offset, from.first(half), durable, std::nullopt,
                               epoch_of_caller));
        KESSAI_ASSIGN(next, begin(durable ? "write_durable" : "write", file, epoch_of_caller));
        return apply_write(id, file, offset + half, from.subspan(half), durable, next,
                           epoch_of_caller);
      }
      case Fault::What::lost:
        node.intend(offset, from);
        return {};
      case Fault::What::misdirected: {
        node.intend(offset, from);
        const SimInodeId other = fault->target.empty() ? id : look_up(fault->target);
        if (other == 0) return {};
        SimInode& victim = inode(other);
        const std::uint64_t blocks = victim.current_size / block_size;
        std::uint64_t at = offset + static_cast<std::uint64_t>(fault->distance);
        if (!fault->target.empty() && blocks > 0) at = at / block_size % blocks * block_size;
        if (at <= victim.current_size && from.size() <= victim.current_size - at)
          store(victim, at, from, durable);
        return {};
      }
    }
  }
  KESSAI_TRY(check_space(node, offset + from.size(), path));
  node.intend(offset, from);
  if (volatile_only) {
    node.write_current(offset, from);
  } else {
    store(node, offset, from, durable);
  }
  return result;
}

void SimDisk::Medium::store(SimInode& node, std::uint64_t offset, std::span<const std::byte> from,
                            bool durable) {
  const bool extends = offset + from.size() > node.current_size;
  node.write_current(offset, from);
  if (durable) {
    node.write_durable(offset, from);
  } else {
    node.items.push_back(
        {.seq = ++seq,
         .extends = extends,
         .offset = offset,
         .data = std::make_shared<const std::vector<std::byte>>(from.begin(), from.end()),
         .size = from.size()});
  }
}

Result<void> SimDisk::Medium::apply_flush(SimInodeId id, std::string_view file,
                                          const std::optional<Fault>& fault, std::uint64_t begun) {
  SimInode& node = inode(id);
  if (!fault || (fault->what != Fault::What::io_error && fault->what != Fault::What::disk_full &&
                 fault->what != Fault::What::lost)) {
    node.harden_until(begun);
    return {};
  }
  if (fault->what == Fault::What::lost) return {};  // a device that lies
  if (fault->after_flush != Fault::AfterFlush::late) node.items.clear();
  if (fault->after_flush == Fault::AfterFlush::reverted) {
    node.current = node.durable;
    node.current_size = node.durable_size;
  }
  return fail(error_of(*fault, path_of(file), 0));
}

void SimDisk::Medium::apply_directory_flush(std::uint64_t begun) {
  const auto later =
      std::ranges::find_if(entries, [&](const SimEntry& e) { return e.seq > begun; });
  for (auto entry = entries.begin(); entry != later; ++entry) {
    for (const auto& [name, id] : entry->changes) {
      if (id == 0) {
        durable_names.erase(name);
      } else {
        durable_names[name] = id;
      }
    }
  }
  entries.erase(entries.begin(), later);
  collect_garbage();
}

void SimDisk::Medium::change_entries(std::vector<std::pair<std::string, SimInodeId>> changes) {
  for (const auto& [name, id] : changes) {
    if (id == 0) {
      names.erase(name);
    } else {
      names[name] = id;
    }
  }
  entries.push_back({++seq, std::move(changes)});
}

void SimDisk::Medium::collect_garbage() {
  std::set<SimInodeId> used;
  for (const auto* map : {&names, &durable_names}) {
    for (const auto& [name, id] : *map) used.insert(id);
  }
  for (const auto& entry : entries) {
    for (const auto& [name, id] : entry.changes) used.insert(id);
  }
  for (const auto& op : under_way) used.insert(op.inode);
  std::erase_if(
      inodes, [&used](const auto& i) { return i.second.handles == 0 && !used.contains(i.first); });
}

void SimDisk::Medium::land(std::size_t index) {
  landing = true;
  const std::uint64_t id = under_way[index].id;
  auto fault =
      begin(under_way[index].durable ? "write_durable" : "write", under_way[index].file, epoch);
  landing = false;
  const auto it =
      std::ranges::find(under_way, id, &SimUnderWay::id);  // the observer may have changed it
  if (!fault || it == under_way.end()) return;
  const SimUnderWay op = std::move(*it);
  under_way.erase(it);
  // Nobody is left to hear of a failure.
  (void)apply_write(op.inode, op.file, op.offset, *op.data, op.durable, *fault, epoch);
  SimInode& node = inode(op.inode);
  if (node.lock_owner == kZombieOwner &&
      std::ranges::find(under_way, op.inode, &SimUnderWay::inode) == under_way.end()) {
    node.lock_owner = 0;
  }
}

void SimDisk::Medium::land_zombies() {
  while (!crashed) {
    std::vector<std::size_t> zombies;
    for (std::size_t i = 0; i < under_way.size(); ++i) {
      if (under_way[i].zombie) zombies.push_back(i);
    }
    if (zombies.empty()) return;
    land(zombies[rng.below(zombies.size())]);
  }
}

SimInodeId SimDisk::Medium::look_up(std::string_view name) const {
  for (const auto* map : {&names, &durable_names}) {
    if (const auto it = map->find(name); it != map->end()) return it->second;
  }
  return 0;
}

// --- the public face

SimDisk::SimDisk(std::uint64_t seed, std::uint32_t block_size)
    : medium_(std::make_shared<Medium>(seed, block_size)) {}
SimDisk::SimDisk(std::shared_ptr<Medium> medium) : medium_(std::move(medium)) {}
SimDisk::~SimDisk() = default;
SimDisk::SimDisk(const SimDisk& o) : medium_(std::make_shared<Medium>(*o.medium_)) {}
SimDisk& SimDisk::operator=(const SimDisk& o) {
  if (this != &o) medium_ = std::make_shared<Medium>(*o.medium_);
  return *this;
}
SimDisk::SimDisk(SimDisk&&) noexcept = default;
SimDisk& SimDisk::operator=(SimDisk&&) noexcept = default;

std::unique_ptr<Directory> SimDisk::attach() { return make_sim_directory(medium_); }

std::uint64_t SimDisk::ops() const {
  const std::lock_guard lock(medium_->mutex);
  return medium_->ops;
}

void SimDisk::set_observer(Observer observer) {
  const std::lock_guard lock(medium_->mutex);
  medium_->observer = std::move(observer);
}

void SimDisk::set_block_size(std::uint32_t bytes) {
  const std::lock_guard lock(medium_->mutex);
  medium_->block_size = bytes;
}

void SimDisk::set_capacity(std::uint64_t bytes) {
  const std::lock_guard lock(medium_->mutex);
  medium_->capacity = bytes;
}

SimDisk SimDisk::survivor(CrashOutcome outcome, std::uint64_t seed) const {
  return SimDisk(medium_->survivor(outcome, seed));
}

std::size_t SimDisk::volatile_items() const {
  const std::lock_guard lock(medium_->mutex);
  std::size_t n = medium_->entries.size() + medium_->under_way.size();
  for (const auto& [id, node] : medium_->inodes) n += node.items.size();
  return n;
}

void SimDisk::crash() {
  const std::lock_guard lock(medium_->mutex);
  medium_->crashed = true;
}

void SimDisk::crash_at(std::uint64_t op) {
  const std::lock_guard lock(medium_->mutex);
  medium_->crash_at = op;
}

bool SimDisk::crashed() const {
  const std::lock_guard lock(medium_->mutex);
  return medium_->crashed;
}

void SimDisk::kill_processes() {
  const std::lock_guard lock(medium_->mutex);
  Medium& m = *medium_;
  ++m.epoch;
  for (auto& [id, node] : m.inodes) {
    node.handles = 0;
    node.lock_owner = 0;
  }
  for (auto& op : m.under_way) {
    op.zombie = true;
    m.inode(op.inode).lock_owner = Medium::kZombieOwner;
  }
}

void SimDisk::settle() {
  const std::lock_guard lock(medium_->mutex);
  medium_->land_zombies();
}

void SimDisk::add_fault(Fault fault) {
  const std::lock_guard lock(medium_->mutex);
  medium_->faults.push_back(std::move(fault));
}

void SimDisk::clear_faults() {
  const std::lock_guard lock(medium_->mutex);
  medium_->faults.clear();
}

std::uint64_t SimDisk::faults_fired() const {
  const std::lock_guard lock(medium_->mutex);
  return medium_->faults_fired;
}

std::vector<std::string> SimDisk::files() const {
  const std::lock_guard lock(medium_->mutex);
  std::vector<std::string> out;
  for (const auto& [name, id] : medium_->names) out.push_back(name);
  return out;
}

bool SimDisk::exists(std::string_view name) const {
  const std::lock_guard lock(medium_->mutex);
  return medium_->names.contains(name);
}

std::vector<std::byte> SimDisk::file_bytes(std::string_view name) const {
  const std::lock_guard lock(medium_->mutex);
  const SimInodeId id = medium_->look_up(name);
  if (id == 0) return {};
  const SimInode& node = medium_->inode(id);
  std::vector<std::byte> out(node.current_size);
  node.current.read(0, out);
  return out;
}

void SimDisk::set_file_bytes(std::string_view name, std::span<const std::byte> bytes) {
  const std::lock_guard lock(medium_->mutex);
  Medium& m = *medium_;
  SimInodeId id = m.look_up(name);
  if (id == 0) id = m.next_inode++;
  m.names[std::string(name)] = id;
  m.durable_names[std::string(name)] = id;
  SimInode& node = m.inodes[id];
  node.items.clear();
  node.current = {};
  node.current.write(0, bytes);
  node.current_size = bytes.size();
  node.durable = node.current;
  node.durable_size = node.current_size;
}

void SimDisk::remove_file(std::string_view name) {
  const std::lock_guard lock(medium_->mutex);
  medium_->names.erase(std::string(name));
  medium_->durable_names.erase(std::string(name));
}

void SimDisk::flip(std::string_view file, std::uint64_t bit) {
  const std::lock_guard lock(medium_->mutex);
  const SimInodeId id = medium_->look_up(file);
  KESSAI_CHECK(id != 0);
  SimInode& node = medium_->inode(id);
  const std::uint64_t at = bit / 8;
  const auto mask = static_cast<std::byte>(1U << (bit % 8));
  KESSAI_CHECK(at < std::max(node.current_size, node.durable_size));
  auto flip_in = [&](SimContent& content) {
    std::byte b{};
    content.read(at, {&b, 1});
    b ^= mask;
    content.write(at, {&b, 1});
  };
  if (at < node.current_size) flip_in(node.current);
  if (at < node.durable_size) flip_in(node.durable);
  for (SimItem& item : node.items) {
    if (item.resize || at < item.offset || at >= item.offset + item.size) continue;
    auto copy = std::vector<std::byte>(*item.data);
    copy[item.begin + (at - item.offset)] ^= mask;
    item.data = std::make_shared<const std::vector<std::byte>>(std::move(copy));
  }
}

void SimDisk::overwrite(std::string_view file, std::uint64_t offset,
                        std::span<const std::byte> bytes) {
  const std::lock_guard lock(medium_->mutex);
  const SimInodeId id = medium_->look_up(file);
  KESSAI_CHECK(id != 0);
  SimInode& node = medium_->inode(id);
  KESSAI_CHECK(offset + bytes.size() <= node.current_size);
  node.current.write(offset, bytes);
  if (offset < node.durable_size)
    node.durable.write(
        offset, bytes.first(std::min<std::uint64_t>(bytes.size(), node.durable_size - offset)));
  const std::uint64_t end = offset + bytes.size();
  for (SimItem& item : node.items) {
    const std::uint64_t from = std::max(item.offset, offset);
    const std::uint64_t to = std::min<std::uint64_t>(item.offset + item.size, end);
    if (item.resize || from >= to) continue;
    auto copy = std::vector<std::byte>(*item.data);
    std::memcpy(copy.data() + item.begin + (from - item.offset), bytes.data() + (from - offset),
                to - from);
    item.data = std::make_shared<const std::vector<std::byte>>(std::move(copy));
  }
}

void SimDisk::keep_intended() {
  const std::lock_guard lock(medium_->mutex);
  medium_->keeps_intended = true;
  for (auto& [id, node] : medium_->inodes) node.intended = node.current;
}

std::vector<std::byte> SimDisk::intended_bytes(std::string_view name) const {
  const std::lock_guard lock(medium_->mutex);
  const SimInodeId id = medium_->look_up(name);
  if (id == 0) return {};
  const SimInode& node = medium_->inode(id);
  KESSAI_CHECK(node.intended.has_value());
  std::vector<std::byte> out(node.current_size);
  node.intended->read(0, out);
  return out;
}

std::vector<std::uint64_t> SimDisk::wrong_blocks(std::string_view file) const {
  const std::lock_guard lock(medium_->mutex);
  const SimInodeId id = medium_->look_up(file);
  if (id == 0) return {};
  const SimInode& node = medium_->inode(id);
  KESSAI_CHECK(node.intended.has_value());
  return node.current.differing(*node.intended, node.current_size);
}

std::uint64_t SimDisk::image_hash() const {
  const std::lock_guard lock(medium_->mutex);
  std::uint64_t hash = 0;
  for (const auto& [name, id] : medium_->durable_names) {
    const SimInode& node = medium_->inode(id);
    const std::uint64_t words[] = {hash, XXH3_64bits(name.data(), name.size()), node.durable_size};
    hash = XXH3_64bits(words, sizeof words);
    node.durable.mix_hash(hash);
  }
  return hash;
}

}  // namespace kessai::io
