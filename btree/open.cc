// SPDX-License-Identifier: Apache-2.0
// Creating and opening the data file: superblocks, the map, the allocator; and the audits that
// check() runs over them.
#include <algorithm>
#include <string>
#include <tuple>

#include "btree/page_header.hpp"
#include "btree/page_store.hpp"
#include "io/check.hpp"
#include "io/mutant.hpp"

namespace kessai::btree {
namespace {

constexpr unsigned kBatch = 64;

std::span<std::byte, kPageSize> page_of(io::AlignedBuffer& b, std::size_t i = 0) {
  return std::span<std::byte, kPageSize>(b.data() + i * kPageSize, kPageSize);
}

bool is_identity_error(const Error& e) {
  return e == Code::newer_format || e == Code::page_size_mismatch;
}

}  // namespace

PageStore::~PageStore() = default;

Result<void> PageStore::init_memory() {
  KESSAI_ASSIGN(pool, Pool::create(options_.memory, *this, env_));
  pool_ = std::move(pool);
  return {};
}

Result<std::unique_ptr<PageStore>> PageStore::create(io::Env& env, wal::StoreId id,
                                                     const PageStoreOptions& options) {
  std::unique_ptr<PageStore> s(new PageStore(env, options));
  s->id_ = id;
  KESSAI_ASSIGN(file, env.directory->open(kDataFileNew, io::OpenMode::create_new));
  s->file_ = std::move(file);
  KESSAI_TRY(s->file_->lock(options.lock_timeout_ns));
  KESSAI_TRY(s->file_->resize(kFirstSlotOffset + (std::uint64_t{1} << 20)));
  KESSAI_TRY(s->init_memory());
  io::MutexLock lock(s->map_mutex_);
  s->space_ = std::make_unique<Space>(*s->file_);
  s->space_->reset((std::uint64_t{1} << 20) / kPageSize);
  s->map_.begin_load(1, 1, {});
  return s;
}

Result<void> PageStore::publish_new() {
  KESSAI_TRY(env_->directory->rename(kDataFileNew, kDataFile));
  return env_->directory->flush();
}

Result<std::unique_ptr<PageStore>> PageStore::open(io::Env& env, const PageStoreOptions& options) {
  std::unique_ptr<PageStore> s(new PageStore(env, options));
  auto file = env.directory->open(
      kDataFile, options.read_only ? io::OpenMode::read_only : io::OpenMode::read_write);
  if (!file) {
    if (file.error() != Code::store_missing) return std::unexpected(file.error());
    // Something of ours without a data file: creation stopped before the store held anything.
    const auto names = env.directory->list();
    if (names && std::find(names->begin(), names->end(), kDataFileNew) != names->end()) {
      return fail(Code::incomplete_store,
                  "the creation of this store was interrupted; open it with create to start over");
    }
    return fail(Code::store_missing, "there is no store in " + env.directory->path());
  }
  s->file_ = std::move(*file);
  KESSAI_TRY(s->file_->lock(options.lock_timeout_ns));
  // What a predecessor left in a cache must not be trusted before it is durable (I12).
  if (!options.read_only) {
    KESSAI_TRY(s->file_->flush_and_drop_cache());
    KESSAI_TRY(env.directory->flush());
  }
  KESSAI_TRY(s->adopt_newest());
  return s;
}

/// What reading and decoding number `i` answered.
std::pair<Result<void>, Result<Superblock>> PageStore::read_superblock(unsigned i,
                                                                       io::AlignedBuffer& buffer) {
  auto read = file_->read(i * kSuperblockStride, buffer.span());
  if (!read) return {read, std::unexpected(read.error())};
  return {read, decode_superblock(page_of(buffer))};
}

Result<void> PageStore::read_superblocks(std::vector<Superblock>& valid, unsigned& unreadable) {
  KESSAI_ASSIGN(size, file_->size());
  if (size < kFirstSlotOffset) {
    ErrorDetail d;
    d.path = file_->path();
    d.offset = size;
    d.what = size == 0 ? "the data file is empty"
                       : "the data file is shorter than its superblocks; it was truncated";
    return std::unexpected(
        Error(size == 0 ? Code::not_a_store : Code::superblock_damaged, std::move(d)));
  }
  io::AlignedBuffer buffer(kPageSize);
  bool any_magic = false;
  unsigned blank_ones = 0;
  Error identity(Code::not_a_store);
  const auto bad = [&](unsigned i, const std::string& why) {
    ErrorDetail d;
    d.path = file_->path();
    d.offset = i * kSuperblockStride;
    d.what = "superblock " + std::to_string(i) + " cannot be used: " + why;
    bad_superblocks_.emplace_back(Code::superblock_damaged, std::move(d));
  };
  for (unsigned i = 0; i < kSuperblocks; ++i) {
    auto [read, sb] = read_superblock(i, buffer);
    const auto misplaced = [&] { return sb && sb->number % kSuperblocks != i; };
    // The device may have given us other bytes than those. What is passed over must be bad for
    // good: it may come back after its slots were reused.
    if (!sb || misplaced()) std::tie(read, sb) = read_superblock(i, buffer);
    if (misplaced()) bad(i, "superblock " + std::to_string(sb->number) + " lies in its place");
    if (sb) {
      // One that was written to another's place is as good as in its own.
      if (std::ranges::find(valid, sb->number, &Superblock::number) == valid.end())
        valid.push_back(*sb);
      must_reach_ = std::max(must_reach_, sb->fence);
      continue;
    }
    const bool blank = std::all_of(buffer.span().begin(), buffer.span().end(),
                                   [](std::byte b) { return b == std::byte{0}; });
    if (read && blank) {  // never written, as far as this one says
      blank_ones |= 1U << i;
      continue;
    }
    if (!read) unreadable |= 1U << i;
    any_magic |= sb.error() != Code::not_a_store;
    if (is_identity_error(sb.error())) identity = sb.error();
    bad(i, sb.error().detail().what.empty() ? std::string(code_name(sb.error().code()))
                                            : sb.error().detail().what);
  }
  std::sort(valid.begin(), valid.end(),
            [](const auto& a, const auto& b) { return a.number > b.number; });
  // A newer library has been here: what this one understands is not the newest state.
  if (is_identity_error(identity)) return std::unexpected(identity);
  for (unsigned i = 0; i < kSuperblocks && !valid.empty(); ++i) {
    const unsigned first_number = i == 0 ? kSuperblocks : i;
    if ((blank_ones >> i & 1) != 0 && valid.front().number >= first_number)
      bad(i, "it is blank, and had been written");
  }
  if (!valid.empty()) return {};
  if (any_magic) return std::unexpected(bad_superblocks_.front());
  ErrorDetail d;
  d.path = file_->path();
  d.what = "this file is not a kessai store";
  return std::unexpected(Error(Code::not_a_store, std::move(d)));
}

Result<void> PageStore::load_map(PageMap& map, const Superblock& sb) {
  KESSAI_ASSIGN(size, file_->size());
  const std::uint64_t slots = (size - kFirstSlotOffset) / kPageSize;
  if (sb.next_page == 0 || sb.map_depth != PageMap::depth_for(sb.next_page) ||
      sb.next_page / kMapFanout > slots + kMapFanout) {
    return std::unexpected(
        damage(sb.map_slot, kNoPage, "the superblock describes an impossible page map"));
  }
  map.begin_load(sb.next_page, sb.map_depth, {sb.map_slot, sb.map_hash});
  const std::uint64_t most = sb.next_page / kMapFanout + 1;  // chunks of the lowest level
  io::AlignedBuffer buffer(std::min<std::uint64_t>(kBatch, most) * kPageSize);
  KESSAI_ASSIGN(q, take_queue());
  std::vector<io::Queue::Completion> done;
  for (unsigned level = sb.map_depth; level-- > 0;) {
    const auto entries = map.chunk_entries(level);
    for (std::size_t from = 0; from < entries.size(); from += kBatch) {
      const std::size_t n = std::min<std::size_t>(kBatch, entries.size() - from);
      for (std::size_t i = 0; i < n; ++i) {
        const Slot slot = entries[from + i].slot;
        if (slot < 1 || slot > slots) {
          return std::unexpected(
              damage(slot, kNoPage, "the page map refers to a slot outside the file"));
        }
        q->read(*file_, slot_offset(slot), page_of(buffer, i), i);
      }
      done.clear();
      while (q->in_flight() > 0) q->reap(done, 1);
      for (const auto& c : done) KESSAI_TRY(c.result);
      for (std::size_t i = 0; i < n; ++i) {
        const std::byte* page = page_of(buffer, i).data();
        const PageHeader h = read_header(page);
        const MapEntry& e = entries[from + i];
        if (KESSAI_MUTANT(map_chunk_not_verified)) {
          map.load_chunk(level, from + i, page);
          continue;
        }
        if (hash_page(page) != e.hash || h.type != PageType::map || h.page != from + i ||
            h.level != level) {
          return std::unexpected(
              damage(e.slot, kNoPage, "a page map chunk is not the one that was written here"));
        }
        map.load_chunk(level, from + i, page);
      }
    }
  }
  return_queue(std::move(q));
  return {};
}

Result<void> PageStore::adopt_newest() {
  std::vector<Superblock> valid;
  unsigned unreadable = 0;
  KESSAI_TRY(read_superblocks(valid, unreadable));
  KESSAI_TRY(init_memory());
  Result<void> loaded = fail(Code::superblock_damaged);
  {
    io::MutexLock lock(map_mutex_);
    for (std::size_t i = 0; i < std::min<std::size_t>(valid.size(), 2); ++i) {
      newest_ = valid[i];
      older_ = i + 1 < valid.size() ? valid[i + 1] : Superblock{};
      id_ = newest_.store;
      PageMap map;
      loaded = load_map(map, newest_);
      if (loaded) {
        map_ = std::move(map);
        break;
      }
      bad_superblocks_.push_back(loaded.error());
    }
  }
  if (!loaded) return loaded;
  // Numbers only go up, also past a newer superblock that could not be used.
  std::uint64_t last_number = valid.front().number;
  if ((unreadable >> (last_number + 1) % kSuperblocks & 1) != 0) ++last_number;
  KESSAI_ASSIGN(size, file_->size());
  io::MutexLock lock(map_mutex_);
  space_ = std::make_unique<Space>(*file_);
  space_->reset((size - kFirstSlotOffset) / kPageSize);
  const auto twice = [&](const MapEntry& e, PageId p) {
    return std::unexpected(damage(
        e.slot, p, "two entries of the page map share this slot, or it is outside the file"));
  };
  for (unsigned level = 0; level < newest_.map_depth; ++level) {
    for (const MapEntry& e : map_.chunk_entries(level)) {
      if (!space_->adopt(e.slot)) return twice(e, kNoPage);
    }
  }
  for (std::uint64_t p = 1; p < newest_.next_page; ++p) {
    const MapEntry e = map_.live(PageId{p});
    if (e.slot == 0) {
      free_pages_.push_back(PageId{p});
    } else if (!space_->adopt(e.slot)) {
      return twice(e, PageId{p});
    } else {
      ++used_pages_;
    }
  }
  std::reverse(free_pages_.begin(), free_pages_.end());  // lowest ids first
  KESSAI_TRY(pool_->cover(newest_.next_page));
  epoch_.store(newest_.epoch + 1);
  if (!options_.read_only) KESSAI_TRY(adopt_older());
  if (newest_.number != last_number && !options_.read_only) {
    // Falling back. The one passed over may become readable again (a transient error) after its
    // slots were reused: a superblock of its number that says what is true now takes its place.
    Superblock again = newest_;
    again.number = last_number;
    again.fence = must_reach_;
    again.clean = false;
    KESSAI_TRY(write_superblock(again));
  }
  newest_.number = last_number;
  space_->keep(older_.epoch, newest_.epoch, 0);
  return {};
}

Result<void> PageStore::adopt_older() {
  // What the older checkpoint alone references must not be reused until a newer one is durable. If
  // it is not whole (it may be older than N-1), it is no fallback and needs nothing.
  PageMap map;
  if (KESSAI_MUTANT(older_slots_forgotten) || older_.number == 0 ||
      older_.number + 1 != newest_.number || !load_map(map, older_)) {
    older_ = Superblock{};
    older_.low = newest_.low;
    return {};
  }
  for (unsigned level = 0; level < older_.map_depth; ++level) {
    for (const MapEntry& e : map.chunk_entries(level)) space_->adopt_dead(e.slot, newest_.epoch);
  }
  for (std::uint64_t p = 1; p < older_.next_page; ++p) {
    if (const Slot s = map.live(PageId{p}).slot; s >= 1 && s <= space_->slots()) {
      space_->adopt_dead(s, newest_.epoch);
    }
  }
  return {};
}

// ---- looking inside ----------------------------------------------------------------------------

PageStore::Usage PageStore::usage() const {
  io::MutexLock lock(map_mutex_);
  Usage u;
  u.pages = used_pages_;
  u.free_slots = space_->free_slots();
  u.slots = space_->slots();
  u.dirty = owed_.load(std::memory_order_relaxed);
  u.file_bytes = kFirstSlotOffset + u.slots * kPageSize;
  u.checkpoints = checkpoints_;
  u.images_written = images_written_.load(std::memory_order_relaxed);
  u.checkpoint_pages = checkpoint_pages_.load(std::memory_order_relaxed);
  return u;
}

MapEntry PageStore::live_entry(PageId p) const {
  io::MutexLock lock(map_mutex_);
  return map_.live(p);
}

std::uint64_t PageStore::next_page() const {
  io::MutexLock lock(map_mutex_);
  return map_.next_page();
}

Result<void> PageStore::verify_stored(PageId p) {
  io::AlignedBuffer buffer(kPageSize);
  if (KESSAI_MUTANT(check_reads_nothing)) return {};
  // The entry can move while we read; a mismatch only counts when the entry stayed.
  for (unsigned attempt = 0;; ++attempt) {
    const MapEntry e = live_entry(p);
    if (e.slot == 0) return {};
    KESSAI_TRY(file_->read(slot_offset(e.slot), buffer.span()));
    auto ok = verify_image(p, e, buffer.data());
    if (ok || (live_entry(p).slot == e.slot && attempt > 0)) return ok;
  }
}

std::vector<Error> PageStore::verify_superblocks() {
  std::vector<Error> out = bad_superblocks_;
  io::AlignedBuffer buffer(kPageSize);
  std::uint64_t numbers[2];
  {
    io::MutexLock lock(map_mutex_);
    numbers[0] = newest_.number;
    numbers[1] = older_.number;
  }
  for (const std::uint64_t number : numbers) {
    if (number == 0) continue;
    const std::uint64_t offset = number % kSuperblocks * kSuperblockStride;
    const auto now = read_superblock(number % kSuperblocks, buffer).second;
    // A newer one: checkpoints go on beside us.
    if (now && now->number >= number && (now->number - number) % kSuperblocks == 0) continue;
    ErrorDetail d;
    d.path = file_->path();
    d.offset = offset;
    d.what = "the superblock that was written here is not there";
    out.emplace_back(Code::superblock_damaged, std::move(d));
  }
  return out;
}

Result<void> PageStore::verify_map() {
  // Beside writers the image may be replaced, and its chunks with it, while we read.
  const Superblock sb = newest();
  PageMap map;
  auto ok = load_map(map, sb);
  if (!ok && newest().number > sb.number) return {};
  return ok;
}

Result<void> PageStore::audit_space() {
  io::MutexLock lock(map_mutex_);
  return space_->audit([&](const std::function<void(Slot)>& live)
                           KESSAI_REQUIRES(map_mutex_) { map_.each_slot(live); },
                       in_flight_.size() + chunks_in_flight_);
}

}  // namespace kessai::btree
