#include "train/yaml_scalar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "autograd/support/error.h"
#include "autograd/support/scheduled.h"

namespace sluice {
namespace {

enum class Parse { ok, not_a_number, out_of_range };

// A leading plus is YAML's, not from_chars'.
std::string_view without_plus(std::string_view text) {
  const bool has_sign = text.size() > 1 && text[0] == '+' && text[1] != '-' && text[1] != '+';
  return has_sign ? text.substr(1) : text;
}

template <class T>
Parse parse_whole(std::string_view text, T& value) {
  text = without_plus(text);
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status == std::errc::invalid_argument || end != text.data() + text.size()) {
    return Parse::not_a_number;
  }
  return status == std::errc{} ? Parse::ok : Parse::out_of_range;
}

// from_chars also reads "inf" and "nan", which are no numbers of a recipe.
Parse parse_finite(std::string_view text, double& value) {
  const Parse result = parse_whole(text, value);
  if (result == Parse::ok && !std::isfinite(value)) return Parse::not_a_number;
  return result;
}

bool looks_like_number(std::string_view text) {
  double value = 0.0;
  return parse_finite(text, value) != Parse::not_a_number;
}

bool is_plain_scalar(const YamlNode& node) {
  return node.kind == YamlNode::Kind::scalar && !node.is_quoted;
}

std::string with_word(std::string allowed, std::string_view or_word) {
  if (!or_word.empty()) allowed += fmt::format(" or {}", or_word);
  return allowed;
}

std::string found(const YamlNode& node, std::string_view noun, const std::string& range,
                  std::string_view or_word) {
  std::string allowed(noun);
  if (!range.empty())
    allowed += (range.find(" to ") != std::string::npos ? " from " : " of ") + range;
  return fmt::format("found {}, allowed {}", node.describe(), with_word(allowed, or_word));
}

// Quotes around a number are a slip worth naming.
std::string quotes_hint(const YamlNode& node) {
  const bool is_quoted_number = node.is_quoted && looks_like_number(node.text);
  return is_quoted_number ? "; remove the quotes" : "";
}

// "found 1e4, allowed a whole number; write 10000"
std::string whole_number_hint(const YamlNode& node) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  double value = 0.0;
  if (node.is_quoted || parse_finite(node.text, value) != Parse::ok) return quotes_hint(node);
  const bool is_whole = value == std::floor(value) && std::abs(value) <= kExact;
  return is_whole ? fmt::format("; write {}", static_cast<int64_t>(value)) : "";
}

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\t':
      out += "\\t";
      return;
    case '\r':
      out += "\\r";
      return;
    default:
      break;
  }
  const auto byte = static_cast<unsigned char>(c);
  if (byte < 0x20 || byte == 0x7F) {
    out += fmt::format("\\x{:02x}", byte);
  } else {
    out += c;
  }
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) append_escaped(out, c);
  return out + '"';
}

// Long enough to recognise, short enough for one line of a terminal.
std::string shortened(std::string_view text) {
  constexpr size_t kLongest = 60;
  if (text.size() <= kLongest) return in_quotes(text);
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return in_quotes(text.substr(0, end)) + "...";
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Words that this or another YAML reader takes for something else.
bool is_reserved(std::string_view text) {
  constexpr std::array<std::string_view, 10> kReserved = {"null", "true", "false", "yes", "no",
                                                          "on",   "off",  "y",     "n",   "nan"};
  std::string lower(text);
  for (char& c : lower) c = is_letter(c) ? static_cast<char>(c | 0x20) : c;
  return std::find(kReserved.begin(), kReserved.end(), lower) != kReserved.end();
}

bool is_safe_plain(std::string_view text) {
  if (text.empty() || is_reserved(text)) return false;
  const bool starts_safely =
      is_letter(text[0]) || text[0] == '/' || text[0] == '(' || text[0] == '_';
  if (!starts_safely) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    constexpr std::string_view kOthers = "_./()+-";
    return is_letter(c) || is_digit(c) || kOthers.find(c) != std::string_view::npos;
  });
}

}  // namespace

std::string YamlNode::describe() const {
  switch (kind) {
    case Kind::null:
      return "nothing";
    case Kind::list:
      return items.empty() ? "an empty list" : "a list";
    case Kind::map:
      return "a mapping";
    case Kind::scalar:
      break;
  }
  if (is_quoted) return "the text " + shortened(text);
  return looks_like_number(text) ? text : shortened(text);
}

bool is_word(const YamlNode& node, std::string_view word) {
  return is_plain_scalar(node) && node.text == word;
}

std::string describe_range(IntegerRange range) {
  const bool has_min = range.min != std::numeric_limits<int64_t>::min();
  const bool has_max = range.max != std::numeric_limits<int64_t>::max();
  if (has_min && has_max) return fmt::format("{} to {}", range.min, range.max);
  if (has_min) return fmt::format("at least {}", range.min);
  return has_max ? fmt::format("at most {}", range.max) : "";
}

std::string describe_range(NumberRange range) {
  const bool has_min = std::isfinite(range.min);
  const bool has_max = std::isfinite(range.max);
  if (has_min && has_max && !range.exclusive_min)
    return fmt::format("{} to {}", range.min, range.max);
  std::string text;
  if (has_min)
    text = fmt::format("{} {}", range.exclusive_min ? "more than" : "at least", range.min);
  if (has_max) text += fmt::format("{}at most {}", has_min ? " and " : "", range.max);
  return text;
}

bool is_inside(double value, NumberRange range) {
  const bool above = range.exclusive_min ? value > range.min : value >= range.min;
  return above && value <= range.max;
}

std::string read_boolean(const YamlNode& node, bool& value) {
  const bool is_true = is_word(node, "true");
  if (!is_true && !is_word(node, "false")) {
    return fmt::format("found {}, allowed true or false", node.describe());
  }
  value = is_true;
  return {};
}

std::string read_integer(const YamlNode& node, IntegerRange range, std::string_view or_word,
                         int64_t& value) {
  int64_t parsed = 0;
  const Parse result = is_plain_scalar(node) ? parse_whole(node.text, parsed) : Parse::not_a_number;
  if (result == Parse::not_a_number) {
    return found(node, "a whole number", describe_range(range), or_word) + whole_number_hint(node);
  }
  if (result == Parse::out_of_range || parsed < range.min || parsed > range.max) {
    std::string allowed = describe_range(range);
    if (allowed.empty()) allowed = "a whole number of 64 bits";
    return fmt::format("found {}, allowed {}", node.describe(), with_word(allowed, or_word));
  }
  value = parsed;
  return {};
}

std::string read_number(const YamlNode& node, NumberRange range, std::string_view or_word,
                        double& value) {
  double parsed = 0.0;
  const Parse result =
      is_plain_scalar(node) ? parse_finite(node.text, parsed) : Parse::not_a_number;
  if (result == Parse::not_a_number) {
    return found(node, "a number", describe_range(range), or_word) + quotes_hint(node);
  }
  if (result == Parse::out_of_range) {
    return found(node, "a number of double precision", describe_range(range), or_word);
  }
  if (!is_inside(parsed, range)) {
    return fmt::format("found {}, allowed {}", node.describe(),
                       with_word(describe_range(range), or_word));
  }
  value = parsed;
  return {};
}

std::string read_duration(const YamlNode& node, std::string_view or_word, Duration& value) {
  const std::string_view allowed =
      "a duration: 300 steps, 2M tokens, 3 epochs, 10% (of the run), or a bare whole number of "
      "steps";
  std::string word = or_word.empty() ? "" : fmt::format(", or {}", or_word);
  if (node.kind == YamlNode::Kind::scalar) {
    try {
      value = Duration::parse(node.text);
      return {};
    } catch (const ConfigError&) {
      // Its message lacks the word; the one below has both.
    }
  }
  return fmt::format("found {}, allowed {}{}", node.describe(), allowed, word);
}

std::string read_text(const YamlNode& node, std::string& value) {
  if (node.kind != YamlNode::Kind::scalar) {
    return fmt::format("found {}, allowed a text", node.describe());
  }
  value = node.text;
  return {};
}

std::string format_number(double value) {
  SLUICE_INTERNAL_CHECK(std::isfinite(value), "a config holds the number {}", value);
  std::string text = fmt::format("{}", value);
  const size_t exponent = text.find('e');
  const bool has_point = text.find('.') != std::string::npos;
  // A point always: some readers of YAML 1.1 take 1e-05 for text.
  if (!has_point) text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
  return text;
}

std::string format_text(std::string_view text) {
  return is_safe_plain(text) ? std::string(text) : in_quotes(text);
}

}  // namespace sluice
