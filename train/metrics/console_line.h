#pragma once
// The console's words for a record: pure text, no terminal.

#include <cstdint>
#include <string>
#include <string_view>

#include "train/metrics/metric.h"

namespace sluice {

struct ConsoleLineContext {
  int64_t total_steps = 0;    // 0: not known
  int64_t num_experts = 0;    // over all layers
  double eta_seconds = -1.0;  // negative: not known
};

/// "step 120/2000 | loss 4.8123 (+0.2z) | bal 1.013 z 0.004 | gnorm 0.91 | ..."; what the record
/// lacks is left out. Empty for a record without training metrics.
[[nodiscard]] std::string training_line(const Record& record, const ConsoleLineContext& context);

/// "step 120/2000 | eval loss 4.7031 | 2.412 bits/byte | code 3.91 prose 4.88"; empty for a record
/// without an evaluation.
[[nodiscard]] std::string evaluation_line(const Record& record, const ConsoleLineContext& context);

/// 12345 as "12,345".
[[nodiscard]] std::string with_thousands(int64_t number);
/// "42s", "27m", "3h05m", "2d04h".
[[nodiscard]] std::string duration_text(double seconds);
/// "[#####---------------]  25%" in `width` columns.
[[nodiscard]] std::string progress_bar(double fraction, int width);

}  // namespace sluice
