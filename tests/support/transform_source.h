#pragma once
// A tiny trained model on disk, and what transformations make of it.

#include <string>
#include <string_view>

#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/find_checkpoint.h"
#include "train/transforms/transform.h"
#include "train/yaml_reader.h"

namespace sluice::testing {

/// The checkpoint of tiny_checkpoint(), in a file of its own.
class TransformSource {
 public:
  explicit TransformSource(std::string_view changes = {}, int64_t steps = 2)
      : TransformSource(tiny_checkpoint(changes, steps)) {}
  explicit TransformSource(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {
    write_checkpoint(real_file_system(), path(), checkpoint_);
  }

  [[nodiscard]] std::string path() const { return (folder_ / "model.h5").string(); }
  [[nodiscard]] const ScratchFolder& folder() const { return folder_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }

  /// `settings` are YAML beside `from`: "method: {type: prune, num_experts: 2}".
  [[nodiscard]] TransformConfig config(const std::string& settings) const {
    TransformConfig config;
    read_or_throw(config, parse_yaml(fmt::format("from: \"{}\"\ncalibration: {{tokens: 512}}\n{}",
                                                 path(), settings),
                                     "transform.yaml"));
    return config;
  }
  [[nodiscard]] Transformed made(const std::string& settings) const {
    const TransformConfig read = config(settings);
    return Transformation(read).run(read.method.front(), read.seeds.front());
  }

 private:
  ScratchFolder folder_;
  Checkpoint checkpoint_;
};

/// What methods are given, on a text of the caller's.
struct TransformInputs {
  Checkpoint checkpoint;
  TrainedModel model = build_trained_model(checkpoint, "tiny.h5");
  Progress progress = progress_of(model.recipe, model.meta);
  std::vector<ExpertLayer> layers = expert_layers(model.recipe, progress, "tiny.h5");
  Dataset data =
      load_dataset(model.recipe.data, static_cast<uint64_t>(model.recipe.seed), model.tokenizer);

  [[nodiscard]] std::vector<LayerStatistics> watch(std::span<const Batch> text) {
    return calibrate(model, layers, text, progress, {.outputs = true});
  }
  [[nodiscard]] TransformInput on(std::span<const Batch> text,
                                  std::span<const LayerStatistics> statistics) {
    return {model, checkpoint.state, layers, statistics, text, progress, 1};
  }
  /// Training text in batches of `tokens` tokens.
  [[nodiscard]] std::vector<Batch> text(int64_t tokens) const {
    CalibrationConfig config;
    config.tokens = tokens;
    return calibration_text(config, 3, model.recipe, data);
  }
};

/// The elements of an f64 array.
[[nodiscard]] inline std::vector<double> doubles_in(const StateDict& state,
                                                    const std::string& path) {
  const auto values = state.at(path).values<double>();
  return {values.begin(), values.end()};
}
/// Them, to be changed.
[[nodiscard]] inline std::span<double> doubles_of(StateDict& state, const std::string& path) {
  StateArray& array = state.at(path);
  return {reinterpret_cast<double*>(array.bytes.data()), array.values<double>().size()};
}

}  // namespace sluice::testing
