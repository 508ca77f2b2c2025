// SPDX-License-Identifier: Apache-2.0
// kvpay: payments from the command line.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "io/check.hpp"
#include "io/env.hpp"
#include "kessai/payments/ledger.hpp"
#include "kessai/payments/reconcile.hpp"
#include "tools/bytes.hpp"
#include "tools/cli.hpp"
#include "tools/exit_codes.hpp"
#include "tools/flow_commands.hpp"
#include "tools/generate.hpp"
#include "tools/interrupt.hpp"
#include "tools/progress.hpp"
#include "tools/reconcile.hpp"
#include "tools/replay.hpp"

namespace kessai::tools {
namespace {

using payments::Ledger;
using payments::Totals;

struct Common {
  bool json = false;
  std::string store;
  unsigned memory_mib = 256;
};

void print(std::string_view text) { stdout_sink()(text); }

int report(const Common& c, const Error& error, bool opening = false) {
  stderr_sink()(render_error(error, c.json, c.store));
  return exit_code(error, opening);
}

enum class Access : std::uint8_t { read, write, create };

// Opens the store and hands it to `use`, which answers the exit code; errors become messages.
template <class Use>
int with_store(const Common& c, Access access, Use use) {
  Options options;
  options.create = access == Access::create;
  options.read_only = access == Access::read;
  options.memory = std::uint64_t{c.memory_mib} << 20;
  ProgressBar bar(!c.json);
  options.progress = [&](const Progress& p) { bar.update(p.phase, p.done, p.total); };
  auto db = Database::open(c.store, options);
  bar.finish();
  if (!db) return report(c, db.error(), true);
  const Result<int> code = use(*db);
  const auto closed = db->close();
  if (!code) return report(c, code.error());
  return closed ? *code : report(c, closed.error());
}

void print_replay(const Common& c, const ReplayResult& r, bool latency) {
  const std::uint64_t requests = r.accepted + r.already_done + r.rejected.size();
  if (c.json) {
    const auto whole = [](double us) { return static_cast<std::uint64_t>(us + 0.5); };
    Json rejected = Json::array();
    for (const Rejected& x : r.rejected) {
      rejected.push_back({{"file", printable(x.file)},
                          {"line", x.line},
                          {"id", format_bytes(x.id)},
                          {"reason", payments::refusal_name(x.reason)}});
    }
    print(json_line({{"lines", r.lines},
                     {"requests", requests},
                     {"accepted", r.accepted},
                     {"already_done", r.already_done},
                     {"refused", r.rejected.size()},
                     {"rejected", std::move(rejected)},
                     {"commits", r.accepted},
                     {"sum_milli", r.sum},
                     {"seconds", r.seconds},
                     {"p50_us", whole(r.commit_latency.quantile_us(0.5))},
                     {"p99_us", whole(r.commit_latency.quantile_us(0.99))},
                     {"p999_us", whole(r.commit_latency.quantile_us(0.999))},
                     {"max_us", whole(r.commit_latency.max_us())}}));
    return;
  }
  const Palette palette = Palette::for_fd(STDOUT_FILENO);
  const double rate = r.seconds > 0 ? static_cast<double>(r.accepted) / r.seconds : 0;
  print(render_fields(
      {{"lines read", grouped(r.lines)},
       {"requests", grouped(requests)},
       {"accepted", fmt::format("{}, each in its own durable commit", grouped(r.accepted))},
       {"already done", grouped(r.already_done)},
       {"refused", grouped(r.rejected.size())},
       {"sum", pounds(r.sum)},
       {"time", fmt::format("{:.2f} s, {} commits/s", r.seconds,
                            grouped(static_cast<std::uint64_t>(rate)))}}));
  constexpr std::size_t kShown = 20;
  Table table({{"file"}, {"line", Table::Align::right}, {"id"}, {"refused because"}});
  for (std::size_t i = 0; i < std::min(kShown, r.rejected.size()); ++i) {
    const Rejected& x = r.rejected[i];
    table.add({printable(x.file), std::to_string(x.line), format_word(x.id),
               std::string(payments::refusal_name(x.reason))});
  }
  if (!table.empty()) print("\n" + table.render(palette));
  if (r.rejected.size() > kShown)
    print(fmt::format("... and {} more; --json lists all\n", r.rejected.size() - kShown));
  if (latency && r.accepted != 0)
    print("\nfrom commit to durable:\n" + r.commit_latency.render(palette));
}

int run_replay(const Common& c, const std::vector<std::string>& paths, const ReplayOptions& options,
               bool latency) {
  const auto files = collect_invoice_files(paths);
  if (!files) return report(c, files.error());
  return with_store(c, Access::create, [&](Database& db) -> Result<int> {
    KESSAI_ASSIGN(result, replay(db, *files, options));
    print_replay(c, result, latency);
    return kExitOk;
  });
}

Json totals_json(const Totals& t) {
  return {{"requests", t.requests},
          {"payments", t.payments},
          {"cancellations", t.cancellations},
          {"adjustments", t.adjustments},
          {"sum_payments_milli", t.sum_payments},
          {"sum_cancellations_milli", t.sum_cancellations},
          {"sum_adjustments_milli", t.sum_adjustments},
          {"total_milli", t.total}};
}

void print_totals(const Totals& t) {
  using enum Table::Align;
  Table table({{""}, {"count", right}, {"sum", right}});
  table.add({"payments", grouped(t.payments), pounds(t.sum_payments)});
  table.add({"cancellations", grouped(t.cancellations), pounds(t.sum_cancellations)});
  table.add({"adjustments", grouped(t.adjustments), pounds(t.sum_adjustments)});
  table.add({"total", grouped(t.requests), pounds(t.total)});
  print(table.render(Palette::for_fd(STDOUT_FILENO)));
}

Error bad_day() { return {Code::invalid_argument, "--day takes a date like 2010-12-01"}; }

int run_totals(const Common& c, const std::string& day_text) {
  std::optional<payments::Day> day;
  if (!day_text.empty()) {
    day = payments::parse_day(day_text);
    if (!day) return report(c, bad_day());
  }
  return with_store(c, Access::read, [&](Database& db) -> Result<int> {
    auto ledger = Ledger::open(db, false);
    Totals totals;
    if (ledger) {
      ProgressBar bar(!c.json);
      KESSAI_ASSIGN(sums, ledger->totals(day, [&](std::uint64_t rows) {
        bar.update("summing", 0, 0, grouped(rows) + " rows");
        return !interrupted();
      }));
      totals = sums;
    } else if (ledger.error() != Code::tree_not_found) {
      return std::unexpected(ledger.error());
    } else if (!c.json) {
      stderr_sink()("this store holds no payments\n");
    }
    c.json ? print(json_line(totals_json(totals))) : print_totals(totals);
    return kExitOk;
  });
}

// One piece of a payment for `show`; `time` nothing = the piece is missing.
struct Piece {
  const char* name;
  std::optional<payments::Micros> time;
  Json fields;
  std::pair<payments::Micros, std::size_t> order{};
};

// A cancel that the result asked for and that is not there is a missing piece.
bool cancel_missing(const payments::Pieces& p) {
  return p.result && p.result->status == payments::Status::failed_cancel_requested && !p.cancel;
}

void add_cancel(const payments::Pieces& p, std::vector<Piece>& out) {
  if (cancel_missing(p)) out.push_back({"cancel", std::nullopt, {}, {}});
  if (p.cancel) {
    const bool review = p.cancel->action == payments::CancelAction::review;
    out.push_back({"cancel",
                   p.cancel->create_date,
                   {{"action", review ? "review" : "cancel"},
                    {"reason", printable(p.cancel->reason)},
                    {"amount_milli", p.cancel->amount},
                    {"transaction_id", format_bytes(p.cancel->transaction)}},
                   {}});
  }
  for (const payments::CancelAttemptRow& a : p.attempts) {
    out.push_back({"attempt",
                   a.create_date,
                   {{"attempt", a.attempt},
                    {"outcome", payments::cancel_outcome_name(a.outcome)},
                    {"detail", printable(a.detail)}},
                   {}});
  }
  if (p.dead_letter) {
    out.push_back(
        {"dead_letter",
         p.dead_letter->create_date,
         {{"attempts", p.dead_letter->attempts}, {"reason", printable(p.dead_letter->reason)}},
         {}});
  }
}

std::vector<Piece> pieces_of(const payments::Pieces& p, std::string_view id) {
  std::vector<Piece> out;
  Json request, transaction, result;
  if (p.request) {
    request = {
        {"kind", payments::kind_name(p.request->kind)},
        {"amount_milli", p.request->amount},
        {"account", format_bytes(p.request->account)},
        {"lines", p.request->lines},
        {"payment_date", payments::format_day(p.request->payment_date)},
        {"fingerprint", format_bytes({reinterpret_cast<const char*>(p.request->fingerprint.data()),
                                      p.request->fingerprint.size()})}};
  }
  if (p.transaction) {
    transaction = {{"transaction_id", format_bytes(payments::transaction_id_of(id))},
                   {"amount_milli", p.transaction->amount}};
  }
  if (p.result) {
    result = {{"status", payments::status_name(p.result->status)},
              {"amount_milli", p.result->amount},
              {"transaction_id", format_bytes(p.result->transaction)},
              {"payment_date", payments::format_day(p.result->payment_date)}};
  }
  out.push_back({"request",
                 p.request ? std::optional(p.request->request_date) : std::nullopt,
                 std::move(request),
                 {}});
  out.push_back({"transaction",
                 p.transaction ? std::optional(p.transaction->transaction_date) : std::nullopt,
                 std::move(transaction),
                 {}});
  out.push_back({"result",
                 p.result ? std::optional(p.result->create_date) : std::nullopt,
                 std::move(result),
                 {}});
  add_cancel(p, out);
  // In time order; a missing piece stays behind the one before it in the flow.
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].order = {out[i].time.value_or(i == 0 ? 0 : out[i - 1].order.first), i};
  }
  std::sort(out.begin(), out.end(),
            [](const Piece& a, const Piece& b) { return a.order < b.order; });
  return out;
}

void print_piece(const Common& c, const Piece& piece, std::string_view id) {
  const std::string time = piece.time ? payments::format_time(*piece.time) : "";
  if (c.json) {
    Json row = {{"piece", piece.name}, {"missing", !piece.time}};
    row["time"] = piece.time ? Json(time) : Json();
    row["request_id"] = payments::format_request_id(id);
    row["original_request_id"] = format_bytes(id);
    for (const auto& [key, value] : piece.fields.items()) row[key] = value;
    print(json_line(row));
    return;
  }
  if (!piece.time) {
    print(fmt::format("{:<12} MISSING\n", piece.name));
    return;
  }
  std::string line = fmt::format("{:<12} {}", piece.name, time);
  for (const auto& [key, value] : piece.fields.items()) {
    const bool money = key == "amount_milli";
    line += fmt::format("  {} {}", money ? "amount" : key,
                        money               ? pounds(value.get<payments::Milli>())
                        : value.is_string() ? value.get<std::string>()
                                            : value.dump());
  }
  print(line + '\n');
}

int run_show(const Common& c, const std::string& id_text) {
  const auto id = parse_bytes(id_text);
  if (!id) return report(c, id.error());
  if (id->empty() || id->size() > payments::kMaxRequestIdBytes) {
    return report(c, Error(Code::invalid_argument, "a request id has 1 to 255 bytes"));
  }
  return with_store(c, Access::read, [&](Database& db) -> Result<int> {
    auto ledger = Ledger::open(db, false);
    if (!ledger && ledger.error() != Code::tree_not_found) return std::unexpected(ledger.error());
    payments::Pieces pieces;
    if (ledger) {
      KESSAI_ASSIGN(found, ledger->find(*id));
      pieces = std::move(found);
    }
    const bool any = pieces.request || pieces.transaction || pieces.result;
    const bool all =
        pieces.request && pieces.transaction && pieces.result && !cancel_missing(pieces);
    if (!any) return fail(Code::not_found, "no such request: " + format_word(*id));
    if (!c.json)
      print(fmt::format("REQUEST_ID {}  ORIGINAL_REQUEST_ID {}\n", payments::format_request_id(*id),
                        format_word(*id)));
    for (const Piece& piece : pieces_of(pieces, *id)) print_piece(c, piece, *id);
    if (c.json) print(json_line({{"summary", true}, {"complete", all}}));
    return all ? kExitOk : kExitNo;
  });
}

int run_balance(const Common& c, const std::string& account_text, bool explain) {
  const auto account = account_text.empty() ? Result<std::string>("") : parse_bytes(account_text);
  if (!account) return report(c, account.error());
  return with_store(c, Access::read, [&](Database& db) -> Result<int> {
    auto ledger = Ledger::open(db, false);
    if (!ledger && ledger.error() != Code::tree_not_found) return std::unexpected(ledger.error());
    payments::Balance sums;
    payments::ReadPlan plan;
    if (ledger) {
      KESSAI_ASSIGN(found, ledger->balance(*account, &plan));
      sums = found;
    }
    if (c.json) {
      Json row = {{"account", format_bytes(*account)},
                  {"balance_milli", sums.ledger},
                  {"available_milli", sums.available},
                  {"rows", sums.rows}};
      if (explain) row["explain"] = plan_json(plan);
      print(json_line(row));
    } else {
      print(render_fields({{"account", format_word(*account)},
                           {"balance", pounds(sums.ledger)},
                           {"available", pounds(sums.available)},
                           {"events", grouped(sums.rows)}}));
      if (explain) print(plan.text() + "\n");
    }
    return sums.rows != 0 ? kExitOk : kExitNo;
  });
}

struct ReconcileOptions {
  std::string day, file;
  bool report_only = false, explain = false;
};

int run_reconcile(const Common& c, const ReconcileOptions& options) {
  const auto day = payments::parse_day(options.day);
  if (!day) return report(c, bad_day());
  const auto statement = read_statement(options.file);
  if (!statement) return report(c, statement.error());
  const Access access = options.report_only ? Access::read : Access::write;
  return with_store(c, access, [&](Database& db) -> Result<int> {
    auto tables = payments::PaymentTables::open(db, false);
    if (!tables && tables.error() == Code::tree_not_found)
      return fail(Code::tree_not_found, "this store holds no payments");
    if (!tables) return std::unexpected(tables.error());
    ProgressBar bar(!c.json);
    KESSAI_ASSIGN(r, payments::reconcile(db, *tables, *day, *statement, [&](std::uint64_t rows) {
                    bar.update("reconciling", 0, 0, grouped(rows) + " rows");
                    return !interrupted();
                  }));
    bar.finish();
    if (!options.report_only && !r.differences.empty()) {
      KESSAI_ASSIGN(writable, payments::PaymentTables::open(db, true));
      const auto now = static_cast<payments::Micros>(io::system_clock().unix_micros());
      KESSAI_TRY(payments::send_differences(db, writable, *day, r, now));
    }
    if (c.json) {
      Json row = reconciliation_json(r);
      if (options.explain) row["explain"] = plan_json(r.plan);
      print(json_line(row));
    } else {
      print(reconciliation_text(r, Palette::for_fd(STDOUT_FILENO)));
      if (options.explain) print(r.plan.text() + "\n");
    }
    return r.ok ? kExitOk : kExitNo;
  });
}

int run_generate(const Common& c, const std::string& directory, const GenerateOptions& options) {
  const auto made = generate_invoices(directory, options);
  if (!made) return report(c, made.error());
  if (c.json) {
    Json row = {{"files", made->files}, {"lines", made->lines}, {"seed", options.seed}};
    row.update(totals_json(made->totals));
    print(json_line(row));
  } else {
    print(fmt::format("{} files with {} lines in {} (seed {}); a store must say after replay:\n",
                      made->files, grouped(made->lines), printable(directory), options.seed));
    print_totals(made->totals);
  }
  return kExitOk;
}

}  // namespace
}  // namespace kessai::tools

int main(int argc, char** argv) {
  using namespace kessai::tools;
  install_interrupt_handler();
  Common c;
  ReplayOptions replay_options;
  GenerateOptions generate_options;
  std::vector<std::string> paths;
  std::string day, id, directory;
  std::string account;
  ReconcileOptions reconcile_options;
  bool latency = false, explain = false;

  CLI::App app("kvpay: payments through a kessai store.");
  app.set_version_flag("--version", std::string(kessai::version()));
  app.require_subcommand(1);
  const auto add_command = [&](const char* name, const char* help, bool has_store) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->add_flag("--json", c.json, "one JSON object per line");
    if (has_store) {
      sub->add_option("STORE", c.store, "directory of the store")->required();
      sub->add_option("--memory", c.memory_mib, "page cache in MiB")->capture_default_str();
    }
    return sub;
  };
  app.add_flag("--json", c.json, "one JSON object per line");
  auto* replay = add_command(
      "replay", "pay the invoices of files, each exactly once; makes the store when missing", true);
  replay->add_option("FILES", paths, "invoice files, or folders of them")->required();
  replay->add_option("--threads", replay_options.threads, "threads that pay")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  replay->add_flag("--latency", latency, "show how long commits took");
  replay
      ->add_option("--milestone", replay_options.milestone,
                   "print a JSON line once that many percent are durable")
      ->check(CLI::Range(1, 100));
  replay->add_flag("--hold", replay_options.hold,
                   "freeze (SIGSTOP) at the milestone, for demos and tests that kill");
  auto* totals = add_command("totals", "counts and sums of what was paid", true);
  totals->add_option("--day", day, "only this PAYMENT_DATE, like 2010-12-01");
  auto* show = add_command("show", "every piece of one payment, in time order", true);
  show->add_option("ORIGINAL_REQUEST_ID", id, "the id as the invoice has it")->required();
  auto* balance = add_command("balance", "what an account comes to, summed from its events", true);
  balance->add_option("ACCOUNT", account, "CustomerID without .0; \"\" for the empty one")
      ->required();
  balance->add_flag("--explain", explain, "show what was read for it");
  auto* reconcile = add_command(
      "reconcile",
      "compare a day with the other side's statement; differences go to the cancel topic", true);
  reconcile->add_option("--day", reconcile_options.day, "PAYMENT_DATE, like 2010-12-01")
      ->required();
  reconcile
      ->add_option("--file", reconcile_options.file, "request_id,amount_milli,status and #total")
      ->required();
  reconcile->add_flag("--report-only", reconcile_options.report_only,
                      "write nothing: the store is opened for reading");
  reconcile->add_flag("--explain", reconcile_options.explain, "show what was read for it");
  auto* generate = add_command("generate", "write invoice files of an imaginary shop", false);
  generate->add_option("DIR", directory, "folder for the files")->required();
  generate->add_option("--days", generate_options.days, "how many")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  generate->add_option("--invoices", generate_options.invoices_a_day, "per day")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  generate->add_option("--seed", generate_options.seed, "same seed, same bytes")
      ->capture_default_str();
  FlowCommands flow(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return usage_exit(app, e, argc, argv);
  }
  replay_options.progress = !c.json;
  replay_options.out = stdout_sink();
  int code = flow.run(c.json).value_or(kExitOk);
  if (*replay) code = run_replay(c, paths, replay_options, latency);
  if (*totals) code = run_totals(c, day);
  if (*show) code = run_show(c, id);
  if (*balance) code = run_balance(c, account, explain);
  if (*reconcile) code = run_reconcile(c, reconcile_options);
  if (*generate) code = run_generate(c, directory, generate_options);
  return std::fflush(stdout) != 0 && code == kExitOk ? static_cast<int>(kExitIo) : code;
}
