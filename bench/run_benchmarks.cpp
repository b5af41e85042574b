#include "bench/run_benchmarks.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "bench/statistics.h"

namespace sluice::bench {
namespace {

/// `defaults` stand before what the user gives, which therefore wins.
int run_with(std::vector<std::string> defaults, int argc, char** argv) {
  std::vector<char*> arguments{argv[0]};
  for (std::string& flag : defaults) arguments.push_back(flag.data());
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

std::vector<std::string> defaults_of(int repetitions) {
  return {fmt::format("--benchmark_repetitions={}", repetitions),
          "--benchmark_report_aggregates_only=true", "--benchmark_min_time=0.2"};
}

}  // namespace

benchmark::internal::Benchmark* with_quartiles(benchmark::internal::Benchmark* made) {
  return made
      ->ComputeStatistics("q1", [](const std::vector<double>& v) { return quantile(v, 0.25); })
      ->ComputeStatistics("q3", [](const std::vector<double>& v) { return quantile(v, 0.75); });
}

void add_rounds(const std::string& name, int64_t rounds,
                const std::function<void(benchmark::State&)>& run) {
  with_quartiles(benchmark::RegisterBenchmark(name.c_str(), run))
      ->Iterations(rounds)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

int run_benchmarks(int argc, char** argv, int repetitions) {
  return run_with(defaults_of(repetitions), argc, argv);
}

int run_in_turns(int argc, char** argv, int repetitions) {
  auto defaults = defaults_of(repetitions);
  defaults.emplace_back("--benchmark_enable_random_interleaving=true");
  return run_with(std::move(defaults), argc, argv);
}

}  // namespace sluice::bench
