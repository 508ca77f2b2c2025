// SPDX-License-Identifier: Apache-2.0
// kvpay reconcile: the statement from its file, the report for people and programs.
#pragma once

#include <string>

#include "kessai/payments/reconcile.hpp"
#include "tools/output.hpp"

namespace kessai::tools {

/// Reads a statement; errors name the file.
[[nodiscard]] Result<payments::Statement> read_statement(const std::string& path);

[[nodiscard]] Json reconciliation_json(const payments::Reconciliation& r);
[[nodiscard]] std::string reconciliation_text(const payments::Reconciliation& r,
                                              const Palette& palette);
[[nodiscard]] Json plan_json(const payments::ReadPlan& plan);

/// "1,234.500".
[[nodiscard]] std::string pounds(payments::Milli amount);

}  // namespace kessai::tools
