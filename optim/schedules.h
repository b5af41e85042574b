#pragma once
// The table of schedule shapes: what `{type: cosine, ...}` can name wherever a recipe takes a
// number.
//
//   Scheduled rate{"cosine", make_schedule_shape("cosine")};   // a FieldVisitor sets its fields
//   rate.at(progress);
//
// A shape is one file in optim/schedules/ and one line in schedules.def.

#include <span>
#include <string_view>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"

namespace sluice {

/// Every schedule shape, in the order of schedules.def. Each `make_config` makes a ScheduleShape.
[[nodiscard]] std::span<const Choice> schedule_choices();

/// A shape by its registered name, with its defaults. Throws ConfigError with the known names and
/// the nearest.
[[nodiscard]] std::shared_ptr<ScheduleShape> make_schedule_shape(std::string_view type);

}  // namespace sluice
