#pragma once
// Files of one JSON object a line, as a run writes them: metrics.jsonl, routing.jsonl.
//
//   read_json_lines(run.metrics(), [&](const nlohmann::json& record) { ... });
//
// A last line without its newline is what a killed process was writing, and counts as not written.

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>

namespace sluice {

/// Calls `consume` with each line's object, in order, holding one line at a time in memory. Throws
/// DataError ("runs/a/metrics.jsonl:12: no JSON object (found ...); ...") for a line that is none,
/// and, with file and line before it, for any nlohmann::json::exception or DataError that `consume`
/// throws.
void read_json_lines(const std::filesystem::path& path,
                     const std::function<void(const nlohmann::json&)>& consume);

/// The last object that `wanted` accepts, found from the end; nullopt when there is none. Lines that
/// are no objects are passed over.
[[nodiscard]] std::optional<nlohmann::json> last_json_line(
    const std::filesystem::path& path, const std::function<bool(const nlohmann::json&)>& wanted);

}  // namespace sluice
