#include "train/report/recipe_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "train/report/text.h"

namespace sluice::report {
namespace {

std::string span(char kind, std::string_view text) {
  return fmt::format("<span class=\"{}\">{}</span>", kind, escaped(text));
}

/// A number with at most a unit behind it ("30 steps").
bool is_number(std::string_view word) {
  size_t digits = 0;
  for (const char c : word) {
    const bool is_digit = c >= '0' && c <= '9';
    digits += is_digit ? 1 : 0;
    if (!is_digit && std::string_view("+-.eE_").find(c) == std::string_view::npos) return false;
  }
  return digits > 0;
}

bool is_word(std::string_view word) {
  constexpr std::array<std::string_view, 5> kWords = {"true", "false", "null", "none", "auto"};
  return std::ranges::find(kWords, word) != kWords.end();
}

std::string scalar(std::string_view text) {
  const std::string_view first = text.substr(0, text.find(' '));
  if (is_number(first)) return span('n', first) + escaped(text.substr(first.size()));
  return is_word(text) ? span('w', text) : escaped(text);
}

/// The length of the quoted text that `text` begins with, quotes included; to its end when they are
/// not closed.
size_t quoted_length(std::string_view text) {
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '\\' && text[0] == '"') {
      ++i;
    } else if (text[i] == text[0]) {
      return i + 1;
    }
  }
  return text.size();
}

/// A value: one scalar, or a list or mapping in brackets.
std::string value_html(std::string_view text) {
  const bool is_flow = !text.empty() && (text[0] == '[' || text[0] == '{');
  std::string html;
  while (!text.empty()) {
    if (text[0] == '"' || text[0] == '\'') {
      const size_t length = quoted_length(text);
      html += span('s', text.substr(0, length));
      text.remove_prefix(length);
      continue;
    }
    if (text[0] == '#') return html + span('m', text);
    const size_t end = std::min(text.find_first_of(is_flow ? "[]{},\"'" : "#"), text.size());
    if (end > 0) {
      std::string_view part = text.substr(0, end);
      const size_t begin = std::min(part.find_first_not_of(' '), part.size());
      html += part.substr(0, begin);
      part.remove_prefix(begin);
      const size_t colon = part.find(": ");
      if (is_flow && colon != std::string_view::npos) {
        html += span('k', part.substr(0, colon + 1)) + " " + scalar(part.substr(colon + 2));
      } else {
        html += scalar(part);
      }
    }
    text.remove_prefix(end);
    if (!text.empty() && is_flow && text[0] != '"' && text[0] != '\'') {
      html += escaped(text.substr(0, 1));
      text.remove_prefix(1);
    }
  }
  return html;
}

std::string line_html(std::string_view line) {
  size_t begin = 0;
  while (begin < line.size() && (line[begin] == ' ' || line.substr(begin).starts_with("- "))) {
    ++begin;
  }
  std::string html = escaped(line.substr(0, begin));
  line.remove_prefix(begin);
  const size_t colon = line.find(':');
  const size_t name = std::min(
      line.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."),
      line.size());
  const bool is_key = colon != std::string_view::npos && colon > 0 && colon == name &&
                      (colon + 1 == line.size() || line[colon + 1] == ' ');
  if (!is_key) return html + value_html(line);
  html += span('k', line.substr(0, colon + 1));
  line.remove_prefix(colon + 1);
  if (line.starts_with(' ')) {
    html += ' ';
    line.remove_prefix(1);
  }
  return html + value_html(line);
}

}  // namespace

std::string highlighted_yaml(std::string_view text) {
  std::string html;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    html += line_html(text.substr(0, end)) + "\n";
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return html;
}

}  // namespace sluice::report
