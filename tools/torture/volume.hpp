// SPDX-License-Identifier: Apache-2.0
// Real file systems of our own: disk images in memory, loop devices, mounts that cannot be left
// behind.
//
// After enter_private_mounts() all mounts of this process are seen by it and its children alone.
// The kernel takes them down when the last of these processes is gone, however it went, and with
// the last mount of a loop device the device (LO_FLAGS_AUTOCLEAR).
//
// Needs root. Threads: enter_private_mounts() before others begin; then each its own objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"
#include "tools/torture/disk_recording.hpp"

namespace kessai::torture {

/// What this machine or user lacks for mounts, FUSE and loop devices; nothing if all is there.
[[nodiscard]] std::optional<Error> why_no_mounts();
[[nodiscard]] Result<void> enter_private_mounts();

/// An image of a disk in memory, as a file and mapped; shared with processes forked later. Blocks
/// that nobody wrote take no memory.
class DiskImage {
 public:
  [[nodiscard]] static Result<DiskImage> make(std::uint64_t bytes);
  ~DiskImage();
  DiskImage(DiskImage&& o) noexcept;
  DiskImage& operator=(DiskImage&& o) noexcept;
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] std::span<std::byte> span() const noexcept { return {data_, bytes_}; }
  void clear();                         ///< all zero
  void become(const DiskImage& other);  ///< REQUIRES equal sizes
  /// Also where holes are. False: not written, errno says why.
  [[nodiscard]] bool save(const std::string& path) const;

 private:
  DiskImage() = default;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// A way to make and mount a file system.
struct FileSystem {
  std::string_view fs;       ///< what the kernel calls it
  std::string_view variant;  ///< "" = the usual one
  std::uint64_t bytes;       ///< of the image
  std::vector<std::string> mkfs;
  std::string options;
  Atom superblock;  ///< does not survive being torn, as ext4's, whose checksum then is wrong
};
/// The variants of `fs` that `kvtorture power` goes through; none if it does not know it.
[[nodiscard]] std::vector<FileSystem> file_systems(std::string_view fs);
/// Makes a file system on an image by its mkfs program. `not_supported`: there is none.
[[nodiscard]] Result<void> make_file_system(const FileSystem& fs, const DiskImage& image);

/// A mounted file system over a loop device over an open file. The destructor unmounts, by force
/// if it must.
class Volume {
 public:
  /// `direct`: the device opens up no cache of its own over the file (O_DIRECT).
  [[nodiscard]] static Result<Volume> mount(const FileSystem& fs, int backing_fd, bool direct,
                                            std::string folder);
  ~Volume();
  Volume(Volume&& o) noexcept;
  Volume& operator=(Volume&&) = delete;
  /// Everything is written to the file when it returns.
  [[nodiscard]] Result<void> unmount();

 private:
  explicit Volume(std::string folder) : folder_(std::move(folder)) {}
  std::string folder_;  ///< "": not mounted
};

/// umount2(2), again while it is busy for a moment.
[[nodiscard]] Result<void> unmount_folder(const std::string& folder);

}  // namespace kessai::torture
