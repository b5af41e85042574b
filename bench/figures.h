#pragma once
// Counters of a benchmark that measures several things a round.

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

#include "bench/statistics.h"

namespace sluice::bench {

/// Named values of several rounds; their medians become a benchmark's counters.
class Figures {
 public:
  void add(const std::string& name, double value) { values_[name].push_back(value); }
  void report(benchmark::State& state) const {
    for (const auto& [name, values] : values_) state.counters[name] = median(values);
  }

 private:
  std::map<std::string, std::vector<double>> values_;
};

}  // namespace sluice::bench
