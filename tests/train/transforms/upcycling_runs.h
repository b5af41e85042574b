#pragma once
// A dense model trained for a few steps, and runs that are upcycled from it.

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice::testing {

inline constexpr int64_t kDenseSteps = 3;

/// The checkpoint of `recipe` after `steps`, written to `path`.
inline Checkpoint trained_checkpoint(const Recipe& recipe, int64_t steps, const std::string& path) {
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  for (int64_t i = 0; i < steps; ++i) (void)run.step();
  Checkpoint checkpoint = run.checkpoint(std::nullopt);
  write_checkpoint(real_file_system(), path, checkpoint);
  return checkpoint;
}

/// The checkpoint of a trained dense model, in a folder of its own.
class Dense {
 public:
  explicit Dense(const std::string& dtype = "f32", std::string_view changes = {})
      : dtype_(dtype), path_((folder_ / "dense.h5").string()) {
    const Recipe recipe = tiny_dense_recipe(
        fmt::format("model: {{dtype: {}, init: {{std: 0.2}}}}\n{}", dtype, changes));
    checkpoint_ = trained_checkpoint(recipe, kDenseSteps, path_);
  }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] const ScratchFolder& folder() const { return folder_; }

  /// The file of this model trained on for some steps more, with `changes` to the recipe.
  [[nodiscard]] std::string branch(const std::string& name, int64_t steps,
                                   std::string_view changes = {}) const {
    const std::string path = (folder_ / (name + ".h5")).string();
    const Recipe recipe = tiny_dense_recipe(
        fmt::format("model: {{dtype: {}, init: {{std: 0.2}}}}\ntrain: {{init_from: \"{}\"}}\n{}",
                    dtype_, path_, changes));
    (void)trained_checkpoint(recipe, steps, path);
    return path;
  }

 private:
  ScratchFolder folder_;
  std::string dtype_;
  std::string path_;
  Checkpoint checkpoint_;
};

struct Setting {
  std::string experts;       // settings of model.experts
  std::string upcycle = "";  // settings of upcycle beside from
  std::string dtype = "f32";
  std::string more = "";   // sections beside these
  std::string model = "";  // settings of model beside the experts
};

inline Recipe recipe_of(const std::string& from, const Setting& plan) {
  return tiny_recipe(
      fmt::format("model: {{dtype: {}, init: {{std: 0.2}}, experts: {{{}}}, {}}}\n"
                  "upcycle: {{from: \"{}\", {}}}\n{}",
                  plan.dtype, plan.experts, plan.model, from, plan.upcycle, plan.more));
}
inline Recipe recipe_of(const Dense& dense, const Setting& plan) {
  return recipe_of(dense.path(), plan);
}

inline sluice::Run make_run(const Recipe& recipe) {
  static SingleRank communicator;
  return sluice::Run(recipe, communicator);
}

/// The receipt of a new run.
inline UpcyclingReceipt receipt_of(const std::string& from, const Setting& plan) {
  const sluice::Run run = make_run(recipe_of(from, plan));
  EXPECT_TRUE(run.upcycling() && run.upcycling()->parity);
  return *run.upcycling();
}
inline UpcyclingReceipt receipt_of(const Dense& dense, const Setting& plan) {
  return receipt_of(dense.path(), plan);
}

/// "branches: [{from: a}, {from: b}]"
inline std::string branches_of(std::initializer_list<std::string> files) {
  std::string list;
  for (const std::string& file : files) list += fmt::format("{{from: \"{}\"}}, ", file);
  return fmt::format("branches: [{}]", list);
}

/// One element of an array.
template <class T>
[[nodiscard]] double element(const StateArray& array, size_t i) {
  return static_cast<double>(array.values<T>()[i]);
}

}  // namespace sluice::testing
