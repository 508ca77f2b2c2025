// SPDX-License-Identifier: Apache-2.0
// Log frames and recovery: patches on a log of a few generations, frames of several blocks and a
// large commit; checksums made right, or not. Recovery answers commits or an error, and a log that
// was recovered goes on. With wrong checksums what it answers is a prefix of what was committed.
//
//   input := u8 flags | patches (store_image.hpp); flags: 1 = checksums stay wrong
#include "tests/fuzz/store_image.hpp"
#include "tests/wal/log_helper.hpp"

namespace kessai::fuzz {
namespace {

namespace wt = wal::test;

wal::LogOptions options() {
  wal::LogOptions o = wt::small_options();
  o.segment_bytes = 32 * 1024;
  o.ring_bytes = 32 * 1024;
  o.max_frame_bytes = 16 * 1024;
  return o;
}

struct SmallLog {
  io::SimDisk disk{31};
  std::vector<wt::Commit> commits;

  SmallLog() {
    for (int generation = 0; generation < 3; ++generation) {
      wt::Machine machine(disk, 7 + static_cast<std::uint64_t>(generation));
      std::unique_ptr<wal::Log> log;
      if (generation == 0) {
        log = std::move(*wal::Log::create(machine.env, wt::kStore, options()));
      } else {
        auto r = wt::recover(machine);
        log = std::move(*wt::restart(machine, *r, options()));
      }
      for (int i = 0; i < 3; ++i) append(*log, static_cast<std::size_t>(i == 1 ? 6000 : 40), i);
      append_large(*log);
      expect(log->seal().has_value(), "the harness has no log");
    }
  }
  void keep(const Result<wal::Log::Reservation>& r, wal::Log& log, std::string ops) {
    expect(r && log.wait_durable(r->lsn), "the harness has no log");
    commits.push_back({r->lsn, std::move(ops)});
  }
  void append(wal::Log& log, std::size_t bytes, int i) {
    std::string ops(bytes, static_cast<char>('a' + i));
    const auto r = wt::append(log, ops);
    keep(r, log, std::move(ops));
  }
  void append_large(wal::Log& log) {
    wal::CloseBuilder builder;
    std::string all, record;
    for (const char c : {'X', 'Y'}) {
      const std::string body(500, c);
      wal::start_record(wal::RecordKind::part, record);
      record += body;
      wal::finish_record(record);
      const auto r = wt::append_record(log, record);
      expect(r.has_value(), "the harness has no log");
      builder.add_part(r->start, r->lsn, body);
      all += body;
    }
    builder.finish(record);
    const auto r = wt::append_record(log, record);
    keep(r, log, std::move(all));
  }
};

const SmallLog& small_log() {
  static const SmallLog kLog;
  return kLog;
}

void decode_records(std::string_view bytes) {
  while (const auto record = wal::decode_record(bytes)) {
    expect(record->length <= bytes.size() && record->length >= wal::kRecordHeader,
           "a record is longer than what there is");
    (void)wal::decode_ops(record->body, [](const wal::Op& op) { return op.key.size() < 1u << 20; });
    if (record->kind == wal::RecordKind::close) (void)wal::decode_close(record->body);
    bytes.remove_prefix(record->length);
  }
}

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kessai;
  using namespace kessai::fuzz;
  Input input(data, size);
  const bool made_right = (input.u8() & 1) == 0;
  decode_records({reinterpret_cast<const char*>(data), size});
  static const StoreImage kImage(small_log().disk);
  io::SimDisk disk = kImage.patched(input, made_right);
  wt::Machine machine(disk, 50);
  auto found = wt::recover(machine);
  if (!found) {
    expect_honest(found.error());
    return 0;
  }
  const auto& all = small_log().commits;
  if (!made_right) {
    expect(found->commits.size() <= all.size() &&
               std::equal(found->commits.begin(), found->commits.end(), all.begin()),
           "recovery answers something that was never committed");
  }
  (void)found->reader->visit_records([](const wal::LogReader::RawRecord&) { return true; });
  auto log = wt::restart(machine, *found, options());
  if (!log) {
    expect_honest(log.error());
    return 0;
  }
  const auto more = wt::append(**log, "more");
  if (!more || !(*log)->wait_durable(more->lsn)) return 0;
  log->reset();
  wt::Machine next(disk, 51);
  const auto again = wt::recover(next);
  expect(again && !again->commits.empty() && again->commits.back().ops == "more" &&
             again->commits.size() == found->commits.size() + 1,
         "what recovery went on from cannot be recovered");
  return 0;
}
