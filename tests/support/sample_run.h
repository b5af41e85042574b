#pragma once
// The folder of a run that looks trained, made of formulas in no time: everything that a report can
// show is in it.

#include <filesystem>
#include <string>

namespace sluice::testing {

struct SampleRun {
  int layers = 4;
  int experts = 8;
  int records = 50;  // every 10 steps
};

/// Writes metrics.jsonl, routing.jsonl, overview.json and recipe.yaml. Deterministic. `domain` names
/// the first of three domains, and an alarm.
void write_sample_run(const std::filesystem::path& folder, const std::string& domain = "prose",
                      const SampleRun& size = {});

}  // namespace sluice::testing
