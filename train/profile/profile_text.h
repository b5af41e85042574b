#pragma once
// A profile for the terminal: by phase, then by op.
//
//   profile of 48 steps, 512.3 ms each; peaks: 171 GFLOP/s (products of 1024^3), 20.1 GB/s (triad)
//
//   phase                ms/step  share  GFLOP/s  of peak   GB/s
//   attention              175.1  34.2 %   120.4   70.4 %    9.8
//   ...

#include <string>

#include "train/profile/profile.h"

namespace sluice {

/// Lines, each ended by '\n'. Rates of a line are its FLOPs and bytes over its own time: both are of
/// one piece of work, so neither can reach its peak where the other does.
[[nodiscard]] std::string profile_text(const ProfileSummary& profile);

}  // namespace sluice
