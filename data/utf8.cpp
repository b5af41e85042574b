#include "data/utf8.h"

#include <cstring>

namespace sluice {
namespace {

enum class Sequence { valid, truncated, invalid };

struct Step {
  Sequence kind = Sequence::valid;
  size_t length = 1;  // bytes of the character, or of the part that could begin one
};

/// The character that starts at `text[at]` (Unicode 15, table 3-7: the second byte's range depends
/// on the first).
Step step_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return {};
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Sequence::invalid, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) return {Sequence::truncated, i};
    if (byte(at + i) < low || byte(at + i) > high) return {Sequence::invalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Sequence::valid, length};
}

bool next_eight_are_ascii(std::string_view text, size_t at) {
  if (at + 8 > text.size()) return false;
  uint64_t word = 0;
  std::memcpy(&word, text.data() + at, 8);
  return (word & 0x8080808080808080ULL) == 0;
}

}  // namespace

std::optional<int64_t> find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (next_eight_are_ascii(text, at)) {
      at += 8;
      continue;
    }
    const Step step = step_at(text, at);
    if (step.kind != Sequence::valid) return static_cast<int64_t>(at);
    at += step.length;
  }
  return std::nullopt;
}

size_t complete_utf8_prefix(std::string_view text) {
  const size_t longest_cut = 3;  // a four-byte character without its last byte
  for (size_t back = 1; back <= longest_cut && back <= text.size(); ++back) {
    const size_t at = text.size() - back;
    if (is_utf8_continuation(text[at])) continue;
    return step_at(text, at).kind == Sequence::truncated ? at : text.size();
  }
  return text.size();
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Step step = step_at(text, at);
    if (step.kind == Sequence::valid) {
      result += text.substr(at, step.length);
    } else {
      result += "\xEF\xBF\xBD";
    }
    at += step.length;
  }
  return result;
}

}  // namespace sluice
