#pragma once
// Cuts text into the pieces that SentencePiece sees one at a time, in training and in encoding
// alike: lines with the line breaks after them, so that "\n\n" may become one token and no token
// crosses into the next line. Encoding therefore takes time linear in the text, and what stands far
// away never changes a token.

#include <cstddef>
#include <string_view>

#include "data/utf8.h"

namespace sluice {

/// No segment is longer; a line beyond it is cut before its last space, else between two
/// characters.
inline constexpr size_t kMaxSegmentBytes = 8192;

/// End of the segment that starts at `begin` < text.size(); greater than `begin`. The cuts after
/// `begin` depend only on the text after `begin`.
[[nodiscard]] inline size_t segment_end(std::string_view text, size_t begin) {
  const std::string_view rest = text.substr(begin);
  const std::string_view window = rest.substr(0, kMaxSegmentBytes);
  if (const size_t newline = window.find('\n'); newline != std::string_view::npos) {
    const size_t next_line = window.find_first_not_of('\n', newline);
    return begin + (next_line == std::string_view::npos ? window.size() : next_line);
  }
  if (window.size() == rest.size()) return text.size();
  if (const size_t space = window.rfind(' '); space != std::string_view::npos && space > 0) {
    return begin + space;
  }
  size_t length = window.size();
  while (length > 1 && is_utf8_continuation(rest[length])) --length;
  return begin + length;
}

/// Calls visit(segment) for each segment of `text`, in order; the segments joined are the text.
template <class Visit>
void for_each_segment(std::string_view text, Visit&& visit) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = segment_end(text, begin);
    visit(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace sluice
