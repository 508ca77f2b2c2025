// SPDX-License-Identifier: Apache-2.0
/// @file
/// Everything: include this, link kessai::kessai.
#pragma once

#include "kessai/database.hpp"
#include "kessai/error.hpp"
#include "kessai/executor.hpp"
#include "kessai/journal.hpp"
#include "kessai/options.hpp"
#include "kessai/run_transaction.hpp"
#include "kessai/stats.hpp"
