// SPDX-License-Identifier: Apache-2.0
#include "tools/stub_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <queue>
#include <vector>

#include "io/check.hpp"
#include "io/env.hpp"
#include "tools/interrupt.hpp"
#include "tools/stub_wire.hpp"

namespace kessai::tools {
namespace {

using payments::Decoder;
using payments::Encoder;

struct Client {
  std::string in, out;
};

/// An answer on its way.
struct Due {
  std::uint64_t at_ns;
  int client;
  std::uint64_t client_serial;  ///< of the connection: its number may be another's by then
  std::string frame;
  bool operator<(const Due& o) const { return at_ns > o.at_ns; }
};

class Server {
 public:
  Server(int listener, const StubServerOptions& options)
      : listener_(listener), until_eof_(options.until_eof), book_(options.profile) {}
  ~Server() {
    for (const auto& [fd, c] : clients_) ::close(fd);
  }

  void run() {
    while (!interrupted()) {
      std::vector<pollfd> fds{{listener_, POLLIN, 0}};
      fds.push_back({until_eof_ ? STDIN_FILENO : -1, POLLIN, 0});
      for (const auto& [fd, c] : clients_)
        fds.push_back({fd, static_cast<short>(POLLIN | (c.out.empty() ? 0 : POLLOUT)), 0});
      constexpr int kLongMs = 200;
      ::poll(fds.data(), fds.size(), due_.empty() ? kLongMs : wait_ms());
      if (fds[1].revents != 0) {
        char byte = 0;
        if (::read(STDIN_FILENO, &byte, 1) == 0) return;
      }
      if (fds[0].revents != 0) accept_one();
      for (std::size_t i = 2; i < fds.size(); ++i) {
        if (fds[i].revents != 0) receive(fds[i].fd);
      }
      send_due();
      for (auto it = clients_.begin(); it != clients_.end();) {
        const int fd = (it++)->first;
        flush(fd);
      }
    }
  }

 private:
  static std::uint64_t now() { return io::system_clock().now_ns(); }
  [[nodiscard]] int wait_ms() const {
    constexpr std::uint64_t kNsPerMs = 1'000'000;
    const std::uint64_t n = now(), at = due_.top().at_ns;
    return at <= n ? 0 : static_cast<int>(std::min<std::uint64_t>((at - n) / kNsPerMs, 200));
  }

  void accept_one() {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const int yes = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    clients_[fd] = {};
    serials_[fd] = ++connections_;
  }

  void drop(int fd) {
    ::close(fd);
    clients_.erase(fd);
    serials_.erase(fd);
  }

  void receive(int fd) {
    Client& c = clients_[fd];
    char buffer[64 << 10];
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return drop(fd);
    if (n < 0) return;
    c.in.append(buffer, static_cast<std::size_t>(n));
    std::size_t used = 0;
    bool broken = false;
    while (const auto h = wire::next_frame(std::string_view(c.in).substr(used), broken)) {
      if (!serve(fd, *h)) broken = true;
      used += h->bytes;
      if (broken) break;
    }
    if (broken) return drop(fd);
    c.in.erase(0, used);
  }

  bool serve(int fd, const wire::Head& h) {
    Decoder d(h.fields);
    switch (h.kind) {
      case wire::Kind::authorise:
        return authorise(fd, h.serial, d);
      case wire::Kind::cancel: {
        const std::string key = d.text();
        if (!d.good()) return false;
        Encoder e;
        e.put(static_cast<std::uint8_t>(book_.cancel(key, now())));
        clients_[fd].out += wire::frame(h.serial, wire::Kind::cancelled, e.take());
        return true;
      }
      case wire::Kind::list:
        list(fd, h.serial);
        return true;
      case wire::Kind::authorised:
      case wire::Kind::cancelled:
      case wire::Kind::entry:
      case wire::Kind::end:
        return false;
    }
    return false;
  }

  bool authorise(int fd, std::uint64_t serial, Decoder& d) {
    payments::Milli amount = 0;
    d.get(amount);
    const std::string key = d.text(), card = d.text();
    if (!d.good()) return false;
    const std::uint64_t at = now();
    const StubBook::Verdict v = book_.authorise(key, amount, card, at);
    if (!v.answers) return true;
    Encoder e;
    e.put(static_cast<std::uint8_t>(v.reply.outcome));
    e.text(v.reply.auth_code);
    e.text(v.reply.reason);
    due_.push(
        {at + v.delay_ns, fd, serials_[fd], wire::frame(serial, wire::Kind::authorised, e.take())});
    return true;
  }

  void list(int fd, std::uint64_t serial) {
    std::string& out = clients_[fd].out;
    for (const auto& [key, entry] : book_.entries(now())) {
      Encoder e;
      e.text(key);
      e.put(entry.amount);
      e.put(static_cast<std::uint8_t>(entry.held ? 1 : 0));
      e.put(entry.authorisations);
      e.put(entry.calls);
      e.put(entry.cancels);
      out += wire::frame(serial, wire::Kind::entry, e.take());
    }
    out += wire::frame(serial, wire::Kind::end, {});
  }

  void send_due() {
    const std::uint64_t n = now();
    while (!due_.empty() && due_.top().at_ns <= n) {
      const Due& due = due_.top();
      const auto it = serials_.find(due.client);
      if (it != serials_.end() && it->second == due.client_serial)
        clients_[due.client].out += due.frame;
      due_.pop();
    }
  }

  void flush(int fd) {
    std::string& out = clients_[fd].out;
    while (!out.empty()) {
      const ssize_t n = ::send(fd, out.data(), out.size(), MSG_NOSIGNAL);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n <= 0) return drop(fd);
      out.erase(0, static_cast<std::size_t>(n));
    }
  }

  int listener_;
  bool until_eof_;
  StubBook book_;
  std::map<int, Client> clients_;
  std::map<int, std::uint64_t> serials_;
  std::uint64_t connections_ = 0;
  std::priority_queue<Due> due_;
};

std::unexpected<Error> socket_error(const char* what) {
  return std::unexpected(Error(Code::io_error, ErrorDetail{.what = what}, errno));
}

}  // namespace

Result<void> serve_stub(const StubServerOptions& options) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return socket_error("cannot make a socket");
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  const int yes = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(options.port);
  socklen_t length = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  constexpr int kBacklog = 64;
  if (::bind(fd, any, length) != 0 || ::listen(fd, kBacklog) != 0)
    return socket_error("cannot listen on the loopback port");
  if (::getsockname(fd, any, &length) != 0) return socket_error("cannot tell the port");
  if (options.listening) options.listening(ntohs(address.sin_port));
  Server(fd, options).run();
  return {};
}

}  // namespace kessai::tools
