#pragma once
// A profile as a page of events for Perfetto and chrome://tracing: the "Trace Event Format", complete
// events ("ph": "X") with times in microseconds. One row has the training loop's steps, the one
// below it kernel calls inside the host's work; arguments of a call are its direction, FLOP/s and
// bytes/s.

#include <string>

#include "train/profile/profile.h"

namespace sluice {

/// A JSON document; time 0 is the start of the first event.
[[nodiscard]] std::string trace_events(const Profile& profile);

}  // namespace sluice
