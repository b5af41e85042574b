#pragma once
// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, at most U+10FFFF.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// Byte offset of the first sequence that is not valid UTF-8 (one cut off by the end included), or
/// nullopt.
[[nodiscard]] std::optional<int64_t> find_invalid_utf8(std::string_view text);

/// Bytes of `text` before a character that its end cuts off and that more bytes could still
/// complete.
[[nodiscard]] size_t complete_utf8_prefix(std::string_view text);

/// `text` with each maximal invalid part replaced by U+FFFD.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

[[nodiscard]] constexpr bool is_utf8_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

}  // namespace sluice
