#include "autograd/support/registry.h"

#include <algorithm>
#include <cctype>

namespace sluice {
namespace {

std::string lower_case(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// Optimal string alignment: insert, delete, replace, and swap of neighbours, each at cost 1.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    std::swap(before_last, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string_view> known) {
  // A name this long is no slip of a short key, and the table of distances would cost its length
  // squared.
  constexpr size_t kLongestName = 64;
  constexpr size_t kShortestAbbreviation = 3;
  if (name.size() > kLongestName) return {};

  const std::string wanted = lower_case(name);
  std::string_view nearest;
  std::string_view abbreviated;
  size_t nearest_distance = 0;
  for (const std::string_view candidate : known) {
    const std::string lowered = lower_case(candidate);
    const size_t distance = edit_distance(wanted, lowered);
    const size_t allowed = std::max<size_t>(1, std::max(wanted.size(), lowered.size()) / 3);
    if (distance <= allowed && (nearest.empty() || distance < nearest_distance)) {
      nearest = candidate;
      nearest_distance = distance;
    }
    const bool is_abbreviation =
        wanted.size() >= kShortestAbbreviation && lowered.starts_with(wanted);
    if (is_abbreviation && abbreviated.empty()) abbreviated = candidate;
  }
  return std::string(nearest.empty() ? abbreviated : nearest);
}

std::string did_you_mean(std::string_view name, std::span<const std::string_view> known) {
  const std::string nearest = nearest_name(name, known);
  return nearest.empty() ? nearest : fmt::format("; did you mean \"{}\"?", nearest);
}

std::string unknown_name(std::string_view what, std::string_view name,
                         std::span<const std::string_view> known) {
  const std::string hint = did_you_mean(name, known);
  return fmt::format("unknown {} \"{}\"{} Known: {}", what, name, hint.empty() ? "." : hint,
                     fmt::join(known, ", "));
}

}  // namespace sluice
