// SPDX-License-Identifier: Apache-2.0
/// @file
/// The encoding of keys and rows: order-preserving, so that comparing bytes (memcmp, shorter first)
/// compares the columns one after another.
///
///   integers  big-endian, the sign bit flipped for signed types
///   enums     one byte
///   arrays    their bytes
///   texts     any bytes; 00 becomes 00 FF, and 00 00 ends the text, so that a text sorts before
///             its longer continuations; the last text of a key stands raw, without an end
///
/// Decoding believes nothing: past the end everything reads as zero and good() turns false.
/// Threads: values; one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace kessai::payments {

class Encoder {
 public:
  template <class T>
  void put(const T& value) {
    if constexpr (std::is_enum_v<T>) {
      static_assert(sizeof(T) == 1);
      bytes_ += static_cast<char>(value);
    } else if constexpr (std::is_integral_v<T>) {
      integer(value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      text(value);
    } else {
      bytes_.append(reinterpret_cast<const char*>(value.data()), value.size());
    }
  }
  void text(std::string_view s) {
    for (const char c : s) {
      bytes_ += c;
      if (c == '\0') bytes_ += '\xff';
    }
    bytes_.append(2, '\0');
  }
  void raw(std::string_view s) { bytes_ += s; }
  [[nodiscard]] std::string take() { return std::move(bytes_); }

 private:
  template <class T>
  void integer(T value) {
    using U = std::make_unsigned_t<T>;
    auto u = static_cast<U>(value);
    if constexpr (std::is_signed_v<T>) u = static_cast<U>(u ^ (U{1} << (8 * sizeof(T) - 1)));
    for (std::size_t i = sizeof(T); i-- > 0;) bytes_ += static_cast<char>(u >> (8 * i) & 0xff);
  }

  std::string bytes_;
};

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) noexcept : rest_(bytes) {}

  template <class T>
  void get(T& out) {
    if constexpr (std::is_enum_v<T>) {
      const auto n = static_cast<std::uint8_t>(raw(1).front());
      good_ = good_ && n <= static_cast<std::uint8_t>(last_of(T{}));
      out = static_cast<T>(n);
    } else if constexpr (std::is_integral_v<T>) {
      out = integer<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      out = text();
    } else {
      const std::string_view s = raw(out.size());
      for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<typename T::value_type>(static_cast<unsigned char>(s[i]));
    }
  }
  /// `n` bytes; zeros when there are fewer.
  [[nodiscard]] std::string_view raw(std::size_t n) noexcept {
    static constexpr std::array<char, 64> kZeros{};
    if (rest_.size() < n) {
      good_ = false;
      rest_ = {};
      return std::string_view(kZeros.data(), n <= kZeros.size() ? n : kZeros.size());
    }
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  [[nodiscard]] std::string_view rest() noexcept { return raw(rest_.size()); }
  [[nodiscard]] std::string text() {
    std::string out;
    for (;;) {
      const std::size_t zero = rest_.find('\0');
      if (zero == rest_.npos || zero + 1 == rest_.size()) {
        good_ = false;
        return {};
      }
      out.append(rest_.substr(0, zero));
      const char after = rest_[zero + 1];
      rest_.remove_prefix(zero + 2);
      if (after == '\0') return out;
      good_ = good_ && after == '\xff';
      out += '\0';
    }
  }
  /// Everything was there, and nothing is left.
  [[nodiscard]] bool good() const noexcept { return good_ && rest_.empty(); }
  void spoil() noexcept { good_ = false; }

 private:
  template <class T>
  T integer() noexcept {
    using U = std::make_unsigned_t<T>;
    U u = 0;
    for (const char c : raw(sizeof(T)))
      u = static_cast<U>(static_cast<U>(u << (sizeof(T) > 1 ? 8 : 0)) |
                         static_cast<unsigned char>(c));
    if constexpr (std::is_signed_v<T>) u = static_cast<U>(u ^ (U{1} << (8 * sizeof(T) - 1)));
    return static_cast<T>(u);
  }

  std::string_view rest_;
  bool good_ = true;
};

}  // namespace kessai::payments
