#pragma once
// From a step to a metric record.

#include <string_view>
#include <vector>

#include "autograd/core/cost.h"
#include "layers/routing.h"
#include "train/metrics/metric.h"
#include "train/run_state.h"
#include "train/step.h"

namespace sluice {

/// What was measured since the last record; none of it is the same in two runs.
struct SpeedSample {
  double seconds = 0.0;
  int64_t tokens = 0;
  CostMeter work;
  double gemm_peak = 0.0;  // FLOP/s; 0 when not measured
  int64_t peak_memory_bytes = 0;
};

/// The record of the step that `state` has just counted: losses, norm and rate; load statistics of
/// each expert layer of the global batch and of the model (`loads`); speed and memory; a histogram
/// of the load per expert layer.
[[nodiscard]] Record make_step_record(const RunState& state, const StepResult& result,
                                      const std::vector<LayerLoad>& loads,
                                      const SpeedSample& speed);

}  // namespace sluice
