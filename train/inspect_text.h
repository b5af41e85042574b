#pragma once
// An inspection for people, and for programs.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "train/inspect.h"

namespace sluice {

struct InspectionTextOptions {
  bool parameters = false;  // with a line per parameter
};

/// Aligned lines, the run's files first.
[[nodiscard]] std::string inspection_text(const Inspection& found,
                                          const InspectionTextOptions& options = {});

/// The same facts under stable keys; parameters always included.
[[nodiscard]] nlohmann::ordered_json inspection_json(const Inspection& found);

}  // namespace sluice
