// SPDX-License-Identifier: Apache-2.0
/// @file
/// The outside: what a payment service implements to reach its acquirer (card company, agency).
///
/// Both calls are asynchronous: they return soon and `done` is called later, once, from any thread
/// (or at once). `done` may come after the deadline, or never: the flow does not wait past the
/// deadline. Neither call may throw.
///
/// The key is the flow's TRANSACTION_ID: any bytes, up to 264 of them, never reused for another
/// payment. The acquirer must treat calls with an equal key as the same payment.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "kessai/payments/money.hpp"

namespace kessai::payments {

/// What is known after a call. `unknown`: a timeout, a broken connection, an answer nobody can
/// read; the money may be held. A timeout is not a failure.
enum class AuthOutcome : std::uint8_t { ok, declined, unknown };

struct Authorisation {
  std::string key;
  Milli amount = 0;
  Currency currency = kGbp;
  std::string card_token, merchant;
  std::chrono::nanoseconds timeout{};  ///< left until the flow stops waiting
};
struct AuthReply {
  AuthOutcome outcome = AuthOutcome::unknown;
  std::string auth_code = {};
  std::string reason = {};  ///< of a decline or an unknown, for example "card_busy"
};

/// `cancelled`: nothing is held for the key any more. `nothing_there`: the acquirer knows no such
/// authorisation, yet: a delayed one may still arrive. `failed`: it refused. `unknown`: as above.
enum class CancelReply : std::uint8_t { cancelled, nothing_there, failed, unknown };

struct Cancellation {
  std::string key;  ///< of the authorisation
  Milli amount = 0;
  Currency currency = kGbp;
  unsigned attempt = 1;
  std::chrono::nanoseconds timeout{};
};

class Acquirer {
 public:
  virtual ~Acquirer() = default;
  virtual void authorise(const Authorisation& what, std::function<void(AuthReply)> done) = 0;
  /// Must be harmless when it comes again, and when nothing was authorised.
  virtual void cancel(const Cancellation& what, std::function<void(CancelReply)> done) = 0;
};

}  // namespace kessai::payments
