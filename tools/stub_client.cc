// SPDX-License-Identifier: Apache-2.0
#include "tools/stub_client.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <unordered_map>

#include "io/check.hpp"
#include "io/sync.hpp"
#include "tools/stub_wire.hpp"

namespace kessai::tools {

using payments::AuthReply;
using payments::CancelReply;
using payments::Decoder;
using payments::Encoder;

struct StubClient::State {
  struct Call {
    std::function<void(AuthReply)> authorised;
    std::function<void(CancelReply)> cancelled;
    std::vector<Entry>* entries = nullptr;
    bool* listed = nullptr;
  };

  sockaddr_in address{};
  io::Mutex mutex;
  io::CondVar wake;
  int fd KESSAI_GUARDED_BY(mutex) = -1;
  std::string out KESSAI_GUARDED_BY(mutex);
  bool stop KESSAI_GUARDED_BY(mutex) = false;
  std::uint64_t serial KESSAI_GUARDED_BY(mutex) = 0;
  std::unordered_map<std::uint64_t, Call> calls KESSAI_GUARDED_BY(mutex);
  int wake_pipe[2] = {-1, -1};
  io::Thread thread;

  ~State() {
    for (const int f : {fd, wake_pipe[0], wake_pipe[1]}) {
      if (f >= 0) ::close(f);
    }
  }

  void nudge() const {
    const char byte = 0;
    while (::write(wake_pipe[1], &byte, 1) < 0 && errno == EINTR) {
    }
  }

  bool connect_locked() KESSAI_REQUIRES(mutex) {
    if (fd >= 0) return true;
    const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0) return false;
    if (::connect(s, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ::close(s);
      return false;
    }
    const int yes = 1;
    ::setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    ::fcntl(s, F_SETFL, O_NONBLOCK);
    fd = s;
    out.clear();
    return true;
  }

  /// False: there is no connection; `call` was not taken.
  bool send(wire::Kind kind, std::string_view fields, Call& call) {
    const io::MutexLock lock(mutex);
    if (!connect_locked()) return false;
    calls.emplace(++serial, std::move(call));
    const bool idle = out.empty();
    out += wire::frame(serial, kind, fields);
    if (idle) nudge();
    return true;
  }

  // The connection is of no use any more.
  void broke() {
    std::unordered_map<std::uint64_t, Call> lost;
    {
      const io::MutexLock lock(mutex);
      if (fd >= 0) ::close(fd);
      fd = -1;
      lost.swap(calls);
      wake.notify_all();
    }
    for (auto& [n, call] : lost) {
      if (call.authorised)
        call.authorised(
            {.outcome = payments::AuthOutcome::unknown, .auth_code = {}, .reason = "broken"});
      if (call.cancelled) call.cancelled(CancelReply::unknown);
    }
  }

  void run() {
    std::string in;
    int seen = -1;
    for (;;) {
      pollfd fds[2] = {{wake_pipe[0], POLLIN, 0}, {-1, POLLIN, 0}};
      {
        const io::MutexLock lock(mutex);
        if (stop) return;
        fds[1].fd = fd;
        if (!out.empty()) fds[1].events |= POLLOUT;
        if (fd != seen) in.clear();
        seen = fd;
      }
      constexpr int kLongMs = 1000;
      ::poll(fds, 2, kLongMs);
      if (fds[0].revents != 0) {
        char bytes[256];
        while (::read(wake_pipe[0], bytes, sizeof bytes) == static_cast<ssize_t>(sizeof bytes)) {
        }
      }
      if (fds[1].fd < 0) continue;
      if (!write_some() || ((fds[1].revents & ~POLLOUT) != 0 && !read_some(fds[1].fd, in))) {
        broke();
        in.clear();
      }
    }
  }

  bool write_some() {
    const io::MutexLock lock(mutex);
    while (fd >= 0 && !out.empty()) {
      const ssize_t n = ::send(fd, out.data(), out.size(), MSG_NOSIGNAL);
      if (n < 0) return errno == EAGAIN || errno == EINTR;
      out.erase(0, static_cast<std::size_t>(n));
    }
    return true;
  }

  bool read_some(int from, std::string& in) {
    char buffer[64 << 10];
    const ssize_t n = ::recv(from, buffer, sizeof buffer, 0);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    in.append(buffer, static_cast<std::size_t>(n));
    std::size_t used = 0;
    bool broken = false;
    while (const auto h = wire::next_frame(std::string_view(in).substr(used), broken)) {
      if (!take(*h)) return false;
      used += h->bytes;
    }
    in.erase(0, used);
    return !broken;
  }

  bool take(const wire::Head& h) {
    Decoder d(h.fields);
    if (h.kind == wire::Kind::entry) {
      Entry e;
      std::uint8_t is_held = 0;
      e.key = d.text();
      d.get(e.amount);
      d.get(is_held);
      d.get(e.authorisations);
      d.get(e.calls);
      d.get(e.cancels);
      e.held = is_held != 0;
      const io::MutexLock lock(mutex);
      if (const auto it = calls.find(h.serial); it != calls.end() && it->second.entries != nullptr)
        it->second.entries->push_back(std::move(e));
      return d.good();
    }
    Call call;
    {
      const io::MutexLock lock(mutex);
      const auto it = calls.find(h.serial);
      if (it == calls.end()) return false;
      call = std::move(it->second);
      calls.erase(it);
      if (call.listed != nullptr) *call.listed = true;
      wake.notify_all();
    }
    std::uint8_t outcome = 0;
    if (call.authorised) {
      d.get(outcome);
      AuthReply r;
      r.auth_code = d.text();
      r.reason = d.text();
      // An answer that nobody can read is no answer.
      r.outcome = d.good() && outcome <= 1 ? static_cast<payments::AuthOutcome>(outcome)
                                           : payments::AuthOutcome::unknown;
      call.authorised(r);
    } else if (call.cancelled) {
      d.get(outcome);
      call.cancelled(d.good() && outcome <= 3 ? static_cast<CancelReply>(outcome)
                                              : CancelReply::unknown);
    }
    return true;
  }
};

StubClient::StubClient(std::unique_ptr<State> state) : state_(std::move(state)) {}

StubClient::~StubClient() {
  {
    const io::MutexLock lock(state_->mutex);
    state_->stop = true;
  }
  state_->nudge();
  state_->thread.join();
}

Result<std::unique_ptr<StubClient>> StubClient::connect(std::string_view url) {
  const auto wrong = [&] {
    return fail(Code::invalid_argument,
                "an acquirer is stub://127.0.0.1:PORT, not \"" + std::string(url) + "\"");
  };
  std::string_view rest = url;
  if (rest.starts_with("stub://")) rest.remove_prefix(7);
  const auto colon = rest.rfind(':');
  if (colon == rest.npos) return wrong();
  unsigned port = 0;
  const char* const end = rest.data() + rest.size();
  const auto parsed = std::from_chars(rest.data() + colon + 1, end, port);
  auto state = std::make_unique<State>();
  state->address.sin_family = AF_INET;
  state->address.sin_port = htons(static_cast<std::uint16_t>(port));
  const std::string host(rest.substr(0, colon));
  constexpr std::uint32_t kLoopbackNet = 127;
  if (parsed.ec != std::errc() || parsed.ptr != end || port == 0 || port > 65535 ||
      ::inet_pton(AF_INET, host.c_str(), &state->address.sin_addr) != 1 ||
      ntohl(state->address.sin_addr.s_addr) >> 24 != kLoopbackNet)
    return wrong();
  if (::pipe2(state->wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
    return std::unexpected(Error(Code::io_error, ErrorDetail{.what = "cannot make a pipe"}, errno));
  {
    const io::MutexLock lock(state->mutex);
    if (!state->connect_locked())
      return std::unexpected(
          Error(Code::io_error, ErrorDetail{.what = "no acquirer at " + std::string(url)}, errno));
  }
  state->thread = io::Thread("stub-client", [s = state.get()] { s->run(); });
  return std::unique_ptr<StubClient>(new StubClient(std::move(state)));
}

void StubClient::authorise(const payments::Authorisation& what,
                           std::function<void(AuthReply)> done) {
  Encoder e;
  e.put(what.amount);
  e.text(what.key);
  e.text(what.card_token);
  State::Call call;
  call.authorised = std::move(done);
  if (!state_->send(wire::Kind::authorise, e.take(), call))
    call.authorised(
        {.outcome = payments::AuthOutcome::unknown, .auth_code = {}, .reason = "no_connection"});
}

void StubClient::cancel(const payments::Cancellation& what, std::function<void(CancelReply)> done) {
  Encoder e;
  e.text(what.key);
  State::Call call;
  call.cancelled = std::move(done);
  if (!state_->send(wire::Kind::cancel, e.take(), call)) call.cancelled(CancelReply::unknown);
}

Result<std::vector<StubClient::Entry>> StubClient::list() {
  std::vector<Entry> entries;
  bool listed = false;
  State::Call call;
  call.entries = &entries;
  call.listed = &listed;
  if (!state_->send(wire::Kind::list, {}, call)) return fail(Code::io_error, "no connection");
  constexpr std::uint64_t kLongNs = 100'000'000;
  for (;;) {
    const io::MutexLock lock(state_->mutex);
    if (listed) return entries;
    if (state_->fd < 0) return fail(Code::io_error, "the connection broke");
    state_->wake.wait_for(state_->mutex, kLongNs);
  }
}

// ---- a stub of our own -------------------------------------------------------------------------

StubChild::StubChild(StubChild&& o) noexcept
    : pid_(std::exchange(o.pid_, -1)),
      input_(std::exchange(o.input_, -1)),
      url_(std::move(o.url_)) {}

StubChild::~StubChild() {
  if (pid_ < 0) return;
  ::close(input_);
  ::kill(pid_, SIGTERM);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<StubChild> StubChild::start(const std::vector<std::string>& words) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return fail(Code::io_error, "cannot make a pipe");
  if (::pipe2(out, O_CLOEXEC) != 0) {
    ::close(in[0]);
    ::close(in[1]);
    return fail(Code::io_error, "cannot make a pipe");
  }
  std::vector<char*> argv;
  for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, out[1], STDOUT_FILENO);
  StubChild child;
  const int failed = ::posix_spawn(&child.pid_, argv[0], &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  ::close(in[0]);
  ::close(out[1]);
  child.input_ = in[1];
  std::string line;
  char c = 0;
  while (failed == 0 && ::read(out[0], &c, 1) == 1 && c != '\n') line += c;
  ::close(out[0]);
  if (failed != 0) {
    child.pid_ = -1;
    ::close(in[1]);
  }
  if (line.empty()) return fail(Code::io_error, "the stub acquirer did not start");
  child.url_ = line;
  return child;
}

}  // namespace kessai::tools
