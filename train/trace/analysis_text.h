#pragma once
// The analysis of a routing trace for people, and for programs.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "train/trace/analysis.h"

namespace sluice {

/// Aligned tables, one per question.
[[nodiscard]] std::string analysis_text(const TraceAnalysis& analysis,
                                        const TraceAnalysisOptions& options);

/// The same facts under stable keys, co-activation counts and domain shares in full.
[[nodiscard]] nlohmann::ordered_json analysis_json(const TraceAnalysis& analysis,
                                                   const TraceAnalysisOptions& options);

}  // namespace sluice
