// SPDX-License-Identifier: Apache-2.0
#include "tools/generate.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "io/check.hpp"
#include "io/env.hpp"

namespace kessai::tools {
namespace {

using payments::Milli;

constexpr payments::Day kFirstDay = 14'944;  // 2010-12-01
constexpr std::uint64_t kFirstInvoice = 600'000;

constexpr std::string_view kColours[] = {"RED",     "WHITE", "PINK",  "IVORY",
                                         "VINTAGE", "RETRO", "GREEN", "SILVER"};
constexpr std::string_view kThings[] = {
    "LANTERN",    "TEA TOWEL", "CAKE STAND",  "HOT WATER BOTTLE", "PARTY BUNTING",
    "WALL CLOCK", "LUNCH BOX", "CHALK BOARD", "PAPER CHAIN KIT",  "BIRD CAGE"};
constexpr std::string_view kCountries[] = {"United Kingdom", "United Kingdom", "United Kingdom",
                                           "United Kingdom", "Germany",        "France",
                                           "EIRE",           "Channel Islands"};

struct Product {
  std::string code, description;  // the description as a CSV field
  Milli price = 0;
};

std::vector<Product> make_products(io::SeededRandom& random) {
  std::vector<Product> out;
  for (unsigned i = 0; i < 300; ++i) {
    const std::string_view colour = kColours[random.below(std::size(kColours))];
    const std::string_view thing = kThings[random.below(std::size(kThings))];
    std::string text = fmt::format("{} {}", colour, thing);
    switch (random.below(12)) {
      case 0:
        text = fmt::format("\"{}, {}\"", thing, colour);
        break;  // a comma
      case 1:
        text = fmt::format("\"RECORD FRAME 7\"\" {}\"", colour);
        break;  // a quote
      case 2:
        text = fmt::format("\"{}\nSET OF {}\"", text, 2 + random.below(5));
        break;  // a line feed
      case 3:
        text = fmt::format("GIFT VOUCHER \xa3{}.00", 10 * (1 + random.below(5)));
        break;  // Latin-1
      case 4:
        text.clear();
        break;
      default:
        break;
    }
    Milli price = static_cast<Milli>(20 + random.below(1500)) * 10;
    if (random.below(20) == 0) price += 1 + static_cast<Milli>(random.below(9));  // three decimals
    if (random.below(40) == 0) price = 0;
    out.push_back(
        {fmt::format("{}{}", 20000 + random.below(70000), random.below(4) == 0 ? "B" : ""), text,
         price});
  }
  return out;
}

// As people write prices: no more decimals than needed, but one at least.
std::string price_text(Milli price) {
  std::string text = payments::format_milli(price);
  while (text.ends_with('0') && text[text.size() - 2] != '.') text.pop_back();
  return text;
}

class Day {
 public:
  Day(io::SeededRandom& random, const std::vector<Product>& products, payments::Day day,
      Generated& sums)
      : random_(random), products_(products), day_(day), sums_(sums) {}

  // One invoice of `kind`; its lines go to one of two tills that print at once.
  void add_invoice(payments::Kind kind, std::uint64_t number, unsigned minute) {
    const std::string id = fmt::format("{}{}",
                                       kind == payments::Kind::cancellation ? "C"
                                       : kind == payments::Kind::adjustment ? "A"
                                                                            : "",
                                       number);
    const std::string customer =
        random_.below(5) == 0 ? "" : fmt::format("{}.0", 12000 + random_.below(2500));
    const std::string_view country = kCountries[random_.below(std::size(kCountries))];
    const std::string time =
        fmt::format("{} {:02}:{:02}:00", payments::format_day(day_), 8 + minute / 60, minute % 60);
    const auto lines = kind == payments::Kind::adjustment
                           ? 1
                           : 1 + random_.below(kind == payments::Kind::payment ? 30 : 4);
    Milli amount = 0;
    auto& till = tills_[random_.below(2)];
    for (std::uint64_t i = 0; i < lines; ++i) {
      const Product& product = products_[random_.below(products_.size())];
      std::int64_t quantity =
          1 + static_cast<std::int64_t>(random_.below(random_.below(10) == 0 ? 200 : 12));
      Milli price = product.price;
      std::string code = product.code, description = product.description;
      if (kind == payments::Kind::cancellation) quantity = -quantity;
      if (kind == payments::Kind::adjustment) {
        quantity = 1;
        price = -static_cast<Milli>(random_.below(20'000'000));
        code.assign(1, 'B');
        description = "Adjust bad debt";
      }
      amount += quantity * price;
      till.push_back(fmt::format("{},{},{},{},{},{},{},{}\n", id, code, description, quantity, time,
                                 price_text(price), customer, country));
    }
    count(kind, amount);
  }

  // The lines of both tills, mixed.
  [[nodiscard]] std::string text() {
    std::string out =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
    std::size_t at[2] = {0, 0};
    while (at[0] < tills_[0].size() || at[1] < tills_[1].size()) {
      const std::size_t till = at[0] == tills_[0].size()   ? 1
                               : at[1] == tills_[1].size() ? 0
                                                           : random_.below(2);
      out += tills_[till][at[till]++];
      ++sums_.lines;
    }
    return out;
  }

 private:
  void count(payments::Kind kind, Milli amount) {
    payments::Totals& t = sums_.totals;
    ++t.requests;
    t.total += amount;
    ++(kind == payments::Kind::payment        ? t.payments
       : kind == payments::Kind::cancellation ? t.cancellations
                                              : t.adjustments);
    (kind == payments::Kind::payment        ? t.sum_payments
     : kind == payments::Kind::cancellation ? t.sum_cancellations
                                            : t.sum_adjustments) += amount;
  }

  io::SeededRandom& random_;
  const std::vector<Product>& products_;
  payments::Day day_;
  Generated& sums_;
  std::vector<std::string> tills_[2];
};

Result<void> write_new_file(const std::string& path, const std::string& text) {
  const auto failed = [&](Code code) {
    ErrorDetail detail;
    detail.what = std::strerror(errno);
    detail.path = path;
    return fail(code, std::move(detail), errno);
  };
  std::FILE* file = std::fopen(path.c_str(), "wbx");
  if (file == nullptr) return failed(Code::invalid_argument);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !written) return failed(Code::io_error);
  return {};
}

}  // namespace

Result<Generated> generate_invoices(const std::string& directory, const GenerateOptions& options) {
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  if (code) {
    ErrorDetail detail;
    detail.what = code.message();
    detail.path = directory;
    return fail(Code::invalid_argument, std::move(detail), code.value());
  }
  io::SeededRandom random(options.seed);
  const std::vector<Product> products = make_products(random);
  Generated out;
  std::uint64_t number = kFirstInvoice;
  for (unsigned d = 0; d < options.days; ++d) {
    const auto date = kFirstDay + static_cast<payments::Day>(d);
    Day day(random, products, date, out);
    for (unsigned i = 0; i < options.invoices_a_day; ++i) {
      const std::uint64_t dice = random.below(100);
      const auto kind = dice < 16    ? payments::Kind::cancellation
                        : dice == 16 ? payments::Kind::adjustment
                                     : payments::Kind::payment;
      number += 1 + random.below(3);
      day.add_invoice(kind, number, i * 600 / std::max(1u, options.invoices_a_day));
    }
    KESSAI_TRY(write_new_file(fmt::format("{}/{}.csv", directory, payments::format_day(date)),
                              day.text()));
    ++out.files;
  }
  return out;
}

}  // namespace kessai::tools
