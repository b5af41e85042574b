#pragma once
// What one benchmark program wrote with --benchmark_out=FILE --benchmark_out_format=json.

#include <map>
#include <string>
#include <vector>

namespace sluice::bench {

/// Figures by name: the benchmark's counters, and its time in seconds under kTime.
using FigureMap = std::map<std::string, double>;
inline constexpr const char* kTime = "time";

struct BenchmarkResult {
  std::string name;   // without what Google Benchmark appends ("/iterations:3", "/manual_time")
  std::string error;  // why it did not run; empty when it did
  FigureMap median;   // of one repetition that figure itself
  FigureMap q1, q3;   // quartiles over repetitions; empty where they were not computed
};

struct ProgramResults {
  std::string program;                      // the executable's name
  std::vector<BenchmarkResult> benchmarks;  // in the order of the file
};

/// `text` is the file's content, `source` its name in messages. Throws DataError when it is no such
/// file.
[[nodiscard]] ProgramResults parse_results(const std::string& text, const std::string& source);
/// Throws DataError when the file cannot be read.
[[nodiscard]] ProgramResults read_results(const std::string& path);

}  // namespace sluice::bench
