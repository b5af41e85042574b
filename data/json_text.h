#pragma once
// JSON from strangers: one value, bounded in depth, without a name given twice.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "autograd/support/file.h"

namespace sluice {

/// Deepest nesting that is read; no format here needs more than six levels.
inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonBytes = int64_t{1} << 28;

/// Raises, with `name` in front where there is one, for what is no JSON, nests deeper than
/// kMaxJsonDepth, or gives a name twice in one object (which readers settle differently).
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& name,
                                        RaiseError raise);

/// The same of a file of at most `max_bytes`, in which the bare words Infinity, -Infinity and NaN,
/// which Python writes, stand for texts of that name.
[[nodiscard]] nlohmann::json read_json_file(const std::filesystem::path& path, RaiseError raise,
                                            int64_t max_bytes = kMaxJsonBytes);

}  // namespace sluice
