#include "autograd/support/scheduled.h"

#include <array>
#include <charconv>
#include <cmath>

#include "autograd/support/error.h"

namespace sluice {
namespace {

struct UnitName {
  std::string_view singular;
  std::string_view plural;
  DurationUnit unit;
};
// In the order of DurationUnit; percent, the last, has no word.
constexpr std::array<UnitName, 3> kUnitNames = {{{"step", "steps", DurationUnit::steps},
                                                 {"token", "tokens", DurationUnit::tokens},
                                                 {"epoch", "epochs", DurationUnit::epochs}}};

// Beyond 2^53 a double no longer counts one by one.
constexpr double kLargestCount = 9007199254740992.0;

std::string_view without_spaces(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

double take_suffix(std::string_view& text) {
  if (text.empty()) return 1.0;
  const double factor = text.front() == 'k'   ? 1e3
                        : text.front() == 'M' ? 1e6
                        : text.front() == 'G' ? 1e9
                                              : 1.0;
  if (factor > 1.0) text.remove_prefix(1);
  return factor;
}

std::optional<DurationUnit> unit_of(std::string_view word) {
  if (word.empty()) return DurationUnit::steps;
  if (word == "%") return DurationUnit::percent;
  for (const UnitName& name : kUnitNames) {
    if (word == name.singular || word == name.plural) return name.unit;
  }
  return std::nullopt;
}

bool is_allowed(const Duration& duration) {
  if (!std::isfinite(duration.count) || duration.count < 0.0) return false;
  switch (duration.unit) {
    case DurationUnit::steps:
    case DurationUnit::tokens:
      return duration.count <= kLargestCount && duration.count == std::floor(duration.count);
    case DurationUnit::epochs:
      return duration.count <= kLargestCount;
    case DurationUnit::percent:
      return duration.count <= 100.0;
  }
  return false;
}

std::optional<Duration> parse_duration(std::string_view text) {
  text = without_spaces(text);
  double count = 0.0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (status != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  count *= take_suffix(text);
  const auto unit = unit_of(without_spaces(text));
  if (!unit) return std::nullopt;
  const Duration duration{count, *unit};
  return is_allowed(duration) ? std::optional(duration) : std::nullopt;
}

}  // namespace

Duration Duration::parse(std::string_view text) {
  const auto duration = parse_duration(text);
  SLUICE_CHECK(
      ConfigError, duration.has_value(),
      "found \"{}\", allowed a duration such as 300 steps, 2M tokens, 3 epochs or 10% (of the "
      "run); a bare whole number means steps",
      text);
  return *duration;
}

std::string Duration::to_string() const {
  if (unit == DurationUnit::percent) return fmt::format("{}%", count);
  const UnitName& name = kUnitNames[static_cast<size_t>(unit)];
  const std::string_view word = count == 1.0 ? name.singular : name.plural;
  // Whole counts print without an exponent, which fmt would choose from 1e16 on.
  return count == std::floor(count) && std::abs(count) <= kLargestCount
             ? fmt::format("{} {}", static_cast<int64_t>(count), word)
             : fmt::format("{} {}", count, word);
}

double run_length_in(DurationUnit unit, const Progress& progress) {
  double length = 0.0;
  switch (unit) {
    case DurationUnit::steps:
    case DurationUnit::percent:
      length = static_cast<double>(progress.total_steps);
      break;
    case DurationUnit::tokens:
      length = static_cast<double>(progress.total_tokens);
      break;
    case DurationUnit::epochs:
      length = progress.total_epochs;
      break;
  }
  SLUICE_CHECK(
      ConfigError, length > 0.0,
      "a schedule depends on the length of the run in {}, which is not known",
      unit == DurationUnit::percent ? "steps" : kUnitNames[static_cast<size_t>(unit)].plural);
  return unit == DurationUnit::percent ? 100.0 : length;
}

double elapsed_in(DurationUnit unit, const Progress& progress) {
  switch (unit) {
    case DurationUnit::steps:
      return static_cast<double>(progress.step);
    case DurationUnit::tokens:
      return static_cast<double>(progress.tokens);
    case DurationUnit::epochs:
      return progress.epochs;
    case DurationUnit::percent:
      return 100.0 * static_cast<double>(progress.step) /
             run_length_in(DurationUnit::steps, progress);
  }
  return 0.0;
}

double Duration::in(DurationUnit other, const Progress& progress) const {
  if (unit == other || count == 0.0) return count;
  return count * run_length_in(other, progress) / run_length_in(unit, progress);
}

}  // namespace sluice
