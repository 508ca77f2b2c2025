// SPDX-License-Identifier: Apache-2.0
// The redo log as it was meant to be, and what damage to it may cost: the exact words of the limit
// in docs/format-log.md. Reads the bytes by itself (wal/format.hpp), not through wal::LogReader,
// which it judges.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/sim_disk.hpp"
#include "wal/format.hpp"

namespace kessai::crash {

class LogPicture {
 public:
  /// REQUIRES disk.keep_intended(): the picture is of what the disk should hold.
  explicit LogPicture(const io::SimDisk& disk);

  /// With the bytes that the disk does hold, the LSN at which the log may seem to end. Nothing:
  /// what is missing must be noticed, or is not needed.
  [[nodiscard]] std::optional<Lsn> may_end_at(const io::SimDisk& disk) const;

 private:
  struct Frame {
    std::uint64_t offset = 0, bytes = 0;
    Lsn first = 0, hint = 0;
  };
  struct File {
    std::string name;
    wal::SegmentHeader header;
    std::vector<Frame> frames;
  };

  std::vector<File> files_;  ///< with a header, by segment number
};

}  // namespace kessai::crash
