#pragma once
// Figures of benchmarks as a reader wants them.

#include <string>

namespace sluice::bench {

/// A time in seconds with its unit: "12.3 us", "1.20 s"; three digits.
[[nodiscard]] std::string time_text(double seconds);

/// The heading of a figure: its name, with the unit that figure_text writes ("gemm_own_FLOP/s"
/// becomes "gemm_own_GFLOP/s").
[[nodiscard]] std::string figure_heading(const std::string& name);
/// A figure in that unit: time with its unit, rates of FLOP/s and bytes/s in G, a part of something
/// (of_peak, ..._share) in percent, all else with three digits or more.
[[nodiscard]] std::string figure_text(const std::string& name, double value);

}  // namespace sluice::bench
