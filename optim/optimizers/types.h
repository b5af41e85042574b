#pragma once
// The factories of the table, one per line of the list: `adamw()` lives in adamw.cpp.

#include "optim/optimizer.h"

namespace sluice::optimizers {

#define SLUICE_OPTIMIZER(name) [[nodiscard]] const OptimizerType& name();
#include "optim/optimizers.def"
#undef SLUICE_OPTIMIZER

}  // namespace sluice::optimizers
