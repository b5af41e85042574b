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

/// The record of the step that `state` has just counted: losses, norm, rate; per expert layer (if it
/// routed) and model the load of the global batch and its histogram, what was watched of routers and
/// experts, the balancers' metrics; speed, memory. No losses nor loads of a step that was empty.
[[nodiscard]] Record make_step_record(const RunState& state, const StepResult& result,
                                      const RoutingSession& routing, const SpeedSample& speed);

}  // namespace sluice
