#include "bench/report/benchmark_results.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice::bench {
namespace {

using nlohmann::json;

/// The numbers of an entry that are no counters.
constexpr std::array<std::string_view, 9> kNoCounters = {
    "family_index", "per_family_instance_index",
    "repetitions",  "repetition_index",
    "threads",      "iterations",
    "real_time",    "cpu_time",
    "big_o"};

/// "a/b/iterations:3/manual_time" without what was appended.
std::string own_name(std::string name) {
  constexpr std::array<std::string_view, 3> kWhole = {"manual_time", "real_time", "process_time"};
  constexpr std::array<std::string_view, 4> kStarts = {
      "iterations:", "repeats:", "min_time:", "min_warmup_time:"};
  const auto appended = [&](std::string_view part) {
    return std::count(kWhole.begin(), kWhole.end(), part) > 0 ||
           std::any_of(kStarts.begin(), kStarts.end(),
                       [&](std::string_view start) { return part.starts_with(start); });
  };
  for (size_t slash = name.rfind('/'); slash != std::string::npos; slash = name.rfind('/')) {
    if (!appended(std::string_view(name).substr(slash + 1))) break;
    name.resize(slash);
  }
  return name;
}

double seconds_in(const std::string& unit) {
  if (unit == "s") return 1.0;
  if (unit == "ms") return 1e-3;
  if (unit == "us") return 1e-6;
  return 1e-9;
}

FigureMap figures_of(const json& entry) {
  FigureMap figures;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_number() || std::count(kNoCounters.begin(), kNoCounters.end(), key) > 0) continue;
    SLUICE_CHECK(DataError, key != kTime, "a counter named \"{}\" would hide the time", kTime);
    figures[key] = value.get<double>();
  }
  figures[kTime] =
      entry.value("real_time", 0.0) * seconds_in(entry.value("time_unit", std::string("ns")));
  return figures;
}

void add_entry(const json& entry, BenchmarkResult& result) {
  if (entry.value("error_occurred", false)) {
    result.error = entry.value("error_message", std::string("no reason given"));
    return;
  }
  const std::string statistic = entry.value("aggregate_name", std::string("median"));
  if (statistic == "median") result.median = figures_of(entry);
  if (statistic == "q1") result.q1 = figures_of(entry);
  if (statistic == "q3") result.q3 = figures_of(entry);
}

}  // namespace

ProgramResults parse_results(const std::string& text, const std::string& source) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  SLUICE_CHECK(DataError,
               root.is_object() && root.contains("benchmarks") && root.contains("context"),
               "{}: not the JSON output of a benchmark (--benchmark_out_format=json)", source);
  try {
    ProgramResults results;
    results.program =
        std::filesystem::path(root["context"].value("executable", source)).filename().string();
    for (const json& entry : root["benchmarks"]) {
      const std::string name = own_name(entry.at("run_name").get<std::string>());
      auto found = std::find_if(results.benchmarks.begin(), results.benchmarks.end(),
                                [&](const BenchmarkResult& b) { return b.name == name; });
      if (found == results.benchmarks.end()) {
        found = results.benchmarks.insert(found, {.name = name});
      }
      add_entry(entry, *found);
    }
    return results;
  } catch (const json::exception& error) {
    throw DataError(fmt::format("{}: unexpected content ({})", source, error.what()));
  }
}

ProgramResults read_results(const std::string& path) {
  return parse_results(read_file(path, raise_as<DataError>), path);
}

}  // namespace sluice::bench
