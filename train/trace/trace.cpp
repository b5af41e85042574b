#include "train/trace/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/format.h"

namespace sluice {
namespace {

constexpr std::string_view kSuffix = ".h5";

std::string_view prefix_of(TraceKind kind) {
  return kind == TraceKind::training ? "step_" : "held_out_";
}

std::optional<int64_t> step_of(std::string_view name, TraceKind kind) {
  const std::string_view prefix = prefix_of(kind);
  if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  name.remove_suffix(kSuffix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return step;
}

}  // namespace

std::string_view name_of(TraceKind kind) {
  return kind == TraceKind::training ? "training" : "held_out";
}

std::string what_is_traced(TraceKind kind, int64_t step) {
  return fmt::format("{} step {}", kind == TraceKind::training ? "training" : "held-out text after",
                     with_commas(step));
}

std::string layer_path(int64_t layer, std::string_view name) {
  return name.empty() ? fmt::format("/layers/{}", layer)
                      : fmt::format("/layers/{}/{}", layer, name);
}

std::filesystem::path TraceFolder::path_of(TraceKind kind, int64_t step) const {
  return folder_ / fmt::format("{}{:08}{}", prefix_of(kind), step, kSuffix);
}

std::vector<int64_t> TraceFolder::steps(TraceKind kind) const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const auto step = step_of(entry.path().filename().string(), kind);
    if (step && entry.path() == path_of(kind, *step)) steps.push_back(*step);
  }
  std::ranges::sort(steps);
  return steps;
}

void TraceFolder::truncate_after(int64_t step) const {
  (void)remove_stale_temporaries(real_file_system(), folder_);
  for (const TraceKind kind : {TraceKind::training, TraceKind::held_out}) {
    for (const int64_t recorded : steps(kind)) {
      if (recorded <= step) continue;
      const std::filesystem::path path = path_of(kind, recorded);
      SLUICE_CHECK(DataError, real_file_system().remove(path.c_str()) == 0,
                   "{}: a trace of a later step than the checkpoint that the run goes on from "
                   "cannot be removed",
                   path.string());
    }
  }
}

}  // namespace sluice
