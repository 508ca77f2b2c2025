// SPDX-License-Identifier: Apache-2.0
#include "tools/flow_commands.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "kessai/payments/tables.hpp"
#include "tools/bytes.hpp"
#include "tools/exit_codes.hpp"
#include "tools/interrupt.hpp"
#include "tools/stub_client.hpp"
#include "tools/stub_server.hpp"

namespace kessai::tools {
namespace {

using payments::Answer;
using payments::AnswerKind;
using payments::FlowOptions;
using payments::FlowStats;
using payments::PaymentFlow;

void print(std::string_view text) { stdout_sink()(text); }

/// For commands that only look and register: whatever is asked stays unknown.
class NoAcquirer final : public payments::Acquirer {
 public:
  void authorise(const payments::Authorisation&,
                 std::function<void(payments::AuthReply)> done) override {
    done({});
  }
  void cancel(const payments::Cancellation&,
              std::function<void(payments::CancelReply)> done) override {
    done(payments::CancelReply::unknown);
  }
};

/// The stub that `kvpay load` starts ends with it, and so does what it held.
constexpr std::string_view kOwnStub = "kvpay-load-stub";
class EndedStub final : public payments::Acquirer {
 public:
  void authorise(const payments::Authorisation&,
                 std::function<void(payments::AuthReply)> done) override {
    done({});
  }
  void cancel(const payments::Cancellation&,
              std::function<void(payments::CancelReply)> done) override {
    done(payments::CancelReply::nothing_there);
  }
};

/// Whether every cancel, delivered or not, is one of a stub of `kvpay load` itself.
Result<bool> only_own_stubs(Database& db) {
  const auto tables = payments::PaymentTables::open(db, false);
  if (!tables) return std::unexpected(tables.error());
  auto txn = db.read_only();
  if (!txn) return std::unexpected(txn.error());
  auto c = tables->cancel.scan(*txn);
  while (c.next())
    if (c.row().acquirer != kOwnStub) return false;
  if (const auto ok = c.status(); !ok) return std::unexpected(ok.error());
  return true;
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad()) return fail(Code::io_error, "cannot read " + printable(path));
  return text;
}

Json recovery_json(const payments::Recovery& r) {
  return {{"log_records", r.log_records},  {"cancel_requested", r.cancel_requested},
          {"not_sent", r.not_sent},        {"vetoed", r.vetoed},
          {"from_spool", r.from_spool},    {"log_lost", r.log_lost},
          {"cancels_open", r.cancels_open}};
}

void print_fields(const Json& row, bool json) {
  if (json) return print(json_line(row));
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [key, value] : row.items()) fields.emplace_back(key, value.dump());
  print(render_fields(fields));
}

}  // namespace

CLI::App* FlowCommands::add(CLI::App& app, const char* name, const char* help, bool has_store) {
  CLI::App* sub = app.add_subcommand(name, help);
  sub->add_flag("--json", json_, "one JSON object per line");
  if (!has_store) return sub;
  sub->add_option("STORE", store_, "directory of the store")->required();
  sub->add_option("--memory", memory_mib_, "page cache in MiB")->capture_default_str();
  sub->add_option("--log", log_, "directory of transaction log and spool (STORE.txlog)");
  return sub;
}

FlowCommands::FlowCommands(CLI::App& app) {
  recover_ = add(app, "recover", "start-up recovery of the payment flow", true);
  sweep_ = add(app, "sweep", "close requests that nobody finished", true);
  drain_ = add(app, "drain", "deliver the cancels that are open", true);
  drain_->add_option("--acquirer", acquirer_, "stub://127.0.0.1:PORT (needed when it holds any)");
  drain_->add_option("--limit", limit_seconds_, "seconds to try")->capture_default_str();
  drain_
      ->add_option("--window", window_seconds_,
                   "seconds that an authorisation may be delayed: until then nothing is given up")
      ->capture_default_str();

  load_ = add(app, "load", "payments at given rates; makes the store when missing", true);
  load_->add_option("--profile", load_options_.profile, "ramp, burst100, campaign or soak")
      ->capture_default_str();
  load_->add_option("--ramp", load_options_.ramp, "FROM:TO:STEP requests a second")
      ->capture_default_str();
  load_->add_option("--from", load_options_.from, "begin at this rate");
  load_->add_option("--step", load_options_.step_seconds, "seconds a step")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  load_->add_option("--cards", load_options_.cards, "test cards (twice the peak rate)");
  load_->add_option("--workers", load_options_.workers, "that share the cards")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  load_->add_option("--keys", keys_, "shape of the ids")
      ->check(CLI::IsMember({"hashed", "time-prefix"}))
      ->capture_default_str();
  load_->add_option("--inflight", in_flight_, "most payments at a time; more are refused")
      ->capture_default_str();
  load_->add_option("--acquirer", acquirer_, "stub://127.0.0.1:PORT (one of its own)");
  load_->add_option("--seed", load_options_.seed, "of the ids");
  load_->add_option("--answers", answers_, "append each answer to this file");

  compare_ = add(app, "compare", "two reports of load --json", false);
  compare_->add_option("A", a_, "report before")->required();
  compare_->add_option("B", b_, "report after")->required();
  compare_->add_option("--worse", worse_percent_, "percent that a p99 may grow")
      ->capture_default_str();

  stub_command_ = add(app, "stub", "a pretended acquirer on a loopback port", false);
  stub_command_->add_option("--port", port_, "0: any free one")->check(CLI::Range(0, 65535));
  stub_command_->add_flag("--until-eof", until_eof_, "end when standard input does");
  for (CLI::App* sub : {load_, stub_command_}) {
    sub->add_option("--stub", stub_, "latency of the stub: instant, onus, direct or agency")
        ->capture_default_str();
    sub->add_option("--stub-seed", profile_.seed, "what happens to which id")
        ->capture_default_str();
    const auto permille = [&](const char* name, unsigned& value, const char* help) {
      sub->add_option(name, value, help)->check(CLI::Range(0, 1000));
    };
    permille("--declined", profile_.declined, "per thousand: declined");
    permille("--lost-before", profile_.lost_before, "per thousand: time out, not authorised");
    permille("--lost-after", profile_.lost_after, "per thousand: time out, authorised");
    permille("--late", profile_.late, "per thousand: time out, authorised later");
    permille("--cancel-fails", profile_.cancel_fails, "per thousand cancels");
  }
}

std::optional<int> FlowCommands::run(bool json) {
  json_ = json_ || json;
  if (log_.empty()) log_ = store_ + ".txlog";
  if (*recover_) return run_recover();
  if (*sweep_) return run_sweep();
  if (*drain_) return run_drain();
  if (*load_) return run_load_command();
  if (*compare_) return run_compare();
  if (*stub_command_) return run_stub();
  return std::nullopt;
}

int FlowCommands::report(const Error& error, const std::string& where, bool opening) const {
  stderr_sink()(render_error(error, json_, where));
  return exit_code(error, opening);
}

template <class Use>
int FlowCommands::with_flow(bool create, payments::Acquirer* acquirer, FlowOptions options,
                            Use use) {
  Options store;
  store.create = create;
  store.memory = std::uint64_t{memory_mib_} << 20;
  auto db = Database::open(store_, store);
  if (!db) return report(db.error(), store_, true);
  NoAcquirer nobody;
  Executor executor;
  if (acquirer == nullptr) options.deliver = false;
  options.on_alert = [this](const payments::Alert& a) {
    stderr_sink()(
        json_
            ? json_line({{"alert", a.what}, {"subject", printable(a.subject)}, {"what", a.detail}})
            : fmt::format("alert {}: {} ({})\n", a.what, a.detail, printable(a.subject)));
  };
  // A log that is somewhere else must not be taken for a lost one.
  const auto marks = db->tree("payment_mark");
  options.create_log = create || (!marks && marks.error() == Code::tree_not_found);
  auto flow = PaymentFlow::open(*db, executor, log_, acquirer != nullptr ? *acquirer : nobody,
                                std::move(options));
  if (!flow && flow.error() == Code::store_missing)
    return report(Error(Code::store_missing,
                        "this store has a transaction log, and it is not here: name its directory "
                        "with --log"),
                  log_, true);
  if (!flow) return report(flow.error(), log_, true);
  int code = use(*db, **flow);
  if (const auto closed = (*flow)->close(); !closed && code == kExitOk)
    code = report(closed.error(), store_);
  flow->reset();
  if (const auto closed = db->close(); !closed && code == kExitOk)
    code = report(closed.error(), store_);
  return code;
}

int FlowCommands::run_recover() {
  return with_flow(false, nullptr, {}, [&](Database&, PaymentFlow& flow) -> int {
    print_fields(recovery_json(flow.recovery()), json_);
    return kExitOk;
  });
}

int FlowCommands::run_sweep() {
  FlowOptions options;
  options.lease = std::chrono::milliseconds(0);  // nobody else has the store open
  return with_flow(false, nullptr, options, [&](Database&, PaymentFlow& flow) -> int {
    const auto swept = flow.sweep([](std::uint64_t) { return !interrupted(); });
    if (!swept) return report(swept.error(), store_);
    const payments::Recovery& r = flow.recovery();
    print_fields({{"swept", *swept + r.cancel_requested + r.not_sent},
                  {"cancel_requested", r.cancel_requested},
                  {"not_sent", r.not_sent},
                  {"cancels_open", flow.stats().cancels_open}},
                 json_);
    return kExitOk;
  });
}

int FlowCommands::run_drain() {
  if (!acquirer_.empty()) {
    auto client = StubClient::connect(acquirer_);
    if (!client) return report(client.error(), acquirer_);
    return drain_to(client->get(), std::chrono::seconds(window_seconds_));
  }
  // Without an acquirer: recovers first, to know whose the cancels are.
  EndedStub stub;
  const int looked = with_flow(false, nullptr, {}, [&](Database& db, PaymentFlow& flow) -> int {
    const std::uint64_t open = flow.recovery().cancels_open;
    if (open == 0) return kExitOk;
    const auto own = only_own_stubs(db);
    if (!own) return report(own.error(), store_);
    if (*own) return kExitOk;
    return report(Error(Code::invalid_argument,
                        fmt::format("{} cancels are open: name the acquirer that they are for with "
                                    "--acquirer stub://127.0.0.1:PORT",
                                    open)),
                  "arguments");
  });
  return looked == kExitOk ? drain_to(&stub, std::chrono::seconds(0)) : looked;
}

int FlowCommands::drain_to(payments::Acquirer* acquirer, std::chrono::seconds window) {
  FlowOptions options;
  options.acquirer_window = window;
  return with_flow(false, acquirer, options, [&](Database&, PaymentFlow& flow) -> int {
    const std::uint64_t open = flow.drain(std::chrono::seconds(limit_seconds_));
    const FlowStats s = flow.stats();
    print_fields({{"delivered", s.cancels_delivered},
                  {"tries", s.cancel_tries},
                  {"dead_letters", s.dead_letters},
                  {"cancels_open", open}},
                 json_);
    return open == 0 && s.dead_letters == 0 ? kExitOk : kExitNo;
  });
}

int FlowCommands::run_load_command() {
  load_options_.time_prefix = keys_ == "time-prefix";
  const auto steps = plan_load(load_options_);
  if (!steps) return report(steps.error(), "arguments");
  const auto cards = enough_cards(load_options_, peak_of(*steps));
  if (!cards) return report(cards.error(), "arguments");
  if (const auto split = split_cards(*cards, load_options_.workers); !split)
    return report(split.error(), "arguments");
  std::optional<StubChild> child;
  FlowOptions options;
  if (acquirer_.empty()) {
    options.acquirer_name = kOwnStub;
    std::vector<std::string> words{"/proc/self/exe", "stub", "--until-eof", "--stub", stub_};
    const auto pass = [&](const char* name, std::uint64_t value) {
      words.insert(words.end(), {name, std::to_string(value)});
    };
    pass("--stub-seed", profile_.seed);
    pass("--declined", profile_.declined);
    pass("--lost-before", profile_.lost_before);
    pass("--lost-after", profile_.lost_after);
    pass("--late", profile_.late);
    pass("--cancel-fails", profile_.cancel_fails);
    auto started = StubChild::start(words);
    if (!started) return report(started.error(), "stub");
    child.emplace(std::move(*started));
    acquirer_ = child->url();
  }
  auto client = StubClient::connect(acquirer_);
  if (!client) return report(client.error(), acquirer_);
  options.max_in_flight = in_flight_;
  std::ofstream answers;
  if (!answers_.empty()) {
    answers.open(answers_, std::ios::app);
    if (!answers) return report(Error(Code::io_error, "cannot write this file"), answers_);
    load_options_.on_answer = [&](const std::string& id, const Answer& a) {
      if (a.kind == AnswerKind::busy) return;  // another thread's, and nothing happened
      answers << id << ' ' << payments::answer_name(a.kind) << ' ' << a.bytes << std::endl;
    };
  }
  return with_flow(true, client->get(), options, [&](Database& db, PaymentFlow& flow) -> int {
    Table table({{"rps", Table::Align::right},
                 {"done", Table::Align::right},
                 {"ok", Table::Align::right},
                 {"declined", Table::Align::right},
                 {"unknown", Table::Align::right},
                 {"card busy", Table::Align::right},
                 {"busy", Table::Align::right},
                 {"errors", Table::Align::right},
                 {"p50", Table::Align::right},
                 {"p99", Table::Align::right},
                 {"store p99", Table::Align::right},
                 {"top wait"}});
    std::uint64_t errors = 0, busy = 0, ok = 0;
    const LoadReport r = run_load(flow, load_options_, *steps, *cards, [&](const StepReport& s) {
      errors += s.errors;
      busy += s.busy;
      ok += s.ok;
      const Json row = step_json(s);
      if (json_) {
        print(json_line(row));
        std::fflush(stdout);
        return;
      }
      std::vector<std::string> cells;
      for (const char* key :
           {"rps_target", "rps_done", "ok", "declined", "unknown", "card_busy", "busy", "errors"})
        cells.push_back(grouped(row[key].get<std::uint64_t>()));
      for (const char* key : {"p50_us", "p99_us", "store_p99_us"})
        cells.push_back(human_us(row[key].get<double>()));
      cells.push_back(s.top_wait);
      table.add(std::move(cells));
    });
    const FlowStats s = flow.stats();
    Json spikes = Json::array();
    for (const Spike& x : r.spikes)
      spikes.push_back({{"second", x.second},
                        {"rps", x.rps},
                        {"store_p99_us", x.p99_us},
                        {"median_us", x.median_us},
                        {"top_wait", x.top_wait}});
    if (json_) {
      print(json_line({{"summary", true},
                       {"version", version()},
                       {"mode", db.info().mode},
                       {"profile", load_options_.profile},
                       {"keys", keys_},
                       {"cards", *cards},
                       {"ok", ok},
                       {"busy", busy},
                       {"errors", errors},
                       {"row_inserts", s.row_inserts},
                       {"cancels_open", s.cancels_open},
                       {"spikes", std::move(spikes)}}));
    } else {
      print(table.render(Palette::for_fd(STDOUT_FILENO)));
      for (const Spike& x : r.spikes)
        print(fmt::format("spike at second {} ({} rps): p99 of the store {}, usually {}: {}\n",
                          x.second, x.rps, human_us(static_cast<double>(x.p99_us)),
                          human_us(static_cast<double>(x.median_us)), x.top_wait));
    }
    if (r.interrupted) return kExitInterrupted;
    return errors == 0 ? kExitOk : kExitNo;
  });
}

int FlowCommands::run_compare() {
  const auto a = read_file(a_), b = read_file(b_);
  if (!a) return report(a.error(), a_);
  if (!b) return report(b.error(), b_);
  const auto steps = compare_reports(*a, *b, worse_percent_);
  if (!steps) return report(steps.error(), a_ + " " + b_);
  bool worse = false;
  for (const ComparedStep& s : *steps) {
    worse = worse || s.worse;
    if (json_) {
      print(json_line({{"rps_target", s.rps},
                       {"store_p99_a_us", s.p99_a_us},
                       {"store_p99_b_us", s.p99_b_us},
                       {"change_percent", s.change_percent},
                       {"worse", s.worse}}));
    } else {
      print(fmt::format(
          "{:>6} rps  {:>9} -> {:>9}  {:+} %{}\n", s.rps, human_us(static_cast<double>(s.p99_a_us)),
          human_us(static_cast<double>(s.p99_b_us)), s.change_percent, s.worse ? "  WORSE" : ""));
    }
  }
  if (json_) print(json_line({{"summary", true}, {"worse", worse}}));
  return worse ? kExitNo : kExitOk;
}

int FlowCommands::run_stub() {
  auto profile = StubProfile::named(stub_);
  if (!profile) return report(profile.error(), "arguments");
  StubProfile p = profile_;
  p.fastest_ns = profile->fastest_ns;
  p.slowest_ns = profile->slowest_ns;
  const auto served = serve_stub({.port = static_cast<std::uint16_t>(port_),
                                  .until_eof = until_eof_,
                                  .profile = p,
                                  .listening = [](std::uint16_t port) {
                                    print(fmt::format("stub://127.0.0.1:{}\n", port));
                                    std::fflush(stdout);
                                  }});
  return served ? kExitOk : report(served.error(), "stub");
}

}  // namespace kessai::tools
