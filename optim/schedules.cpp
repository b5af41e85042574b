#include "optim/schedules.h"

#include <array>
#include <vector>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "optim/schedules/shape.h"

namespace sluice {
namespace {

#define SLUICE_SCHEDULE(name) std::string_view(#name),
constexpr std::array kNames = {
#include "optim/schedules.def"
};
#undef SLUICE_SCHEDULE
static_assert(all_distinct(kNames), "two lines of schedules.def have the same name");

std::vector<Choice> make_table() {
#define SLUICE_SCHEDULE(name) schedules::name(),
  std::vector<Choice> table = {
#include "optim/schedules.def"
  };
#undef SLUICE_SCHEDULE
  for (size_t i = 0; i < table.size(); ++i) {
    SLUICE_INTERNAL_CHECK(table[i].name == kNames[i], "schedules.def says {}, its file {}",
                          kNames[i], table[i].name);
  }
  return table;
}

}  // namespace

std::span<const Choice> schedule_choices() {
  static const std::vector<Choice> table = make_table();
  return table;
}

std::shared_ptr<ScheduleShape> make_schedule_shape(std::string_view type) {
  for (const Choice& choice : schedule_choices()) {
    if (choice.name == type) {
      std::shared_ptr<Configurable> config = choice.make_config();
      auto shape = std::dynamic_pointer_cast<ScheduleShape>(std::move(config));
      SLUICE_INTERNAL_CHECK(shape != nullptr, "schedule {} is no ScheduleShape", type);
      return shape;
    }
  }
  throw ConfigError(unknown_name("schedule", type, kNames));
}

}  // namespace sluice
