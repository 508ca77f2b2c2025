// SPDX-License-Identifier: Apache-2.0
// Invoice files for people who have none: days of an imaginary shop, with everything that makes
// real files hard: quoted fields, line feeds and foreign bytes in descriptions, missing customers,
// free items, three-decimal and negative prices, cancellations, adjustments, interleaved tills. The
// same seed gives the same bytes. The sums come from the generator, not from reading back.
#pragma once

#include <cstdint>
#include <string>

#include "kessai/error.hpp"
#include "kessai/payments/ledger.hpp"

namespace kessai::tools {

struct GenerateOptions {
  unsigned days = 1;
  unsigned invoices_a_day = 120;
  std::uint64_t seed = 1;
};

struct Generated {
  std::uint64_t files = 0, lines = 0;
  payments::Totals totals;  ///< what a store must say after replay
};

/// Writes `days` files DIR/YYYY-MM-DD.csv; existing files are never touched (`invalid_argument`).
[[nodiscard]] Result<Generated> generate_invoices(const std::string& directory,
                                                  const GenerateOptions& options);

}  // namespace kessai::tools
