#include "layers/pattern.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int kMaxDepth = 32;

class PatternParser {
 public:
  PatternParser(std::string_view text, std::string_view symbols) : text_(text), symbols_(symbols) {}

  std::string parse() {
    std::string result = sequence(0);
    if (position_ < text_.size()) {
      fail(text_[position_] == ')' ? "\")\" without its \"(\"" : "\"]\" without its \"[\"");
    }
    if (result.empty()) fail("nothing");
    return result;
  }

 private:
  std::string sequence(int depth) {
    if (depth > kMaxDepth) fail("brackets nested too deeply");
    std::string result;
    for (skip_spaces(); position_ < text_.size() && !closes(text_[position_]); skip_spaces()) {
      std::string item;
      if (text_[position_] == '(') {
        item = bracketed(depth, ')');
      } else if (text_[position_] == '[') {
        if (in_group_) fail("a group in square brackets inside another");
        in_group_ = true;
        item = '[' + bracketed(depth, ']') + ']';
        in_group_ = false;
        if (item.size() == 2) fail("an empty group");
      } else if (text_[position_] == '{') {
        item = spread();
      } else if (symbols_.find(text_[position_]) != std::string_view::npos) {
        item = text_[position_++];
      } else {
        fail(fmt::format("\"{}\"", text_[position_]));
      }
      append_repeated(result, item, count());
    }
    return result;
  }

  static bool closes(char c) { return c == ')' || c == ']'; }

  /// What stands between the bracket here and its partner.
  std::string bracketed(int depth, char partner) {
    const size_t open = position_++;
    std::string inner = sequence(depth + 1);
    skip_spaces();
    if (position_ >= text_.size() || text_[position_] != partner) {
      position_ = open;
      fail(fmt::format("\"{}\" without its \"{}\"", text_[open], partner));
    }
    ++position_;
    return inner;
  }

  /// "{M24 A4 F28}".
  std::string spread() {
    const size_t open = position_++;
    std::vector<std::pair<char, int64_t>> parts;
    int64_t length = 0;
    for (skip_spaces(); position_ < text_.size() && text_[position_] != '}'; skip_spaces()) {
      if (symbols_.find(text_[position_]) == std::string_view::npos) {
        fail(fmt::format("\"{}\" among symbols that are spread", text_[position_]));
      }
      const char symbol = text_[position_++];
      parts.emplace_back(symbol, count());
      length += parts.back().second;
      if (length > kMaxSublayers) fail(fmt::format("more than {} sublayers", kMaxSublayers));
    }
    if (position_ >= text_.size()) {
      position_ = open;
      fail("\"{\" without its \"}\"");
    }
    ++position_;
    if (parts.empty()) fail("nothing to spread");
    const char base = parts[0].first;
    std::string result(static_cast<size_t>(length), base);
    for (size_t i = 1; i < parts.size(); ++i) {
      const auto left = std::count(result.begin(), result.end(), base) - parts[i].second;
      // The first part the rest into one run more than there are of them.
      place_evenly(parts[i].first, {.before_each = left, .of = parts[i].second + (i == 1 ? 1 : 0)},
                   base, result);
    }
    return result;
  }

  /// The mean number of places between two symbols that are placed: before_each / of.
  struct Gap {
    int64_t before_each;
    int64_t of;
  };
  /// Replaces `base` by `symbol` wherever the places passed over since the last come to a gap.
  static void place_evenly(char symbol, Gap gap, char base, std::string& result) {
    // In units of 1 / of, so that nothing is rounded.
    int64_t ahead = gap.before_each;
    for (char& place : result) {
      if (place != base) continue;
      if (2 * ahead < gap.of) {
        place = symbol;
        ahead += gap.before_each;
      } else {
        ahead -= gap.of;
      }
    }
  }

  /// "x3", "3" or nothing, which is 1.
  int64_t count() {
    skip_spaces();
    const size_t start = position_;
    if (position_ < text_.size() && text_[position_] == 'x') ++position_;
    int64_t value = 0;
    const size_t digits = position_;
    while (position_ < text_.size() &&
           std::isdigit(static_cast<unsigned char>(text_[position_])) != 0) {
      value = value * 10 + (text_[position_++] - '0');
      if (value > kMaxSublayers) fail(fmt::format("a count above {}", kMaxSublayers));
    }
    if (position_ == start) return 1;
    if (position_ == digits) fail("\"x\" without a number");
    if (value == 0) fail("a count of 0");
    return value;
  }

  void append_repeated(std::string& result, const std::string& item, int64_t times) {
    if (static_cast<int64_t>(result.size() + item.size() * static_cast<size_t>(times)) >
        kMaxSublayers) {
      fail(fmt::format("more than {} sublayers", kMaxSublayers));
    }
    for (int64_t i = 0; i < times; ++i) result += item;
  }

  void skip_spaces() {
    while (position_ < text_.size() &&
           std::isspace(static_cast<unsigned char>(text_[position_])) != 0) {
      ++position_;
    }
  }

  [[noreturn]] void fail(const std::string& found) const {
    std::string allowed;
    for (const char symbol : symbols_) {
      if (!allowed.empty()) allowed += ", ";
      allowed += symbol;
    }
    throw ConfigError(
        fmt::format("pattern \"{}\", position {}: found {}; allowed are the symbols {} and groups "
                    "such as (AE)x6",
                    text_, position_ + 1, found, allowed));
  }

  std::string_view text_;
  std::string_view symbols_;
  size_t position_ = 0;
  bool in_group_ = false;
};

}  // namespace

std::string expand_pattern(std::string_view pattern, std::string_view symbols) {
  return PatternParser(pattern, symbols).parse();
}

}  // namespace sluice
