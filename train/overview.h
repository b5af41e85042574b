#pragma once
// What a run knew before its first step, kept in its folder (overview.json) for those who look at it
// later: the machine, the model's size, what the plan predicted.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/environment.h"
#include "train/parameter_count.h"
#include "train/reporter.h"

namespace sluice {

struct SavedOverview {
  struct Domain {
    std::string name;
    int64_t documents = 0;
    int64_t tokens = 0;  // of training text
    int64_t bytes = 0;
  };
  struct Memory {
    std::string kind;  // see MemoryKind
    int64_t bytes = 0;
  };
  std::string version;     // of the program
  Machine machine;         // the one that ran last
  double gemm_peak = 0.0;  // FLOP/s
  ParameterCount parameters;
  std::string pattern;
  int64_t vocab_size = 0;
  int64_t sequence_length = 0;
  int64_t tokens_per_step = 0;
  int64_t micro_batch_tokens = 0;
  int64_t steps = 0;                     // of the whole run
  double flops_per_token = 0.0;          // forward and backward
  std::vector<Memory> predicted_memory;  // at the peak of a step
  std::vector<Domain> domains;

  /// Of predicted_memory; 0 when it was not predicted.
  [[nodiscard]] int64_t predicted_bytes() const;
};

[[nodiscard]] SavedOverview saved(const RunOverview& overview);
[[nodiscard]] std::string to_json_text(const SavedOverview& overview);

/// nullopt without such a file. Keys that are missing keep their defaults. Throws DataError for a
/// file that is no JSON object of these keys.
[[nodiscard]] std::optional<SavedOverview> read_overview(const std::filesystem::path& path);

}  // namespace sluice
