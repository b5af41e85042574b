#pragma once
// What a checkpoint's file holds beside the arrays of the state (the layout: checkpoint.h).

#include <cstdint>

#include "autograd/support/hdf5.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {

/// Room for everything but the state's elements: a guess for memory that is taken beforehand.
inline constexpr int64_t kLayoutBytes = int64_t{4} << 20;

void write_meta(hdf5::File& file, const CheckpointMeta& meta);

}  // namespace sluice
