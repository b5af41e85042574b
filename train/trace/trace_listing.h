#pragma once
// The routing traces of a folder, by name and size; none is opened.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/trace/trace.h"

namespace sluice {

struct ListedTrace {
  std::filesystem::path path;
  TraceKind kind = TraceKind::training;
  int64_t step = 0;  // see TraceMeta
  int64_t bytes = 0;
};

/// Training steps, then evaluations, each in order; empty for a folder that is no folder of traces:
/// one with a checkpoint or a recipe in it is a run's.
[[nodiscard]] std::vector<ListedTrace> list_traces(const std::filesystem::path& folder);

/// A line per trace.
[[nodiscard]] std::string traces_text(const std::filesystem::path& folder,
                                      const std::vector<ListedTrace>& traces);
[[nodiscard]] nlohmann::ordered_json traces_json(const std::filesystem::path& folder,
                                                 const std::vector<ListedTrace>& traces);

}  // namespace sluice
