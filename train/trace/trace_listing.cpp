#include "train/trace/trace_listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "train/format.h"
#include "train/run_folder.h"
#include "train/trace/trace_file.h"

namespace sluice {

namespace fs = std::filesystem;

std::vector<ListedTrace> list_traces(const fs::path& folder) {
  if (!fs::is_directory(folder)) return {};
  const RunFolder run = RunFolder::open_for_reading(folder);
  if (fs::exists(run.recipe()) || fs::exists(run.checkpoints())) return {};
  const TraceFolder files(folder);
  std::vector<ListedTrace> traces;
  for (const TraceKind kind : {TraceKind::training, TraceKind::held_out}) {
    for (const int64_t step : files.steps(kind)) {
      const fs::path path = files.path_of(kind, step);
      // Checkpoints of steps have the same names.
      if (!looks_like_trace(path)) return {};
      std::error_code failed;
      const auto bytes = fs::file_size(path, failed);
      traces.push_back({path, kind, step, failed ? 0 : static_cast<int64_t>(bytes)});
    }
  }
  return traces;
}

std::string traces_text(const fs::path& folder, const std::vector<ListedTrace>& traces) {
  std::string out = fmt::format("{:<12}{}: {}; `sluice inspect FILE` shows one\n", "traces",
                                folder.string(), counted(std::ssize(traces), "routing trace"));
  for (const ListedTrace& trace : traces) {
    out += fmt::format("{:<12}{:<22}{:>11}  {}\n", "", trace.path.filename().string(),
                       in_bytes(static_cast<double>(trace.bytes)),
                       what_is_traced(trace.kind, trace.step));
  }
  return out;
}

nlohmann::ordered_json traces_json(const fs::path& folder, const std::vector<ListedTrace>& traces) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const ListedTrace& trace : traces) {
    files.push_back({{"path", trace.path.string()},
                     {"kind", name_of(trace.kind)},
                     {"step", trace.step},
                     {"bytes", trace.bytes}});
  }
  return {{"traces", {{"folder", folder.string()}, {"files", files}}}};
}

}  // namespace sluice
