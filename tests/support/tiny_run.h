#pragma once
// Recipes and runs of a few hundred parameters on made-up text, for the tests of training.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/reporter.h"
#include "train/run.h"

namespace sluice::testing {

/// A model of two expert layers (4 experts, top-2) on made-up documents of 5 to 90 tokens in two
/// domains: 8 steps of 4 sequences of 32 tokens, balanced by loss_free_bias. `changes` are YAML on
/// top of it: "train: {steps: 4}".
[[nodiscard]] Recipe tiny_recipe(std::string_view changes = {});
/// The same with dense feed-forwards and no balancing.
[[nodiscard]] Recipe tiny_dense_recipe(std::string_view changes = {});
/// The text behind tiny_recipe(), for tests of the program.
[[nodiscard]] std::string tiny_recipe_text();

/// Every array of the run, as a checkpoint holds it, without the seconds it took.
[[nodiscard]] StateDict state_of(Run& run);
/// The arrays of `a` and `b` that differ or stand in one of them only.
[[nodiscard]] std::vector<std::string> differing_arrays(const StateDict& a, const StateDict& b);

/// Remembers what a trainer reports.
class RecordingReporter final : public Reporter {
 public:
  void note(std::string_view sentence) override { notes.emplace_back(sentence); }
  void started(const RunOverview& overview) override { first_step = overview.first_step; }
  void finished(const RunSummary& result) override { summary = result; }

  std::vector<std::string> notes;
  std::optional<int64_t> first_step;
  std::optional<RunSummary> summary;
};

}  // namespace sluice::testing
