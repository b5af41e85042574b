#include "train/trace/trace_config.h"

namespace sluice {

void TraceConfig::fields(FieldVisitor& v) {
  v.optional_duration({"every", "how often a training step's routes are recorded; 1: every step"},
                      every, "never");
  v.integer({"first_step", "no step before this one is recorded"}, first_step, {.min = 1});
  v.optional_integer({"last_step", "no step after this one is recorded"}, last_step, {.min = 1},
                     "none");
  v.boolean({"held_out", "record the routes of every held-out evaluation (train.evaluate) too"},
            held_out);
  v.integers({"layers", "expert layers that are recorded, from 0; empty: all"}, layers, {.min = 0});
}

}  // namespace sluice
