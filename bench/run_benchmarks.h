#pragma once
// The main function of a benchmark program. Every flag of Google Benchmark is taken; those below are
// what holds without any.

#include <benchmark/benchmark.h>

#include <functional>
#include <string>

namespace sluice::bench {

inline constexpr int kRepetitions = 5;

/// The two quartiles beside the statistics that Google Benchmark reports anyway (mean, median, standard
/// deviation, and their ratio).
benchmark::internal::Benchmark* with_quartiles(benchmark::internal::Benchmark* made);

/// A benchmark of `rounds` rounds a repetition, each of which sets its time by itself.
void add_rounds(const std::string& name, int64_t rounds,
                const std::function<void(benchmark::State&)>& run);

/// --benchmark_repetitions=REPETITIONS --benchmark_report_aggregates_only=true
/// --benchmark_min_time=0.2 (seconds a repetition), then `argv`. Returns the exit status.
int run_benchmarks(int argc, char** argv, int repetitions = kRepetitions);

/// The same with the repetitions of all benchmarks in random turns, so that a machine whose speed
/// drifts treats them alike.
int run_in_turns(int argc, char** argv, int repetitions = kRepetitions);

}  // namespace sluice::bench
