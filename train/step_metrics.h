#pragma once
// From a step to a metric record.

#include <string_view>
#include <vector>

#include "autograd/core/cost.h"
#include "layers/routing_session.h"
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

/// The record of the step that `state` has just counted: losses, norm and rate; of each expert layer
/// and of the model the load of the global batch, what was watched of routers and experts, and the
/// balancers' own metrics; speed and memory; a histogram of the load per expert layer.
[[nodiscard]] Record make_step_record(const RunState& state, const StepResult& result,
                                      const RoutingSession& routing, const SpeedSample& speed);

}  // namespace sluice
