#include "train/trace/trace_replay.h"

#include <algorithm>
#include <array>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// The experts of the layers as they are, for messages: "4, 4".
std::string list(std::span<const int64_t> values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

}  // namespace

void ReplayConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kWeights = {"model", "recorded"};
  v.path({"from", "folder of training traces (train.trace of another run): <run>/traces", true},
         from);
  v.word({"weights",
          "combine weights: the model's own at the recorded experts, or the recorded ones, which "
          "give the router no gradient"},
         weights, kWeights);
  v.integers({"layers", "expert layers that are replayed, the others route; empty: all"}, layers,
             {.min = 0});
}

TraceReplay::TraceReplay(const std::filesystem::path& path, ReplayOptions options,
                         std::span<const int64_t> experts_per_layer)
    : trace_(path), options_(std::move(options)) {
  const TraceMeta& meta = trace_.meta();
  SLUICE_CHECK(ConfigError, std::ranges::equal(meta.experts, experts_per_layer),
               "{}: recorded from a model with {} expert layers of [{}] experts, this one has {} "
               "of [{}]",
               path.string(), meta.experts.size(), list(meta.experts), experts_per_layer.size(),
               list(experts_per_layer));
  if (options_.layers.empty()) {
    for (int64_t layer = 0; layer < std::ssize(experts_per_layer); ++layer) {
      options_.layers.push_back(layer);
    }
  }
  for (const int64_t layer : options_.layers) {
    SLUICE_CHECK(ConfigError, trace_.has(layer),
                 "{}: holds no routes of expert layer {}, only of [{}]; name those to replay in "
                 "train.replay.layers",
                 path.string(), layer, list(meta.layers));
  }
}

bool TraceReplay::choose(const RouteRequest& request, Selection& selection) {
  if (std::ranges::find(options_.layers, request.layer) == options_.layers.end()) return false;
  const TraceFile::Layer& layer = trace_.layer(request.layer);
  SLUICE_CHECK(ConfigError, layer.top_k == request.top_k,
               "{}: expert layer {} was recorded with top_k {}, it has {} here",
               trace_.path().string(), request.layer, layer.top_k, request.top_k);
  const std::vector<int64_t> sequences = find_sequences(request);
  check_tokens(request, sequences);
  selection.tokens = request.layout.tokens();
  selection.experts = request.experts;
  selection.shifted = layer.shifted;
  fill(layer, sequences, selection);
  if (!layer.has_plan || options_.recorded_weights) return true;
  const auto micro_batch = same_micro_batch(sequences);
  SLUICE_CHECK(
      ConfigError, micro_batch.has_value(),
      "{}: the balancing method made combine weights from each micro-batch as a whole, and "
      "the micro-batches are cut in another way here; give train.micro_batch its old value, "
      "or take train.replay.weights: recorded",
      trace_.path().string());
  selection.plan = trace_.plan(request.layer, *micro_batch);
  return true;
}

std::vector<int64_t> TraceReplay::find_sequences(const RouteRequest& request) const {
  std::vector<int64_t> found;
  for (const uint64_t sample : request.layout.global_samples) {
    const int64_t at = trace_.find(sample);
    SLUICE_CHECK(DataError, at >= 0,
                 "{}: sequence {} is not in it; it was recorded with another global batch or other "
                 "data",
                 trace_.path().string(), sample);
    found.push_back(at);
  }
  return found;
}

void TraceReplay::check_tokens(const RouteRequest& request,
                               std::span<const int64_t> sequences) const {
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto& recorded = trace_.sequences()[static_cast<size_t>(sequences[s])];
    const int64_t begin = request.layout.sequence_offsets[s];
    const auto here = request.token_ids.subspan(
        static_cast<size_t>(begin),
        static_cast<size_t>(request.layout.sequence_offsets[s + 1] - begin));
    const std::vector<int32_t> there = trace_.token_ids(recorded.begin, recorded.end);
    SLUICE_CHECK(DataError, std::ranges::equal(here, there),
                 "{}: the tokens of sequence {} are others than here; it was recorded on other "
                 "data, with another tokenizer or another order",
                 trace_.path().string(), recorded.sample);
  }
}

void TraceReplay::fill(const TraceFile::Layer& layer, std::span<const int64_t> sequences,
                       Selection& selection) const {
  selection.top_k = 0;
  for (const int64_t s : sequences) {
    selection.top_k = std::max(selection.top_k, layer.slots[static_cast<size_t>(s)]);
  }
  // An empty micro-batch still has its k.
  if (sequences.empty()) selection.top_k = layer.top_k;
  const auto k = static_cast<size_t>(selection.top_k);
  const auto width = static_cast<size_t>(layer.width);
  const auto append = [&](auto& to, const auto& rows) {
    for (size_t row = 0; row + width <= rows.size(); row += width) {
      const auto first = rows.begin() + static_cast<std::ptrdiff_t>(row);
      to.insert(to.end(), first, first + static_cast<std::ptrdiff_t>(k));
    }
  };
  std::vector<uint8_t> dropped;
  for (const int64_t s : sequences) {
    const auto& sequence = trace_.sequences()[static_cast<size_t>(s)];
    append(selection.expert, trace_.experts(layer.number, sequence.begin, sequence.end));
    append(dropped, trace_.dropped(layer.number, sequence.begin, sequence.end));
    if (options_.recorded_weights) {
      append(selection.fixed_weights, trace_.weights(layer.number, sequence.begin, sequence.end));
    }
  }
  if (std::ranges::find(dropped, 1) == dropped.end()) return;
  selection.dispatched = selection.expert;
  for (size_t slot = 0; slot < dropped.size(); ++slot) {
    if (dropped[slot] != 0) selection.dispatched[slot] = kNoExpert;
  }
}

std::optional<int64_t> TraceReplay::same_micro_batch(std::span<const int64_t> sequences) const {
  if (sequences.empty()) return std::nullopt;
  const auto& all = trace_.sequences();
  const int64_t number = all[static_cast<size_t>(sequences.front())].micro_batch;
  std::vector<int64_t> recorded;
  for (int64_t i = 0; i < std::ssize(all); ++i) {
    if (all[static_cast<size_t>(i)].micro_batch == number) recorded.push_back(i);
  }
  if (!std::ranges::equal(recorded, sequences)) return std::nullopt;
  return number;
}

StepReplay::StepReplay(const ReplayConfig& config, std::vector<int64_t> experts_per_layer)
    : folder_(config.from),
      options_{.recorded_weights = config.weights == "recorded", .layers = config.layers},
      experts_per_layer_(std::move(experts_per_layer)) {}

void StepReplay::check_steps(int64_t first, int64_t last) const {
  for (int64_t step = first; step <= last; ++step) {
    const std::filesystem::path path = folder_.path_of(TraceKind::training, step);
    SLUICE_CHECK(ConfigError, std::filesystem::exists(path),
                 "train.replay.from: {} is missing, and the run takes steps {} to {}; record every "
                 "step (train.trace.every: 1), or shorten the run",
                 path.string(), first, last);
  }
}

std::unique_ptr<TraceReplay> StepReplay::open(int64_t step) const {
  return std::make_unique<TraceReplay>(folder_.path_of(TraceKind::training, step), options_,
                                       experts_per_layer_);
}

}  // namespace sluice
