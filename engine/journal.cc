// SPDX-License-Identifier: Apache-2.0
#include "kessai/journal.hpp"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "engine/journal_format.hpp"
#include "io/check.hpp"
#include "io/env.hpp"
#include "io/memory.hpp"
#include "io/sync.hpp"

namespace kessai {

using journal::FrameHeader;
using journal::kBlock;
using journal::SegmentHeader;

namespace {

constexpr std::uint64_t kFramesFrom = std::uint64_t{kBlock} * journal::kHeaderBlocks;
constexpr std::uint64_t kMostSegmentBytes = 64_MiB;

std::uint64_t to_ns(std::chrono::milliseconds t) {
  return static_cast<std::uint64_t>(t.count()) * 1'000'000;
}

Result<io::AlignedBuffer> load(io::File& file) {
  KESSAI_ASSIGN(size, file.size());
  if (size > kMostSegmentBytes)
    return fail(Code::log_damaged,
                ErrorDetail{.what = "no journal segment is as large as this", .path = file.path()});
  io::AlignedBuffer bytes(std::max<std::uint64_t>(size / kBlock * kBlock, kFramesFrom));
  KESSAI_TRY(file.read(0, bytes.span().first(size / kBlock * kBlock)));
  return bytes;
}

std::optional<SegmentHeader> header_of(std::span<const std::byte> bytes) {
  for (std::uint32_t i = 0; i < journal::kHeaderBlocks; ++i) {
    if (auto h = journal::decode_segment(bytes.subspan(i * kBlock).first<kBlock>())) return h;
  }
  return std::nullopt;
}

/// Calls `fn` for each record of a whole frame; false when `fn` wants no more.
bool each_record(const FrameHeader& frame, std::span<const std::byte> bytes, std::uint64_t from,
                 const std::function<bool(std::uint64_t, std::string_view)>& fn) {
  std::size_t at = sizeof frame;
  for (std::uint32_t i = 0; i < frame.records; ++i) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    at += sizeof length;
    const std::string_view record(reinterpret_cast<const char*>(bytes.data()) + at, length);
    if (frame.first + i >= from && !fn(frame.first + i, record)) return false;
    at += length;
  }
  return true;
}

}  // namespace

struct Journal::State {
  struct Segment {
    std::uint64_t number = 0;
    Position first = 1;
    std::uint64_t bytes = 0;
    std::uint64_t chain = 0;
  };
  struct Waiting {
    std::string record;
    Appended fn;
  };

  // constant after open
  JournalOptions options;
  std::string name;
  io::Env env;
  std::unique_ptr<io::Directory> own_directory;
  std::array<std::byte, 16> id{};
  wal::Salt salt;
  bool cut = false;

  // of whoever flushes: `flushing` is the right to touch them
  std::unique_ptr<io::File> file;  ///< newest segment, locked
  std::uint64_t offset = kFramesFrom;
  std::uint64_t chain = 0;
  io::AlignedBuffer frame;

  mutable io::Mutex mutex;
  io::CondVar wake;
  std::deque<Waiting> waiting KESSAI_GUARDED_BY(mutex);
  std::vector<Segment> segments KESSAI_GUARDED_BY(mutex);  ///< oldest first, never empty
  Position next KESSAI_GUARDED_BY(mutex) = 1;
  bool flushing KESSAI_GUARDED_BY(mutex) = false;
  bool closed KESSAI_GUARDED_BY(mutex) = false;
  std::optional<Error> poison KESSAI_GUARDED_BY(mutex);
  std::uint64_t flush_count KESSAI_GUARDED_BY(mutex) = 0, flush_ns KESSAI_GUARDED_BY(mutex) = 0;
  io::Mutex forgetting;  ///< before `mutex`; held across the removal of segments
  bool removed KESSAI_GUARDED_BY(forgetting) = false;  ///< a segment, and not durably yet
  io::Thread thread;

  [[nodiscard]] std::string segment_name(std::uint64_t number) const {
    std::string digits = std::to_string(number);
    return name + "-" + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
  }
  [[nodiscard]] Result<std::vector<std::uint64_t>> list() const;
  [[nodiscard]] std::unexpected<Error> damaged(const io::File& f, std::uint64_t at,
                                               std::string what) const {
    return fail(
        Code::log_damaged,
        ErrorDetail{.what = std::move(what) + "; put back an intact copy, or move the journal away",
                    .path = f.path(),
                    .offset = at});
  }

  [[nodiscard]] Result<void> open(std::string_view directory);
  [[nodiscard]] Result<void> open_segments();
  [[nodiscard]] Result<void> lock_newest(std::vector<std::uint64_t>& numbers);
  [[nodiscard]] Result<bool> take_newest(std::uint64_t number);
  [[nodiscard]] Result<void> add_segment(std::uint64_t number);
  [[nodiscard]] Result<void> write_segment(io::File& f, const SegmentHeader& header);
  [[nodiscard]] Result<std::uint64_t> scan(
      const io::File& f, std::span<const std::byte> bytes, Segment& s, bool newest, Position from,
      const std::function<bool(Position, std::string_view)>& fn) const;

  [[nodiscard]] Result<void> write_frame(const std::deque<Waiting>& batch, Position first);
  bool flush_batch();
  void flush_loop();
  void answer(std::deque<Waiting>& batch, const Result<void>& ok, Position first);
};

// ---- opening -----------------------------------------------------------------------------------

Result<std::vector<std::uint64_t>> Journal::State::list() const {
  KESSAI_ASSIGN(names, env.directory->list());
  std::vector<std::uint64_t> numbers;
  for (const auto& n : names) {
    if (!n.starts_with(name + "-")) continue;
    std::uint64_t number = 0;
    for (const char c : std::string_view(n).substr(name.size() + 1)) {
      if (c < '0' || c > '9' || number > UINT64_MAX / 100) {
        number = 0;
        break;
      }
      number = number * 10 + static_cast<std::uint64_t>(c - '0');
    }
    if (number != 0 && segment_name(number) == n) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Result<void> Journal::State::open(std::string_view directory) {
  if (options.env != nullptr) {
    env = *options.env;
  } else {
    io::DirectoryOptions d;
    d.backend = io::Backend::posix;  // one synchronous write at a time needs no ring
    d.create = options.create && !options.read_only;
    d.log = options.log_sink;
    KESSAI_ASSIGN(opened, io::open_directory(std::string(directory), d));
    own_directory = std::move(opened);
    env.directory = own_directory.get();
    env.log = options.log_sink;
  }
  options.segment_bytes = std::clamp<std::uint64_t>(journal::padded(options.segment_bytes),
                                                    16 * kBlock, kMostSegmentBytes);
  frame = io::AlignedBuffer(
      std::min<std::uint64_t>(journal::kMaxFrameBytes, options.segment_bytes - kFramesFrom));
  KESSAI_TRY(env.directory->flush());
  return open_segments();
}

// The newest segment's lock is the journal's. A holder that made a newer one meanwhile has locked
// that: look again.
Result<void> Journal::State::lock_newest(std::vector<std::uint64_t>& numbers) {
  for (;;) {
    KESSAI_ASSIGN(now, list());
    numbers = std::move(now);
    if (numbers.empty()) return {};
    const bool writable = !options.read_only;
    KESSAI_ASSIGN(
        newest, env.directory->open(segment_name(numbers.back()),
                                    writable ? io::OpenMode::read_write : io::OpenMode::read_only));
    if (writable) KESSAI_TRY(newest->lock(to_ns(options.open_timeout)));
    KESSAI_ASSIGN(after, list());
    if (!after.empty() && after.back() != numbers.back()) continue;
    file = std::move(newest);
    return {};
  }
}

Result<void> Journal::State::open_segments() {
  std::vector<std::uint64_t> numbers;
  KESSAI_TRY(lock_newest(numbers));
  while (!numbers.empty()) {
    KESSAI_ASSIGN(used, take_newest(numbers.back()));
    if (used) break;
    // Its creation was interrupted: it never held a record.
    file.reset();
    if (!options.read_only) {
      KESSAI_TRY(env.directory->remove(segment_name(numbers.back())));
      KESSAI_TRY(env.directory->flush());
    }
    KESSAI_TRY(lock_newest(numbers));
    if (options.read_only) break;
  }
  if (numbers.empty()) {
    if (!options.create || options.read_only)
      return fail(Code::store_missing, ErrorDetail{.what = "there is no journal \"" + name + "\"",
                                                   .path = env.directory->path()});
    env.random->fill(id);
    salt = wal::Salt(id);
    return add_segment(1);
  }
  for (std::size_t i = numbers.size() - 1; i-- > 0;) {
    KESSAI_ASSIGN(f, env.directory->open(segment_name(numbers[i]), io::OpenMode::read_only));
    KESSAI_ASSIGN(size, f->size());
    io::AlignedBuffer head(kFramesFrom);
    if (size >= kFramesFrom) KESSAI_TRY(f->read(0, head.span()));
    const auto h = header_of(head.span());
    if (!h || h->id != id || h->segment != numbers[i])
      return damaged(*f, 0, "a segment's header is broken");
    const io::MutexLock lock(mutex);
    if (numbers[i] + 1 != segments.front().number)
      return damaged(*f, 0, "the segment after this one is missing");
    segments.insert(segments.begin(), {h->segment, h->first, h->bytes, h->chain});
  }
  return {};
}

// False: the file never became a segment.
Result<bool> Journal::State::take_newest(std::uint64_t number) {
  if (!options.read_only) KESSAI_TRY(file->flush_and_drop_cache());
  KESSAI_ASSIGN(bytes, load(*file));
  const auto h = header_of(bytes.span());
  if (!h) {
    const auto rest = bytes.span().subspan(kFramesFrom);
    if (std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == std::byte{0}; }))
      return false;
    return damaged(*file, 0, "the newest segment's header is broken");
  }
  if (h->format > journal::kFormat)
    return fail(Code::newer_format,
                ErrorDetail{.what = "a newer program wrote this journal", .path = file->path()});
  if (h->segment != number) return damaged(*file, 0, "a segment has another's name");
  id = h->id;
  salt = wal::Salt(id);
  Segment s{h->segment, h->first, h->bytes, h->chain};
  chain = h->chain;
  const io::MutexLock lock(mutex);
  next = h->first;
  Segment end = s;
  KESSAI_ASSIGN(at, scan(*file, bytes.span(), end, true, UINT64_MAX, {}));
  offset = at;
  next = end.first;
  chain = end.chain;
  segments = {s};
  // A torn frame may have left bytes: they are not to be taken for a later one.
  const auto left = bytes.span().subspan(std::min<std::size_t>(at, bytes.size()));
  cut = !std::all_of(left.begin(), left.end(), [](std::byte b) { return b == std::byte{0}; });
  return true;
}

// Walks a segment's frames; `s.first` and `s.chain` move to what follows the last one. Answers the
// offset behind it.
Result<std::uint64_t> Journal::State::scan(
    const io::File& f, std::span<const std::byte> bytes, Segment& s, bool newest, Position from,
    const std::function<bool(Position, std::string_view)>& fn) const {
  std::uint64_t at = kFramesFrom;
  while (at < bytes.size()) {
    const auto h = journal::decode_frame(bytes.subspan(at), salt);
    if (!h || h->segment != s.number || h->first != s.first || h->chain != s.chain) break;
    if (fn && !each_record(*h, bytes.subspan(at), from, fn)) return at;
    s.first += h->records;
    s.chain = h->checksum.low;
    at += journal::padded(sizeof *h + h->payload);
  }
  // Only one frame is ever under way: what is whole behind a broken one had been answered.
  for (std::uint64_t behind = at; newest && behind < bytes.size(); behind += kBlock) {
    const auto h = journal::decode_frame(bytes.subspan(behind), salt);
    if (h && h->segment == s.number && h->first > s.first)
      return damaged(f, at, "a frame is broken before record " + std::to_string(h->first));
  }
  return at;
}

Result<void> Journal::State::write_segment(io::File& f, const SegmentHeader& header) {
  KESSAI_TRY(f.resize(header.bytes));
  // Zeros now, so that no append has to change the file's metadata.
  io::AlignedBuffer zeros(std::min<std::uint64_t>(header.bytes, 1_MiB));
  for (std::uint64_t at = 0; at < header.bytes; at += zeros.size()) {
    KESSAI_TRY(
        f.write(at, zeros.span().first(std::min<std::uint64_t>(zeros.size(), header.bytes - at))));
  }
  io::AlignedBuffer head(kFramesFrom);
  for (std::uint32_t i = 0; i < journal::kHeaderBlocks; ++i)
    journal::encode(header, head.span().subspan(i * kBlock).first<kBlock>());
  KESSAI_TRY(f.write(0, head.span()));
  return f.flush();
}

Result<void> Journal::State::add_segment(std::uint64_t number) {
  const std::string file_name = segment_name(number);
  auto made = env.directory->open(file_name, io::OpenMode::create_new);
  if (!made && made.error() == Code::store_exists) {  // left by an attempt that failed
    KESSAI_TRY(env.directory->remove(file_name));
    made = env.directory->open(file_name, io::OpenMode::create_new);
  }
  if (!made) return std::unexpected(made.error());
  SegmentHeader header;
  header.id = id;
  header.segment = number;
  header.bytes = options.segment_bytes;
  header.chain = chain;
  {
    const io::MutexLock lock(mutex);
    header.first = next;
  }
  auto ok = (*made)->lock(to_ns(options.open_timeout));
  if (ok) ok = write_segment(**made, header);
  if (ok) ok = env.directory->flush();
  if (!ok) {
    made->reset();
    static_cast<void>(env.directory->remove(file_name));
    return ok;
  }
  file = std::move(*made);
  offset = kFramesFrom;
  const io::MutexLock lock(mutex);
  segments.push_back({number, header.first, header.bytes, header.chain});
  return {};
}

// ---- appending ---------------------------------------------------------------------------------

Result<void> Journal::State::write_frame(const std::deque<Waiting>& batch, Position first) {
  std::size_t payload = 0;
  for (const Waiting& w : batch) payload += sizeof(std::uint32_t) + w.record.size();
  const std::uint64_t bytes = journal::padded(sizeof(FrameHeader) + payload);
  std::uint64_t number = 0, capacity = 0;
  {
    const io::MutexLock lock(mutex);
    number = segments.back().number;
    capacity = segments.back().bytes;
  }
  if (offset + bytes > capacity) {
    offset = capacity;  // closed for good, even if the next one cannot be made now
    KESSAI_TRY(add_segment(++number));
  }
  FrameHeader h;
  h.segment = number;
  h.first = first;
  h.chain = chain;
  h.records = static_cast<std::uint32_t>(batch.size());
  h.payload = static_cast<std::uint32_t>(payload);
  std::byte* const out = frame.data();
  std::memset(out, 0, bytes);
  std::size_t at = sizeof h;
  for (const Waiting& w : batch) {
    const auto length = static_cast<std::uint32_t>(w.record.size());
    std::memcpy(out + at, &length, sizeof length);
    std::memcpy(out + at + sizeof length, w.record.data(), length);
    at += sizeof length + length;
  }
  std::memcpy(out, &h, sizeof h);
  h.checksum = salt.hash(frame.span().subspan(sizeof h.checksum, at - sizeof h.checksum));
  std::memcpy(out, &h.checksum, sizeof h.checksum);
  auto ok = file->write(offset, frame.span().first(bytes));
  if (ok) ok = file->flush();
  if (!ok) {
    // What is on the device now is not known.
    const io::MutexLock lock(mutex);
    poison = ok.error();
    return ok;
  }
  offset += bytes;
  chain = h.checksum.low;
  return {};
}

void Journal::State::answer(std::deque<Waiting>& batch, const Result<void>& ok, Position first) {
  for (Waiting& w : batch) {
    if (ok) {
      w.fn(first++);
    } else {
      w.fn(std::unexpected(ok.error()));
    }
  }
}

// One flush of what waits. False: nothing did, or somebody else is at it.
bool Journal::State::flush_batch() {
  std::deque<Waiting> batch;
  Position first = 0;
  Result<void> ok;
  {
    const io::MutexLock lock(mutex);
    if (waiting.empty() || flushing) return false;
    flushing = true;
    std::size_t bytes = sizeof(FrameHeader);
    while (!waiting.empty()) {
      bytes += sizeof(std::uint32_t) + waiting.front().record.size();
      if (bytes > frame.size() && !batch.empty()) break;
      batch.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
    first = next;
    if (poison)
      ok = fail(Code::poisoned, "an earlier write of the journal failed (" + poison->message() +
                                    "); close and reopen it");
  }
  const std::uint64_t began = env.clock->now_ns();
  if (ok) ok = write_frame(batch, first);
  {
    const io::MutexLock lock(mutex);
    flush_ns += env.clock->now_ns() - began;
    if (ok) {
      next += batch.size();
      ++flush_count;
    }
    flushing = false;
    wake.notify_all();
  }
  answer(batch, ok, first);
  return true;
}

void Journal::State::flush_loop() {
  constexpr std::uint64_t kLongNs = 1'000'000'000;
  for (;;) {
    {
      const io::MutexLock lock(mutex);
      while (waiting.empty() && !closed) wake.wait_for(mutex, kLongNs);
      if (closed) return;
    }
    flush_batch();
  }
}

// ---- the public face ---------------------------------------------------------------------------

Journal::Journal(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
Journal::Journal(Journal&&) noexcept = default;
Journal& Journal::operator=(Journal&& o) noexcept {
  if (this != &o) {
    const Journal old(std::move(*this));
    state_ = std::move(o.state_);
  }
  return *this;
}

Journal::~Journal() {
  if (!state_) return;
  std::deque<State::Waiting> waiting;
  {
    const io::MutexLock lock(state_->mutex);
    state_->closed = true;
    waiting.swap(state_->waiting);
    state_->wake.notify_all();
  }
  state_->thread.join();
  state_->answer(waiting, fail(Code::closed_handle, "the journal was closed"), 0);
}

Result<Journal> Journal::open(std::string_view directory, std::string_view name,
                              const JournalOptions& options) {
  auto state = std::make_shared<State>();
  state->options = options;
  state->name = name;
  KESSAI_TRY(state->open(directory));
  if (state->env.background && !options.read_only)
    state->thread = io::Thread("kessai-journal", [s = state.get()] { s->flush_loop(); });
  return Journal(std::move(state));
}

void Journal::append(std::string_view record, Appended fn) {
  if (state_->options.read_only)
    return fn(fail(Code::read_only, "the journal is open for reading only"));
  if (record.size() > kMaxRecordBytes ||
      record.size() + sizeof(FrameHeader) + sizeof(std::uint32_t) > state_->frame.size())
    return fn(fail(Code::value_too_long,
                   "a journal's record has at most " + std::to_string(kMaxRecordBytes) + " bytes"));
  const io::MutexLock lock(state_->mutex);
  state_->waiting.push_back({std::string(record), std::move(fn)});
  state_->wake.notify_all();
}

Result<Journal::Position> Journal::append(std::string_view record) {
  struct Answer {
    io::Mutex mutex;
    io::CondVar wake;
    std::optional<Result<Position>> got KESSAI_GUARDED_BY(mutex);
  };
  const auto answer = std::make_shared<Answer>();
  append(record, [answer](Result<Position> r) {
    const io::MutexLock lock(answer->mutex);
    answer->got = std::move(r);
    answer->wake.notify_all();
  });
  constexpr std::uint64_t kLongNs = 1'000'000'000;
  for (;;) {
    if (!state_->env.background) state_->flush_batch();
    const io::MutexLock lock(answer->mutex);
    if (!answer->got && state_->env.background) answer->wake.wait_for(answer->mutex, kLongNs);
    if (answer->got) return *answer->got;
  }
}

Result<void> Journal::read(Position from,
                           const std::function<bool(Position, std::string_view)>& fn) {
  std::vector<State::Segment> segments;
  Position end = 0;
  {
    const io::MutexLock lock(state_->mutex);
    segments = state_->segments;
    end = state_->next;
  }
  bool more = true;
  const auto visit = [&](Position p, std::string_view record) {
    more = more && p < end && fn(p, record);
    return more;
  };
  for (std::size_t i = 0; i < segments.size() && more; ++i) {
    const bool newest = i + 1 == segments.size();
    if (!newest && segments[i + 1].first <= from) continue;
    KESSAI_ASSIGN(file, state_->env.directory->open(state_->segment_name(segments[i].number),
                                                    io::OpenMode::read_only));
    KESSAI_ASSIGN(bytes, load(*file));
    State::Segment s = segments[i];
    KESSAI_ASSIGN(at, state_->scan(*file, bytes.span(), s, false, from, visit));
    const Position expected = newest ? end : segments[i + 1].first;
    if (more && s.first < expected)
      return state_->damaged(*file, at, "record " + std::to_string(s.first) + " is broken");
  }
  return {};
}

// Oldest first, and each removal durable before the next: whatever a crash takes back, the segments
// that are left are without a gap.
Result<void> Journal::forget_before(Position position) {
  State& s = *state_;
  const io::MutexLock one_at_a_time(s.forgetting);
  for (;;) {
    if (s.removed) KESSAI_TRY(s.env.directory->flush());
    s.removed = false;
    std::uint64_t number = 0;
    {
      const io::MutexLock lock(s.mutex);
      if (s.segments.size() < 2 || s.segments[1].first > position) return {};
      number = s.segments.front().number;
    }
    KESSAI_TRY(s.env.directory->remove(s.segment_name(number)));
    s.removed = true;
    const io::MutexLock lock(s.mutex);
    s.segments.erase(s.segments.begin());
  }
}

Journal::Position Journal::first() const {
  const io::MutexLock lock(state_->mutex);
  return state_->segments.front().first;
}
Journal::Position Journal::next() const {
  const io::MutexLock lock(state_->mutex);
  return state_->next;
}
std::string Journal::id() const {
  std::string hex;
  for (const std::byte b : state_->id) {
    hex += "0123456789abcdef"[static_cast<unsigned>(b) >> 4];
    hex += "0123456789abcdef"[static_cast<unsigned>(b) & 15];
  }
  return hex;
}
bool Journal::cut_tail() const { return state_->cut; }
std::uint64_t Journal::flushes() const {
  const io::MutexLock lock(state_->mutex);
  return state_->flush_count;
}
std::chrono::nanoseconds Journal::flush_time() const {
  const io::MutexLock lock(state_->mutex);
  return std::chrono::nanoseconds(state_->flush_ns);
}
std::uint64_t Journal::bytes() const {
  const io::MutexLock lock(state_->mutex);
  std::uint64_t sum = 0;
  for (const auto& s : state_->segments) sum += s.bytes;
  return sum;
}
bool Journal::poll() { return !state_->env.background && state_->flush_batch(); }

}  // namespace kessai
