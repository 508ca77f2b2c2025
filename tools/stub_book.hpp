// SPDX-License-Identifier: Apache-2.0
// The book of a pretended acquirer: who holds what, with the seed's behaviours. What happens to a
// key follows from the seed and the key alone, so that a run repeats; what is held survives
// whatever happens to its clients.
//
//   ok            held, answered
//   declined      not held, answered
//   lost_before   never arrives: not held, never answered        (timeout, not applied)
//   lost_after    held, never answered                           (timeout, applied)
//   late          held only `late_ns` after the call, never answered
//   card_busy     the card was used less than a second ago: declined, reason "card_busy"
//
// An equal key again gets the answer of the first call and changes nothing. Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include "kessai/error.hpp"
#include "kessai/payments/acquirer.hpp"

namespace kessai::tools {

struct StubProfile {
  std::uint64_t seed = 1;
  // per thousand; what is left is ok
  unsigned declined = 0, lost_before = 0, lost_after = 0, late = 0;
  unsigned cancel_fails = 0;  ///< per thousand cancels, each call by itself
  std::uint64_t late_ns = 3'000'000'000;
  std::uint64_t card_busy_ns = 1'000'000'000;
  // latency of an answer: between the two, low values more often
  std::uint64_t fastest_ns = 0, slowest_ns = 0;

  /// "instant", "direct" (answers within a second, most in 0.3 s), "agency" (2 to 5 s), "onus".
  [[nodiscard]] static Result<StubProfile> named(std::string_view name);
};

class StubBook {
 public:
  explicit StubBook(StubProfile profile) : profile_(profile) {}

  struct Verdict {
    payments::AuthReply reply;
    bool answers = true;
    std::uint64_t delay_ns = 0;
  };
  [[nodiscard]] Verdict authorise(std::string_view key, payments::Milli amount,
                                  std::string_view card, std::uint64_t now_ns);
  [[nodiscard]] payments::CancelReply cancel(std::string_view key, std::uint64_t now_ns);

  struct Entry {
    payments::Milli amount = 0;
    unsigned calls = 0, cancels = 0;
    bool held = false;            ///< now
    unsigned authorisations = 0;  ///< ever; more than one would be a double charge
    bool cancelled = false;
    payments::AuthReply reply;
    bool answers = true;
    std::uint64_t arrives_ns = 0;  ///< late: when; 0: arrived or never
  };
  /// Everything that was ever called for; late ones have arrived as far as `now_ns`.
  [[nodiscard]] const std::map<std::string, Entry, std::less<>>& entries(std::uint64_t now_ns);

 private:
  void arrive(std::uint64_t now_ns);
  [[nodiscard]] std::uint64_t draw(std::string_view key, std::uint64_t what) const;
  [[nodiscard]] bool card_busy(std::string_view card, std::uint64_t now_ns);

  StubProfile profile_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::unordered_map<std::string, std::uint64_t> cards_;  ///< last use
  std::multimap<std::uint64_t, std::string> late_;        ///< arrival -> key
};

}  // namespace kessai::tools
