// SPDX-License-Identifier: Apache-2.0
#include "tools/output.hpp"

#include <gtest/gtest.h>

#include "tools/exit_codes.hpp"
#include "tools/progress.hpp"

namespace kessai::tools {
namespace {

TEST(Output, AlignsTables) {
  Table table({{"tree"}, {"records", Table::Align::right}});
  table.add({"main", "7"});
  table.add({"\xe6\xb1\xba\xe6\xb8\x88", "1,234"});
  EXPECT_EQ(table.render(),
            "tree  records\n"
            "main        7\n"
            "\xe6\xb1\xba\xe6\xb8\x88    1,234\n");
}

TEST(Output, GroupsDigitsAndScalesBytes) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(18446744073709551615u), "18,446,744,073,709,551,615");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(16u << 10), "16.0 KiB");
  EXPECT_EQ(human_bytes(std::uint64_t{3} << 30), "3.0 GiB");
}

// Goal: one object on one line with the three keys, and no raw byte of a key in either form.
TEST(Output, RendersErrorsForPeopleAndPrograms) {
  ErrorDetail detail;
  detail.what = "checksum \x1b[31m differs";
  detail.path = "store/data";
  detail.offset = 8192;
  detail.page = 3;
  detail.key = std::string("\0k", 2);
  const Error error(Code::damaged, detail);
  EXPECT_EQ(render_error(error, true),
            "{\"error\":\"damaged\",\"what\":\"checksum \\\\x1b[31m differs\","
            "\"where\":\"store/data:8192 page 3 key 0x006b\"}\n");
  EXPECT_EQ(render_error(error, false),
            "error: damaged: checksum \\x1b[31m differs [store/data:8192 page 3 key 0x006b]\n");
  EXPECT_EQ(render_error(Error(Code::locked), false, "shop"), "error: locked [shop]\n");
}

TEST(Output, MapsErrorsToExitCodes) {
  EXPECT_EQ(exit_code(Code::not_found), 1);
  EXPECT_EQ(exit_code(Code::key_exists), 1);
  EXPECT_EQ(exit_code(Code::invalid_argument), 2);
  EXPECT_EQ(exit_code(Code::tree_not_found), 2);
  EXPECT_EQ(exit_code(Code::read_only), 2);
  EXPECT_EQ(exit_code(Code::locked), 3);
  EXPECT_EQ(exit_code(Code::incomplete_store), 3);
  EXPECT_EQ(exit_code(Code::permission_denied, true), 3);
  EXPECT_EQ(exit_code(Code::permission_denied), 5);
  EXPECT_EQ(exit_code(Code::log_damaged), 4);
  EXPECT_EQ(exit_code(Code::io_error), 5);
  EXPECT_EQ(exit_code(Code::disk_full), 6);
  EXPECT_EQ(exit_code(Code::interrupted), 130);
}

TEST(Progress, FitsItsColumns) {
  EXPECT_EQ(progress_line("recover", 0.5, "12", 40), "recover [=========>         ]  50 %  12");
  EXPECT_EQ(progress_line("recover", 2, "", 200).substr(0, 50),
            "recover [" + std::string(40, '=') + "]");
  EXPECT_EQ(progress_line("recover", 0, "", 12), "recover   0 %");
  for (unsigned columns = 30; columns < 200; ++columns) {
    EXPECT_LT(progress_line("load", 0.3, "1,000 rows", columns).size(), columns);
  }
}

}  // namespace
}  // namespace kessai::tools
