// SPDX-License-Identifier: Apache-2.0
#include "tools/torture/volume.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace kessai::torture {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr int kTries = 1000;
constexpr int kTryMs = 5;

Error failed(const std::string& call, const std::string& path) {
  return {Code::io_error, ErrorDetail{.what = call + " failed", .path = path}, errno};
}

void wait_ms(int ms) { (void)poll(nullptr, 0, ms); }

std::string program_path(const std::string& name) {
  for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/usr/local/sbin/"})
    if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
  return {};
}

/// A loop device over `backing`, detached when nothing has it open any more. The descriptor.
Result<int> attach_loop(int backing, bool direct, std::string& path) {
  const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) return std::unexpected(failed("opening", "/dev/loop-control"));
  Result<int> out = std::unexpected(Error(Code::io_error, "no loop device is free"));
  for (int tries = 0; tries < kTries; ++tries) {
    const int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) {
      out = std::unexpected(failed("LOOP_CTL_GET_FREE", "/dev/loop-control"));
      break;
    }
    path = "/dev/loop" + std::to_string(number);
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) {
      out = std::unexpected(failed("opening", path));
      break;
    }
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(backing);
    config.block_size = 512;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (direct ? LO_FLAGS_DIRECT_IO : 0);
    if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
      out = fd;
      break;
    }
    out = std::unexpected(failed("LOOP_CONFIGURE", path));
    const bool taken = errno == EBUSY;  // by somebody else, meanwhile
    close(fd);
    if (!taken) break;
    wait_ms(kTryMs);
  }
  close(control);
  return out;
}

}  // namespace

std::optional<Error> why_no_mounts() {
  const auto lacking = [](std::string what) { return Error(Code::not_supported, std::move(what)); };
  if (geteuid() != 0)
    return lacking("power cuts under a real kernel need root, for mounts and loop devices");
  for (const char* device : {"/dev/fuse", "/dev/loop-control"}) {
    if (access(device, R_OK | W_OK) != 0)
      return lacking(std::string("there is no ") + device +
                     ": load the kernel module (modprobe fuse, modprobe loop) or run it where the "
                     "device is let in");
  }
  return std::nullopt;
}

Result<void> enter_private_mounts() {
  if (unshare(CLONE_NEWNS) != 0)
    return std::unexpected(Error(
        Code::not_supported,
        ErrorDetail{.what = "a mount namespace of its own was refused (CAP_SYS_ADMIN is needed)"},
        errno));
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return std::unexpected(failed("making the mounts private", "/"));
  return {};
}

// ---- images -------------------------------------------------------------------------------------

Result<DiskImage> DiskImage::make(std::uint64_t bytes) {
  DiskImage out;
  out.fd_ = memfd_create("kvtorture", MFD_CLOEXEC);
  if (out.fd_ < 0 || ftruncate(out.fd_, static_cast<off_t>(bytes)) != 0)
    return std::unexpected(failed("memfd_create", "memory"));
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out.fd_, 0);
  if (at == MAP_FAILED) return std::unexpected(failed("mmap", "memory"));
  out.data_ = static_cast<std::byte*>(at);
  out.bytes_ = bytes;
  return out;
}

DiskImage::~DiskImage() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (fd_ >= 0) close(fd_);
}

DiskImage::DiskImage(DiskImage&& o) noexcept { *this = std::move(o); }
DiskImage& DiskImage::operator=(DiskImage&& o) noexcept {
  std::swap(fd_, o.fd_);
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

void DiskImage::clear() {
  (void)fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_));
}

void DiskImage::become(const DiskImage& other) {
  clear();
  for (off_t at = 0;;) {
    const off_t from = lseek(other.fd_, at, SEEK_DATA);
    if (from < 0) return;  // the rest is a hole
    at = lseek(other.fd_, from, SEEK_HOLE);
    std::memcpy(data_ + from, other.data_ + from, static_cast<std::size_t>(at - from));
  }
}

bool DiskImage::save(const std::string& path) const {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  bool good = ftruncate(fd, static_cast<off_t>(bytes_)) == 0;
  for (off_t at = 0; good;) {
    at = lseek(fd_, at, SEEK_DATA);
    if (at < 0) break;
    const off_t end = lseek(fd_, at, SEEK_HOLE);
    while (good && at < end) {
      const ssize_t n = pwrite(fd, data_ + at, static_cast<std::size_t>(end - at), at);
      good = n > 0;
      at += good ? n : 0;
    }
  }
  return close(fd) == 0 && good;
}

// ---- file systems -------------------------------------------------------------------------------

// No fast_commit: mounting what a cut left of one is refused now and then (Linux 6.18, "journal
// recovery failed", EUCLEAN), whatever ran on top.
std::vector<FileSystem> file_systems(std::string_view fs) {
  if (fs != "ext4") return {};
  const auto ext4 = [](std::string_view variant, const char* block, const char* options) {
    return FileSystem{.fs = "ext4",
                      .variant = variant,
                      .bytes = 96 * kMiB,
                      .mkfs = {"mkfs.ext4", "-q", "-F", "-b", block, "-J", "size=8", "-E",
                               "lazy_itable_init=0,lazy_journal_init=0,nodiscard"},
                      .options = options,
                      .superblock = {.offset = 1024, .bytes = 1024}};
  };
  return {ext4("ordered", "4096", "noinit_itable,data=ordered"),
          ext4("journal", "4096", "noinit_itable,data=journal"),
          ext4("1 KiB blocks", "1024", "noinit_itable,data=ordered")};
}

Result<void> make_file_system(const FileSystem& fs, const DiskImage& image) {
  const std::string program = program_path(fs.mkfs.front());
  if (program.empty())
    return std::unexpected(Error(Code::not_supported, fs.mkfs.front() + " is not installed"));
  const int file = dup(image.fd());  // without CLOEXEC: mkfs opens it by its number
  if (file < 0) return std::unexpected(failed("dup", "memory"));
  std::vector<std::string> words = fs.mkfs;
  words.front() = program;
  words.push_back("/proc/self/fd/" + std::to_string(file));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    const int quiet = open("/dev/null", O_RDWR);
    dup2(quiet, STDOUT_FILENO);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  close(file);
  int status = -1;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return std::unexpected(Error(Code::io_error, program + " failed"));
}

Result<Volume> Volume::mount(const FileSystem& fs, int backing_fd, bool direct,
                             std::string folder) {
  std::string device;
  auto loop = attach_loop(backing_fd, direct, device);
  if (!loop) return std::unexpected(loop.error());
  const std::string type(fs.fs);
  const int done = ::mount(device.c_str(), folder.c_str(), type.c_str(), MS_NOATIME | MS_NOSUID,
                           fs.options.c_str());
  const int error = errno;
  close(*loop);  // from now on the mount alone holds it
  if (done == 0) return Volume(std::move(folder));
  return std::unexpected(Error(
      Code::io_error,
      ErrorDetail{.what = "mounting " + type + " (" + fs.options + ") failed", .path = device},
      error));
}

Volume::Volume(Volume&& o) noexcept : folder_(std::exchange(o.folder_, {})) {}

Volume::~Volume() {
  if (!folder_.empty() && !unmount()) (void)umount2(folder_.c_str(), MNT_DETACH);
}

Result<void> Volume::unmount() {
  auto done = unmount_folder(folder_);
  if (done) folder_.clear();
  return done;
}

Result<void> unmount_folder(const std::string& folder) {
  for (int tries = 0; umount2(folder.c_str(), 0) != 0; ++tries) {
    if (errno != EBUSY || tries == kTries) return std::unexpected(failed("unmounting", folder));
    wait_ms(kTryMs);
  }
  return {};
}

}  // namespace kessai::torture
