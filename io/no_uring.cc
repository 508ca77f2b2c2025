// SPDX-License-Identifier: Apache-2.0
// Built instead of uring_queue.cc where liburing is not installed.
#include "io/os_private.hpp"

namespace kessai::io {

Result<void> probe_uring() { return fail(Code::not_supported, "built without liburing, io_uring is not available"); }

Result<std::unique_ptr<Queue>> make_uring_queue(const OsDirectory&, unsigned) {
  return std::unexpected(probe_uring().error());
}

}  // namespace kessai::io
