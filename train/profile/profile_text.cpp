#include "train/profile/profile_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "train/format.h"

namespace sluice {
namespace {

struct Line {
  std::string name;
  double calls = 0.0;  // per step
  CostMeter::Entry total;
};

void add(CostMeter::Entry& into, const CostMeter::Entry& entry) {
  into.flops += entry.flops;
  into.bytes += entry.bytes;
  into.seconds += entry.seconds;
  into.calls += entry.calls;
}

/// The entries by what `key` says, most time first.
template <class Key>
std::vector<Line> lines_by(const ProfileSummary& profile, Key&& key) {
  std::map<std::string, CostMeter::Entry> totals;
  for (const ProfileEntry& entry : profile.entries) add(totals[key(entry)], entry.total);
  std::vector<Line> lines;
  for (const auto& [name, total] : totals) {
    lines.push_back(
        {name, static_cast<double>(total.calls) / static_cast<double>(profile.steps), total});
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const Line& a, const Line& b) { return a.total.seconds > b.total.seconds; });
  return lines;
}

/// "171.2" or nothing.
std::string giga(double amount, double seconds) {
  return amount > 0.0 && seconds > 0.0 ? fmt::format("{:.1f}", amount / seconds * 1e-9)
                                       : std::string();
}
std::string share_of(double amount, double seconds, double peak) {
  return amount > 0.0 && seconds > 0.0 && peak > 0.0
             ? fmt::format("{:.1f} %", 100.0 * amount / seconds / peak)
             : std::string();
}

void append_line(std::string& text, const ProfileSummary& profile, const Line& line) {
  const CostMeter::Entry& total = line.total;
  text += fmt::format("{:<34}{:>9.1f}{:>11.3f}{:>9.1f} %{:>10}{:>10}{:>9}{:>10}\n", line.name,
                      line.calls, 1e3 * total.seconds / static_cast<double>(profile.steps),
                      100.0 * total.seconds / profile.seconds, giga(total.flops, total.seconds),
                      share_of(total.flops, total.seconds, profile.gemm_peak),
                      giga(total.bytes, total.seconds),
                      share_of(total.bytes, total.seconds, profile.triad_peak));
}

void append_table(std::string& text, std::string_view what, const ProfileSummary& profile,
                  const std::vector<Line>& lines) {
  text += fmt::format("\n{:<34}{:>9}{:>11}{:>11}{:>10}{:>10}{:>9}{:>10}\n", what, "calls",
                      "ms/step", "share", "GFLOP/s", "of peak", "GB/s", "of peak");
  for (const Line& line : lines) append_line(text, profile, line);
}

}  // namespace

std::string profile_text(const ProfileSummary& profile) {
  if (profile.steps == 0) {
    return "profile: no step to show, since the first of a process only warms up; train two or "
           "more\n";
  }
  static constexpr std::array<std::string_view, kDirections> kSuffixes = {"", " backward",
                                                                          " extra"};
  std::string text = fmt::format(
      "profile of {}, {:.3f} ms each; peaks: {:.0f} GFLOP/s in products of "
      "1024^3, {:.1f} GB/s in a triad from memory\n",
      counted(profile.steps, "step"), 1e3 * profile.seconds / static_cast<double>(profile.steps),
      profile.gemm_peak * 1e-9, profile.triad_peak * 1e-9);
  std::vector<Line> phases = lines_by(
      profile, [](const ProfileEntry& entry) { return std::string(name_of(entry.phase)); });
  phases.push_back({"outside of these", 0.0, {.seconds = std::max(0.0, profile.unaccounted())}});
  append_table(text, "phase", profile, phases);
  append_table(text, "op", profile, lines_by(profile, [](const ProfileEntry& entry) {
                 const auto suffix = kSuffixes[static_cast<size_t>(entry.direction)];
                 return entry.name == kHostWork
                            ? fmt::format("(host) {}{}", name_of(entry.phase), suffix)
                            : fmt::format("{}{}", entry.name, suffix);
               }));
  return text;
}

}  // namespace sluice
