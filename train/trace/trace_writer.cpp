#include "train/trace/trace_writer.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "autograd/core/tensor.h"
#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<DataError>;
constexpr int64_t kLargestSmallVocabulary = 65536;

template <Element To, class From>
void append(hdf5::File& file, const std::string& path, int64_t width,
            std::span<const From> values) {
  std::vector<To> converted;
  converted.reserve(values.size());
  for (const From value : values) converted.push_back(static_cast<To>(value));
  file.append_rows<To>(path, width, converted);
}

/// [N, k] with kNoExpert as the file's empty slot.
template <Element To>
void append_experts(hdf5::File& file, const std::string& path, int64_t width, int32_t empty,
                    std::span<const int32_t> experts) {
  std::vector<To> converted;
  converted.reserve(experts.size());
  for (const int32_t expert : experts) {
    converted.push_back(static_cast<To>(expert == kNoExpert ? empty : expert));
  }
  file.append_rows<To>(path, width, converted);
}

std::vector<int64_t> all_layers(size_t count) {
  std::vector<int64_t> layers(count);
  std::iota(layers.begin(), layers.end(), int64_t{0});
  return layers;
}

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path, TraceMeta meta, int64_t tokens_hint,
                         FileSystem& files)
    : meta_(std::move(meta)),
      tokens_hint_(tokens_hint),
      pending_(files, path, kRaise),
      file_(hdf5::File::create(pending_.temporary(), kRaise, path.string())) {
  if (meta_.layers.empty()) meta_.layers = all_layers(meta_.experts.size());
  std::ranges::sort(meta_.layers);
  meta_.layers.erase(std::unique(meta_.layers.begin(), meta_.layers.end()), meta_.layers.end());
  for (const int64_t layer : meta_.layers) {
    SLUICE_CHECK(ConfigError, layer >= 0 && layer < std::ssize(meta_.experts),
                 "train.trace.layers: found {}, allowed 0 to {}, the model's expert layers", layer,
                 std::ssize(meta_.experts) - 1);
    SLUICE_CHECK(ConfigError, meta_.experts[static_cast<size_t>(layer)] <= 65535,
                 "train.trace: expert layer {} has {} experts, a trace holds at most 65535", layer,
                 meta_.experts[static_cast<size_t>(layer)]);
    layers_.push_back({.number = layer});
  }
  write_meta();
  create_tables();
}

void TraceWriter::write_meta() {
  file_.set_attribute("/", "sluice_trace", kTraceFormatVersion);
  file_.set_attribute("/", "kind", name_of(meta_.kind));
  file_.set_attribute("/", "step", meta_.step);
  file_.set_attribute("/", "vocab_size", meta_.vocab_size);
  file_.write<int64_t>("/meta/experts", {std::ssize(meta_.experts)}, meta_.experts);
  file_.write<int64_t>("/meta/layers", {std::ssize(meta_.layers)}, meta_.layers);
  file_.write_text("/meta/domains", fmt::format("{}", fmt::join(meta_.domains, "\n")));
  if (meta_.tokenizer_kind.empty()) return;
  const auto bytes =
      std::span(reinterpret_cast<const uint8_t*>(meta_.tokenizer.data()), meta_.tokenizer.size());
  file_.write<uint8_t>("/meta/tokenizer", {std::ssize(bytes)}, bytes);
  file_.set_attribute("/meta/tokenizer", "kind", meta_.tokenizer_kind);
}

void TraceWriter::create_tables() {
  const bool is_small = meta_.vocab_size <= kLargestSmallVocabulary;
  file_.create_table("/tokens/id", is_small ? ElementType::u16 : ElementType::u32, 0, tokens_hint_);
  file_.create_table("/tokens/counted", ElementType::u8, 0, tokens_hint_);
  // A sequence has dozens of tokens at least, a document a few.
  constexpr int64_t kTokensPerSequence = 32;
  const int64_t hint = std::max<int64_t>(tokens_hint_ / kTokensPerSequence, 1);
  file_.create_table("/sequences/end", ElementType::i64, 0, hint);
  file_.create_table("/sequences/sample", ElementType::u64, 0, hint);
  file_.create_table("/sequences/micro_batch", ElementType::u32, 0, hint);
  file_.create_table("/documents/end", ElementType::i64, 0, hint);
  file_.create_table("/documents/domain", ElementType::u16, 0, hint);
}

void TraceWriter::observe(const RoutingObservation& observation) {
  const auto found = std::ranges::find(layers_, observation.layer, &Layer::number);
  if (found == layers_.end()) return;
  Layer& layer = *found;
  if (found == layers_.begin()) write_tokens(observation);
  const Selection& selection = observation.selection;
  SLUICE_INTERNAL_CHECK(
      layer.micro_batches + 1 == micro_batches_ && selection.tokens == rows_of_micro_batch_,
      "expert layer {}: routes of {} tokens in micro-batch {}, the first recorded layer has {} in "
      "micro-batch {}",
      layer.number, selection.tokens, layer.micro_batches, rows_of_micro_batch_,
      micro_batches_ - 1);
  ++layer.micro_batches;
  if (!layer.has_tables) create_layer(layer, observation);
  layer.width = std::max(layer.width, selection.top_k);
  layer.shifted = layer.shifted || selection.shifted;
  write_experts(layer, selection);
  write_weights(layer, observation);
  write_dropped(layer, selection);
  write_plan(layer, selection);
  const std::vector<uint16_t> slots(static_cast<size_t>(sequences_of_micro_batch_),
                                    static_cast<uint16_t>(selection.top_k));
  file_.append_rows<uint16_t>(layer_path(layer.number, "slots"), 0, slots);
}

/// What the layers of a micro-batch share, written when the first of them comes.
void TraceWriter::write_tokens(const RoutingObservation& observation) {
  const SequenceLayout& layout = observation.layout;
  rows_ += rows_of_micro_batch_;
  rows_of_micro_batch_ = layout.tokens();
  sequences_of_micro_batch_ = layout.sequences();
  SLUICE_INTERNAL_CHECK(std::ssize(observation.token_ids) == layout.tokens(),
                        "{} token ids for {} tokens", observation.token_ids.size(),
                        layout.tokens());
  if (meta_.vocab_size <= kLargestSmallVocabulary) {
    append<uint16_t>(file_, "/tokens/id", 0, observation.token_ids);
  } else {
    append<uint32_t>(file_, "/tokens/id", 0, observation.token_ids);
  }
  file_.append_rows<uint8_t>("/tokens/counted", 0, layout.counted);
  const auto ends = [&](const std::vector<int64_t>& offsets) {
    std::vector<int64_t> result;
    for (size_t i = 1; i < offsets.size(); ++i) result.push_back(rows_ + offsets[i]);
    return result;
  };
  file_.append_rows<int64_t>("/sequences/end", 0, ends(layout.sequence_offsets));
  file_.append_rows<uint64_t>("/sequences/sample", 0, layout.global_samples);
  file_.append_rows<uint32_t>(
      "/sequences/micro_batch", 0,
      std::vector<uint32_t>(layout.global_samples.size(), static_cast<uint32_t>(micro_batches_)));
  file_.append_rows<int64_t>("/documents/end", 0, ends(layout.document_offsets));
  append<uint16_t, int32_t>(file_, "/documents/domain", 0, layout.document_domains);
  ++micro_batches_;
}

void TraceWriter::create_layer(Layer& layer, const RoutingObservation& observation) {
  const int64_t experts = meta_.experts[static_cast<size_t>(layer.number)];
  const int32_t empty = empty_slot(experts);
  layer.has_tables = true;
  layer.top_k = observation.top_k;
  layer.width = std::max<int64_t>(observation.selection.top_k, 1);
  file_.create_table(layer_path(layer.number, "expert"),
                     empty == 255 ? ElementType::u8 : ElementType::u16, layer.width, tokens_hint_,
                     empty);
  file_.create_table(layer_path(layer.number, "weight"), ElementType::f32, layer.width,
                     tokens_hint_);
  file_.create_table(layer_path(layer.number, "slots"), ElementType::u16, 0,
                     std::max<int64_t>(sequences_of_micro_batch_, 1));
}

void TraceWriter::write_experts(const Layer& layer, const Selection& selection) {
  const std::string path = layer_path(layer.number, "expert");
  const int32_t empty = empty_slot(meta_.experts[static_cast<size_t>(layer.number)]);
  if (empty == 255) {
    append_experts<uint8_t>(file_, path, selection.top_k, empty, selection.expert);
  } else {
    append_experts<uint16_t>(file_, path, selection.top_k, empty, selection.expert);
  }
}

void TraceWriter::write_weights(const Layer& layer, const RoutingObservation& observation) {
  dispatch_float(observation.weights.dtype(), [&]<class T>() {
    append<float>(file_, layer_path(layer.number, "weight"), observation.selection.top_k,
                  std::span<const T>(observation.weights.span<T>()));
  });
}

void TraceWriter::write_dropped(Layer& layer, const Selection& selection) {
  std::vector<uint8_t> dropped(selection.expert.size(), 0);
  for (size_t slot = 0; slot < selection.dispatched.size(); ++slot) {
    dropped[slot] = selection.dispatched[slot] != selection.expert[slot] ? 1 : 0;
  }
  const std::string path = layer_path(layer.number, "dropped");
  if (!layer.has_dropped) {
    if (std::ranges::find(dropped, 1) == dropped.end()) return;
    layer.has_dropped = true;
    file_.create_table(path, ElementType::u8, layer.width, tokens_hint_);
    const std::vector<uint8_t> none(static_cast<size_t>(rows_ * layer.width), 0);
    file_.append_rows<uint8_t>(path, layer.width, none);
  }
  file_.append_rows<uint8_t>(path, selection.top_k, dropped);
}

void TraceWriter::write_plan(Layer& layer, const Selection& selection) {
  const std::string path = layer_path(layer.number, "plan");
  const std::string ends = layer_path(layer.number, "plan_end");
  if (!layer.has_plan) {
    if (selection.plan.empty()) return;
    layer.has_plan = true;
    file_.create_table(path, ElementType::f64, 0, std::ssize(selection.plan));
    file_.create_table(ends, ElementType::i64, 0, 64);
    // Micro-batches before had none.
    const std::vector<int64_t> none(static_cast<size_t>(layer.micro_batches - 1), 0);
    file_.append_rows<int64_t>(ends, 0, none);
  }
  layer.plan_size += std::ssize(selection.plan);
  file_.append_rows<double>(path, 0, selection.plan);
  file_.append_rows<int64_t>(ends, 0, std::span<const int64_t>(&layer.plan_size, 1));
}

void TraceWriter::finish() {
  SLUICE_CHECK(DataError, micro_batches_ > 0, "{}: no token was routed, so there is no trace",
               pending_.path().string());
  for (const Layer& layer : layers_) {
    SLUICE_INTERNAL_CHECK(layer.micro_batches == micro_batches_,
                          "expert layer {} routed {} of {} micro-batches", layer.number,
                          layer.micro_batches, micro_batches_);
    file_.set_attribute(layer_path(layer.number, ""), "top_k", layer.top_k);
    file_.set_attribute(layer_path(layer.number, ""), "shifted", int64_t{layer.shifted ? 1 : 0});
  }
  file_.close();
  pending_.publish();
}

}  // namespace sluice
