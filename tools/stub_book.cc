// SPDX-License-Identifier: Apache-2.0
#include "tools/stub_book.hpp"

#include <algorithm>

#include "io/env.hpp"

namespace kessai::tools {

using payments::AuthOutcome;
using payments::AuthReply;
using payments::CancelReply;

Result<StubProfile> StubProfile::named(std::string_view name) {
  constexpr std::uint64_t kMs = 1'000'000;
  StubProfile p;
  if (name == "instant") return p;
  if (name == "onus") {
    p.fastest_ns = 20 * kMs;
    p.slowest_ns = 200 * kMs;
    return p;
  }
  if (name == "direct") {
    p.fastest_ns = 100 * kMs;
    p.slowest_ns = 950 * kMs;
    return p;
  }
  if (name == "agency") {
    p.fastest_ns = 2000 * kMs;
    p.slowest_ns = 5000 * kMs;
    return p;
  }
  return fail(Code::invalid_argument,
              "a stub is instant, onus, direct or agency, not \"" + std::string(name) + "\"");
}

std::uint64_t StubBook::draw(std::string_view key, std::uint64_t what) const {
  std::uint64_t h = profile_.seed * 0x9e3779b97f4a7c15 + what;  // FNV-1a over the key, then mixed
  for (const char c : key) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return io::SeededRandom(h).next();
}

bool StubBook::card_busy(std::string_view card, std::uint64_t now_ns) {
  if (card.empty()) return false;
  auto& last = cards_[std::string(card)];
  const bool busy = last != 0 && now_ns < last + profile_.card_busy_ns;
  last = now_ns;
  return busy;
}

void StubBook::arrive(std::uint64_t now_ns) {
  while (!late_.empty() && late_.begin()->first <= now_ns) {
    Entry& e = entries_.find(late_.begin()->second)->second;
    late_.erase(late_.begin());
    e.arrives_ns = 0;
    e.held = true;
    ++e.authorisations;
  }
}

StubBook::Verdict StubBook::authorise(std::string_view key, payments::Milli amount,
                                      std::string_view card, std::uint64_t now_ns) {
  arrive(now_ns);
  Verdict v;
  if (profile_.slowest_ns > profile_.fastest_ns) {
    // The smaller of two draws: half of the answers come in the first third of the time.
    const std::uint64_t span = profile_.slowest_ns - profile_.fastest_ns;
    v.delay_ns = profile_.fastest_ns + std::min(draw(key, 1) % span, draw(key, 2) % span);
  }
  auto [it, fresh] = entries_.try_emplace(std::string(key));
  Entry& e = it->second;
  ++e.calls;
  if (!fresh) {
    v.reply = e.reply;
    v.answers = e.answers;
    return v;
  }
  e.amount = amount;
  const std::uint64_t n = draw(key, 3) % 1000;
  const unsigned declined = profile_.declined, before = declined + profile_.lost_before,
                 after = before + profile_.lost_after, late = after + profile_.late;
  if (card_busy(card, now_ns)) {
    e.reply = {.outcome = AuthOutcome::declined, .auth_code = {}, .reason = "card_busy"};
  } else if (n < declined) {
    e.reply = {.outcome = AuthOutcome::declined, .auth_code = {}, .reason = "no_funds"};
  } else if (n < before) {
    e.answers = false;
  } else if (n < late) {
    e.answers = false;
    e.held = n < after;
    e.authorisations = e.held ? 1 : 0;
    if (!e.held) {
      e.arrives_ns = now_ns + profile_.late_ns;
      late_.emplace(e.arrives_ns, it->first);
    }
  } else {
    e.held = true;
    e.authorisations = 1;
    e.reply = {.outcome = AuthOutcome::ok,
               .auth_code = "A" + std::to_string(draw(key, 4) % 1'000'000),
               .reason = {}};
  }
  v.reply = e.reply;
  v.answers = e.answers;
  return v;
}

CancelReply StubBook::cancel(std::string_view key, std::uint64_t now_ns) {
  arrive(now_ns);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return CancelReply::nothing_there;
  Entry& e = it->second;
  if (draw(key, 100 + ++e.cancels) % 1000 < profile_.cancel_fails)
    return e.cancels % 2 == 0 ? CancelReply::failed : CancelReply::unknown;
  if (!e.held && !e.cancelled) return CancelReply::nothing_there;
  e.held = false;
  e.cancelled = true;
  return CancelReply::cancelled;
}

const std::map<std::string, StubBook::Entry, std::less<>>& StubBook::entries(std::uint64_t now_ns) {
  arrive(now_ns);
  return entries_;
}

}  // namespace kessai::tools
