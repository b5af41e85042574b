#pragma once
// The mean of the same array in several checkpoints.

#include <span>

#include "autograd/core/state.h"

namespace sluice {

/// The elementwise mean, in double, of floating arrays of one type and size (at least one array). Equal
/// elements give their own bits. Throws InternalError for arrays that differ in type or size.
[[nodiscard]] StateArray average(std::span<const StateArray* const> arrays);

}  // namespace sluice
