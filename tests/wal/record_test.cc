// SPDX-License-Identifier: Apache-2.0
// Records and blocks as bytes: what is written decodes, and no bytes do anything worse than be
// refused.
#include "wal/record.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/wal/log_helper.hpp"
#include "wal/format.hpp"

namespace kessai::wal::test {
namespace {

struct Owned {
  TreeId tree{};
  OpKind kind{};
  std::string key, value;
  friend bool operator==(const Owned&, const Owned&) = default;
};

std::vector<Owned> decode(std::string_view stream) {
  std::vector<Owned> ops;
  auto r = decode_ops(stream, [&](const Op& op) {
    ops.push_back({op.tree, op.kind, std::string(op.key), std::string(op.value)});
    return true;
  });
  EXPECT_TRUE(r);
  return ops;
}

// Goal: operations of all sizes around the varint steps survive encoding.
TEST(WalRecord, OperationsRoundTrip) {
  std::vector<Owned> ops;
  std::string stream;
  for (std::size_t n : {0u, 1u, 127u, 128u, 16383u, 16384u, 70000u}) {
    for (auto kind : {OpKind::put, OpKind::remove}) {
      Owned o{TreeId{static_cast<std::uint32_t>(n * 60000)}, kind, std::string(n, 'k'),
              kind == OpKind::put ? std::string(n / 2, 'v') : ""};
      encode_op({o.tree, o.kind, o.key, o.value}, stream);
      ops.push_back(o);
    }
  }
  encode_op({TreeId{UINT32_MAX}, OpKind::put, "k", "v"}, stream);
  ops.push_back({TreeId{UINT32_MAX}, OpKind::put, "k", "v"});
  EXPECT_EQ(decode(stream), ops);
  EXPECT_TRUE(decode("").empty());
}

// Goal: a stream cut anywhere is refused unless the cut falls between operations.
TEST(WalRecord, ACutStreamIsRefused) {
  std::string stream;
  encode_op({TreeId{300}, OpKind::put, "key", "value"}, stream);
  const std::size_t first = stream.size();
  encode_op({TreeId{1}, OpKind::remove, "other", ""}, stream);
  for (std::size_t cut = 0; cut < stream.size(); ++cut) {
    const auto r =
        decode_ops(std::string_view(stream).substr(0, cut), [](const Op&) { return true; });
    EXPECT_EQ(r.has_value(), cut == 0 || cut == first) << cut;
  }
}

// Goal: random bytes never crash a decoder (the fuzzers go further).
TEST(WalRecord, RandomBytesAreOnlyRefused) {
  io::SeededRandom random(seed_from_environment(31));
  std::vector<std::byte> bytes(8192);
  for (int i = 0; i < 3000; ++i) {
    random.fill(bytes);
    if (i % 2 == 0) std::memcpy(bytes.data(), "KFRM\x80\0\0\0", 8);
    if (i % 3 == 0) std::memset(bytes.data() + 4, 0, random.below(200));
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), random.below(300));
    (void)decode_ops(text, [](const Op&) { return true; });
    (void)decode_record(text);
    (void)decode_close(text);
    EXPECT_FALSE(decode_header(bytes));
    EXPECT_FALSE(decode_footer(bytes, Salt()));
    if (auto h = peek_frame(bytes)) {
      EXPECT_LE(frame_bytes(h->payload, 4096), kMaxFrameBytes);
    }
  }
}

// Goal: blocks round trip, each flipped bit is noticed, and a salt changes everything.
TEST(WalFormat, BlocksRoundTripAndNoticeEveryBit) {
  SegmentHeader h{.block = 4096,
                  .store = {1, 2},
                  .segment = 7,
                  .bytes = 65536,
                  .generation = 3,
                  .salt = {},
                  .generation_first = 9000,
                  .generation_segment = 6,
                  .previous_generation = 2,
                  .previous_end = 8000,
                  .first = 9100,
                  .previous_segment = 6,
                  .chain = 77};
  std::vector<std::byte> block(4096);
  encode_header(h, block);
  auto back = decode_header(block);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->first, 9100u);
  EXPECT_EQ(back->chain, 77u);
  EXPECT_EQ(back->previous_segment, 6u);
  const Salt salt(Salt::Bytes{std::byte{9}});
  std::vector<std::byte> footer(4096), frame(4096);
  encode_footer({7, 9500, 88, 8}, salt, footer);
  FrameHeader f{.generation = 3,
                .first = 9100,
                .payload = 20,
                .records = 1,
                .hint = 9000,
                .previous = 77,
                .segment = 7,
                .checksum = {}};
  std::memset(frame.data() + kFrameHeader, 'r', 20);
  seal_frame(f, salt, frame);
  ASSERT_TRUE(decode_footer(footer, salt));
  EXPECT_FALSE(decode_footer(footer, Salt()));
  const auto frame_good = [&](const Salt& s) {
    const auto p = peek_frame(frame);
    return p && frame_verifies(*p, s, frame);
  };
  ASSERT_TRUE(frame_good(salt));
  EXPECT_FALSE(frame_good(Salt()));
  for (std::size_t bit = 0; bit < 4096 * 8; ++bit) {
    const auto flip = [&](std::vector<std::byte>& b) { b[bit / 8] ^= std::byte{1} << (bit % 8); };
    flip(block), flip(footer), flip(frame);
    ASSERT_FALSE(decode_header(block)) << bit;
    ASSERT_FALSE(decode_footer(footer, salt)) << bit;
    ASSERT_FALSE(frame_good(salt)) << bit;
    flip(block), flip(footer), flip(frame);
  }
}

// Goal: a closing record says exactly which parts count, and impossible ones are refused.
TEST(WalRecord, ClosingRecordsRoundTrip) {
  CloseBuilder b;
  b.add_part(100, 150, std::string(42, 'a'));
  b.add_part(150, 200, std::string(42, 'b'));
  b.add_part(300, 330, std::string(22, 'c'));
  std::string record;
  b.finish(record);
  const auto view = decode_record(record);
  ASSERT_TRUE(view);
  const auto close = decode_close(view->body);
  ASSERT_TRUE(close);
  EXPECT_EQ(close->first, 100u);
  EXPECT_EQ(close->stream_bytes, 106u);
  EXPECT_EQ(close->ranges, (std::vector<PartRange>{{100, 200}, {300, 330}}));
  for (const auto& ranges :
       {std::vector<PartRange>{{200, 100}}, {{100, 200}, {150, 220}}, {{50, 60}}}) {
    Close bad = *close;
    bad.ranges = ranges;
    std::string body;
    encode_close(bad, body);
    EXPECT_FALSE(decode_close(body));
  }
}

}  // namespace
}  // namespace kessai::wal::test
