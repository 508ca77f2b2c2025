// SPDX-License-Identifier: Apache-2.0
#include "tools/bytes.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "io/check.hpp"
#include "kessai/options.hpp"

namespace kessai::tools {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";

struct CodePoint {
  char32_t value = 0;
  unsigned length = 0;  // bytes; 0 = not UTF-8 here
};

// Strict UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
CodePoint decode(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const unsigned length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || s.size() < length) return {};
  char32_t value = lead & (0x7fu >> length);
  for (unsigned i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
    return {};
  return {value, length};
}

struct Span {
  char32_t first, last;
};

// What must not reach a terminal or an eye as itself: controls (Cc), format characters (Cf), line
// and paragraph separators, blanks that look like a space or like nothing, noncharacters.
constexpr Span kHidden[] = {
    {0x00, 0x1f},       {0x7f, 0xa0},       {0xad, 0xad},       {0x34f, 0x34f},
    {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},
    {0x890, 0x891},     {0x8e2, 0x8e2},     {0x115f, 0x1160},   {0x1680, 0x1680},
    {0x17b4, 0x17b5},   {0x180b, 0x180f},   {0x2000, 0x200f},   {0x2028, 0x202f},
    {0x205f, 0x206f},   {0x2800, 0x2800},   {0x3000, 0x3000},   {0x3164, 0x3164},
    {0xe000, 0xf8ff},   {0xfdd0, 0xfdef},   {0xfeff, 0xfeff},   {0xffa0, 0xffa0},
    {0xfff0, 0xfffb},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f},
    {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff}, {0xf0000, 0x10ffff},
};

bool visible(char32_t c) {
  if (c >= 0x20 && c < 0x7f) return true;
  if ((c & 0xfffe) == 0xfffe) return false;  // noncharacters
  for (const Span& s : kHidden) {
    if (c >= s.first && c <= s.last) return false;
  }
  return true;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_hex(std::string& out, unsigned char byte) {
  out += kHexDigits[byte >> 4];
  out += kHexDigits[byte & 15];
}

Result<std::string> parse_hex(std::string_view digits) {
  if (digits.size() % 2 != 0)
    return fail(Code::invalid_argument, "0x needs an even number of digits");
  std::string out;
  out.reserve(digits.size() / 2);
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    const int high = hex_value(digits[i]), low = hex_value(digits[i + 1]);
    if (high < 0 || low < 0)
      return fail(Code::invalid_argument, "0x is followed by hex digits only");
    out += static_cast<char>(high << 4 | low);
  }
  return out;
}

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

Result<std::string> parse_base64(std::string_view text) {
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  if (text.size() % 4 == 1) return fail(Code::invalid_argument, "b64: text is cut");
  std::string out;
  std::uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    const int value = base64_value(c);
    if (value < 0) return fail(Code::invalid_argument, "b64: is followed by base64 digits only");
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    have += 6;
    if (have < 8) continue;
    have -= 8;
    out += static_cast<char>(bits >> have & 0xff);
  }
  if ((bits & ((1u << have) - 1)) != 0)
    return fail(Code::invalid_argument, "b64: stray bits at the end");
  return out;
}

Result<std::string> parse_quoted(std::string_view text) {
  if (quoted_length(text) != text.size()) {
    return fail(Code::invalid_argument, "text after a closing quote, or no closing quote");
  }
  text = text.substr(1, text.size() - 2);
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    switch (text[++i]) {  // quoted_length() saw to it that something follows
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case '0':
        out += '\0';
        break;
      case '\\':
        out += '\\';
        break;
      case '"':
        out += '"';
        break;
      case 'x': {
        const bool two = i + 2 < text.size();
        const int high = two ? hex_value(text[i + 1]) : -1;
        const int low = two ? hex_value(text[i + 2]) : -1;
        if (high < 0 || low < 0) return fail(Code::invalid_argument, "\\x needs two hex digits");
        out += static_cast<char>(high << 4 | low);
        i += 2;
        break;
      }
      default:
        return fail(Code::invalid_argument,
                    "in quotes a backslash starts \\n \\r \\t \\0 \\\\ \\\" or \\xHH");
    }
  }
  return out;
}

Result<std::string> read_file(std::string_view name) {
  if (name.empty() || name.find('\0') != name.npos) {
    return fail(Code::invalid_argument, "@ is followed by a file name");
  }
  const std::string path(name);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  const auto failed = [&](Code code, const char* what) {
    ErrorDetail detail;
    detail.what = what;
    detail.path = path;
    return fail(code, std::move(detail), errno);
  };
  if (!file) return failed(Code::invalid_argument, std::strerror(errno));
  std::string out;
  char block[1 << 14];
  while (const std::size_t n = std::fread(block, 1, sizeof block, file.get())) {
    out.append(block, n);
    if (out.size() > kMaxValueBytes)
      return failed(Code::value_too_long, "file larger than a value may be");
  }
  if (std::ferror(file.get()) != 0) return failed(Code::io_error, std::strerror(errno));
  return out;
}

bool harmless(std::string_view s) {
  if (s.empty()) return true;
  if (s.front() == ' ' || s.back() == ' ') return false;
  for (const char* start : {"0x", "b64:", "@", "."}) {
    if (s.starts_with(start)) return false;
  }
  return s.find('"') == s.npos && is_printable_utf8(s);
}

}  // namespace

bool is_printable_utf8(std::string_view text) {
  while (!text.empty()) {
    const CodePoint c = decode(text);
    if (c.length == 0 || !visible(c.value)) return false;
    text.remove_prefix(c.length);
  }
  return true;
}

std::size_t quoted_length(std::string_view text) {
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      return i + 1;
    }
  }
  return 0;
}

Result<std::string> parse_bytes(std::string_view text) {
  if (text.starts_with('"')) return parse_quoted(text);
  if (text.starts_with("0x")) return parse_hex(text.substr(2));
  if (text.starts_with("b64:")) return parse_base64(text.substr(4));
  if (text.starts_with('@')) return read_file(text.substr(1));
  return std::string(text);
}

std::string format_bytes(std::string_view bytes) {
  if (harmless(bytes)) return std::string(bytes);
  std::string out = "0x";
  out.reserve(2 + 2 * bytes.size());
  for (const char c : bytes) append_hex(out, static_cast<unsigned char>(c));
  return out;
}

std::string format_word(std::string_view bytes) {
  std::string out = format_bytes(bytes);
  const bool syntax = out.empty() || out.find_first_of(" ;") != out.npos ||
                      std::string_view("-!#").find(out.front()) != std::string_view::npos;
  if (!syntax) return out;
  std::string quoted = "\"";
  for (const char c : out) {
    if (c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

std::string printable(std::string_view text, bool keep_newlines) {
  std::string out;
  while (!text.empty()) {
    const CodePoint c = decode(text);
    const std::size_t length = c.length == 0 ? 1 : c.length;
    if (c.length != 0 && (visible(c.value) || (keep_newlines && c.value == '\n'))) {
      out += text.substr(0, length);
    } else {
      for (const char byte : text.substr(0, length)) {
        out += "\\x";
        append_hex(out, static_cast<unsigned char>(byte));
      }
    }
    text.remove_prefix(length);
  }
  return out;
}

std::size_t display_width(std::string_view text) {
  // East Asian wide ranges; our own small table because wcwidth() depends on the locale.
  constexpr Span kWide[] = {{0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},
                            {0xa960, 0xa97f},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},
                            {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},
                            {0x1f300, 0x1f64f}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
  constexpr Span kZero[] = {{0x300, 0x36f}, {0x1ab0, 0x1aff}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}};
  const auto in = [](const auto& table, char32_t c) {
    for (const Span& s : table) {
      if (c >= s.first && c <= s.last) return true;
    }
    return false;
  };
  std::size_t width = 0;
  while (!text.empty()) {
    const CodePoint c = decode(text);
    width += in(kZero, c.value) ? 0 : in(kWide, c.value) ? 2 : 1;
    text.remove_prefix(c.length == 0 ? 1 : c.length);
  }
  return width;
}

}  // namespace kessai::tools
