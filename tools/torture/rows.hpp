// SPDX-License-Identifier: Apache-2.0
// How keys and rows of a history look in the store. A row names its history and key, so that a row
// of something else is noticed.
#pragma once

#include <cstring>

#include "tools/torture/recorder.hpp"

namespace kessai::torture {

inline constexpr const char* kTree = "isolation";
inline constexpr const char* kMarkerTree = "isolation_markers";

inline void put_big_endian(std::string& out, std::uint32_t x) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(x >> shift);
}
[[nodiscard]] inline std::uint32_t get_big_endian(std::string_view in, std::size_t at) {
  std::uint32_t x = 0;
  for (std::size_t i = at; i < at + 4; ++i) x = x << 8 | static_cast<unsigned char>(in[i]);
  return x;
}

[[nodiscard]] inline std::string row_key(std::uint32_t history, Key key) {
  std::string out;
  put_big_endian(out, history);
  put_big_endian(out, key);
  return out;
}
[[nodiscard]] inline std::string marker_key(std::uint32_t history, std::uint32_t lane,
                                            std::uint32_t number) {
  std::string out;
  put_big_endian(out, history);
  put_big_endian(out, lane);
  put_big_endian(out, number);
  return out;
}

struct RowHeader {
  std::uint32_t history, key, count, padding;
};

/// `padding`: bytes that follow the elements.
inline void encode_row(std::uint32_t history, Key key, std::span<const Element> elements,
                       std::uint32_t padding, std::string& out) {
  const RowHeader h{history, key, static_cast<std::uint32_t>(elements.size()), padding};
  out.assign(reinterpret_cast<const char*>(&h), sizeof h);
  out.append(reinterpret_cast<const char*>(elements.data()), elements.size_bytes());
  out.append(padding, static_cast<char>(key));
}

/// False: not a row of this history and key. Appends the elements to `out`.
[[nodiscard]] inline bool decode_row(std::uint32_t history, Key key, std::string_view row,
                                     std::vector<Element>& out) {
  RowHeader h;
  if (row.size() < sizeof h) return false;
  std::memcpy(&h, row.data(), sizeof h);
  const std::size_t bytes = std::size_t{h.count} * sizeof(Element);
  if (h.history != history || h.key != key || h.count == 0 ||
      row.size() != sizeof h + bytes + h.padding)
    return false;
  for (const char c : row.substr(sizeof h + bytes))
    if (c != static_cast<char>(key)) return false;
  const std::size_t at = out.size();
  out.resize(at + h.count);
  std::memcpy(out.data() + at, row.data() + sizeof h, bytes);
  return true;
}

}  // namespace kessai::torture
