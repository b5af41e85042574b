#pragma once
// Records routes as they happen.
//
//   TraceWriter trace("runs/a/traces/step_00000012.h5", meta, tokens_of_a_micro_batch);
//   {
//     const RoutingWatch watch(session, trace);
//     ... a training step, or an evaluation ...
//   }
//   trace.finish();
//
// Micro-batches go to the file one by one, so memory does not grow with the length of a pass. Until
// finish() the file has a temporary name, and a writer that is destroyed before leaves nothing.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "autograd/support/file.h"
#include "autograd/support/hdf5.h"
#include "layers/routing.h"
#include "train/trace/trace.h"

namespace sluice {

class TraceWriter final : public RoutingObserver {
 public:
  /// `tokens_hint`: about how many tokens come at a time; sizes the chunks of the file. Throws
  /// ConfigError for a layer that the model does not have, DataError when the file cannot be
  /// written.
  TraceWriter(const std::filesystem::path& path, TraceMeta meta, int64_t tokens_hint,
              FileSystem& files = real_file_system());

  void observe(const RoutingObservation& observation) override;
  /// Closes the file and gives it its name.
  void finish();

 private:
  /// One recorded layer.
  struct Layer {
    int64_t number = 0;
    bool has_tables = false;
    bool has_dropped = false;
    bool has_plan = false;
    bool shifted = false;
    int64_t top_k = 0;
    int64_t width = 0;
    int64_t plan_size = 0;
    int64_t micro_batches = 0;
  };
  void write_meta();
  void create_tables();
  void write_tokens(const RoutingObservation& observation);
  void create_layer(Layer& layer, const RoutingObservation& observation);
  void write_experts(const Layer& layer, const Selection& selection);
  void write_weights(const Layer& layer, const RoutingObservation& observation);
  void write_dropped(Layer& layer, const Selection& selection);
  void write_plan(Layer& layer, const Selection& selection);

  TraceMeta meta_;
  int64_t tokens_hint_;
  PendingFile pending_;
  hdf5::File file_;
  std::vector<Layer> layers_;
  int64_t rows_ = 0;  // tokens of the micro-batches before this one
  int64_t rows_of_micro_batch_ = 0;
  int64_t sequences_of_micro_batch_ = 0;
  int64_t micro_batches_ = 0;
};

/// The empty slot in a file's numbers, by the number of experts.
[[nodiscard]] constexpr int32_t empty_slot(int64_t experts) { return experts < 255 ? 255 : 65535; }

}  // namespace sluice
