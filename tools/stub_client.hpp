// SPDX-License-Identifier: Apache-2.0
// An Acquirer over a socket to the stub (tools/stub_server.hpp): one connection, any number of
// calls in flight. A connection that breaks makes what is in flight `unknown`; the next call
// connects again.
//
// Threads: any. Replies come on the reader's thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kessai/error.hpp"
#include "kessai/payments/acquirer.hpp"

namespace kessai::tools {

class StubClient final : public payments::Acquirer {
 public:
  /// `url`: "stub://127.0.0.1:PORT" (or only "127.0.0.1:PORT"); loopback addresses only.
  [[nodiscard]] static Result<std::unique_ptr<StubClient>> connect(std::string_view url);
  ~StubClient() override;

  void authorise(const payments::Authorisation& what,
                 std::function<void(payments::AuthReply)> done) override;
  void cancel(const payments::Cancellation& what,
              std::function<void(payments::CancelReply)> done) override;

  struct Entry {
    std::string key;
    payments::Milli amount = 0;
    bool held = false;
    unsigned authorisations = 0, calls = 0, cancels = 0;
  };
  /// The stub's book, for those who check it.
  [[nodiscard]] Result<std::vector<Entry>> list();

 private:
  struct State;
  explicit StubClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A stub of our own as a child process, which ends with this one.
class StubChild {
 public:
  /// Runs `words` (a program that answers one line with its port on stdout, like `kvpay stub`).
  [[nodiscard]] static Result<StubChild> start(const std::vector<std::string>& words);
  StubChild(StubChild&& o) noexcept;
  StubChild& operator=(StubChild&&) = delete;
  ~StubChild();
  [[nodiscard]] const std::string& url() const noexcept { return url_; }

 private:
  StubChild() = default;
  int pid_ = -1, input_ = -1;
  std::string url_;
};

}  // namespace kessai::tools
