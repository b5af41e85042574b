#pragma once
// A micro-batch as an expert layer shows it to a balancer, from given logits; the choice is the
// layers' own top-k.

#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "autograd/core/tape.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/softmax.h"
#include "balance/make.h"
#include "layers/routers/choose.h"
#include "layers/routing.h"
#include "tests/support/set_fields.h"

namespace sluice::testing {

/// Sequences of the given lengths, every token counted.
[[nodiscard]] inline SequenceLayout layout_of(const std::vector<int64_t>& lengths) {
  SequenceLayout layout;
  layout.sequence_offsets = {0};
  for (const int64_t length : lengths) {
    layout.sequence_offsets.push_back(layout.sequence_offsets.back() + length);
    layout.global_samples.push_back(layout.global_samples.size());
    layout.document_domains.push_back(0);
  }
  layout.document_offsets = layout.sequence_offsets;
  layout.counted.assign(static_cast<size_t>(layout.tokens()), 1);
  return layout;
}

enum class ScoreFunction : uint8_t { softmax, sigmoid, identity };

struct RoutedBatchOptions {
  int64_t top_k = 1;
  ScoreFunction scores = ScoreFunction::softmax;
  int64_t valid_tokens = 0;      // 0: those of this batch
  int64_t global_sequences = 0;  // 0: those of this batch
  bool training = true;
  Progress progress = {};
  const LayerLoad* step_load = nullptr;
  double noise_scale = 0.0;  // above 0: as of a router whose noise of this scale drew 0
};

class RoutedBatch {
 public:
  /// `logits` [N, E], on the tape or not.
  RoutedBatch(Tape& tape, const Tensor& logits, SequenceLayout layout, RoutedBatchOptions options)
      : layout_(std::move(layout)), options_(options) {
    fill_in_counts();
    scores_.logits = logits;
    if (options_.noise_scale > 0.0) {
      scores_.clean_logits = logits;
      scores_.noise_scale =
          add_constant(tape, tape.zeros(logits.shape(), logits.dtype()), options_.noise_scale);
    }
    switch (options_.scores) {
      case ScoreFunction::softmax:
        scores_.scores = scores_.probabilities = softmax(tape, logits);
        break;
      case ScoreFunction::sigmoid:
        scores_.scores = sigmoid(tape, logits);
        scores_.probabilities = normalise_rows(tape, scores_.scores, 0.0);
        break;
      case ScoreFunction::identity:
        scores_.scores = scores_.probabilities = logits;
        break;
    }
  }
  /// What a router computed; options.scores is not read.
  RoutedBatch(RouterScores scores, SequenceLayout layout, RoutedBatchOptions options)
      : scores_(std::move(scores)), layout_(std::move(layout)), options_(options) {
    fill_in_counts();
  }
  RoutedBatch(const RoutedBatch&) = delete;
  RoutedBatch& operator=(const RoutedBatch&) = delete;

  [[nodiscard]] RouterInput input() const {
    return {scores_,
            layout_,
            options_.top_k,
            options_.progress,
            options_.valid_tokens,
            options_.global_sequences,
            options_.training,
            choose_,
            options_.step_load};
  }
  [[nodiscard]] Selection route(Balancer& balancer) const {
    Selection selection;
    balancer.route(input(), selection);
    selection.count_load(layout_.counted);
    return selection;
  }
  /// The losses that the balancer adds, all kinds together; undefined when it adds none.
  [[nodiscard]] Tensor loss(Tape& tape, Balancer& balancer, const Selection& selection,
                            const LayerLoad* global_load = nullptr) const {
    std::vector<AuxiliaryLoss> losses;
    balancer.add_losses(tape, input(), selection, global_load, losses);
    Tensor total;
    for (const AuxiliaryLoss& loss : losses) {
      total = total.defined() ? add(tape, total, loss.value) : loss.value;
    }
    return total;
  }
  [[nodiscard]] const SequenceLayout& layout() const { return layout_; }
  [[nodiscard]] const RouterScores& router() const { return scores_; }

 private:
  void fill_in_counts() {
    if (options_.valid_tokens == 0) options_.valid_tokens = layout_.counted_tokens();
    if (options_.global_sequences == 0) options_.global_sequences = layout_.sequences();
  }

  struct Choose {
    const RoutedBatch& batch;
    void operator()(std::span<const double> shift, Selection& selection) const {
      choose_top_k(batch.scores_.scores, shift, batch.options_.top_k, selection);
    }
  };
  RouterScores scores_;
  SequenceLayout layout_;
  RoutedBatchOptions options_;
  Choose choose_{*this};
};

/// `{type: <type>, ...options}`.
[[nodiscard]] inline Tagged method(const std::string& type,
                                   const nlohmann::json& options = nlohmann::json::object()) {
  for (const Choice& choice : balance_choices()) {
    if (choice.name != type) continue;
    Tagged tagged{type, choice.make_config()};
    set_fields(*tagged.config, options);
    return tagged;
  }
  throw InternalError("no balancing method is named " + type);
}

[[nodiscard]] inline std::unique_ptr<Balancer> make_one(
    const std::string& type, int64_t experts,
    const nlohmann::json& options = nlohmann::json::object()) {
  const Tagged tagged = method(type, options);
  return make_balancer({&tagged, 1}, {.layer = 0, .experts = experts, .top_k = 1});
}

/// The load of a whole step with these counts and nothing dropped.
[[nodiscard]] inline LayerLoad load_of(std::vector<int64_t> counts, int64_t top_k = 1) {
  LayerLoad load;
  load.tokens = std::accumulate(counts.begin(), counts.end(), int64_t{0}) / top_k;
  load.counts = std::move(counts);
  load.top_k = top_k;
  return load;
}

/// The load of one selection.
[[nodiscard]] inline LayerLoad load_of(const Selection& selection, const SequenceLayout& layout) {
  LayerLoad load;
  load.add(selection, layout.counted_tokens());
  return load;
}

[[nodiscard]] inline StateDict state_of(Balancer& balancer) {
  SaveVisitor visitor;
  balancer.visit_state(visitor);
  return visitor.take();
}

inline void load_state(Balancer& balancer, const StateDict& state) {
  LoadVisitor visitor(state, "test");
  balancer.visit_state(visitor);
  visitor.finish();
}

/// The numbers under `path` of a state.
[[nodiscard]] inline std::vector<double> numbers_of(const StateDict& state,
                                                    const std::string& path) {
  const auto values = state.at(path).values<double>();
  return {values.begin(), values.end()};
}

/// Fixture F1 of the worked examples: logits of 4 tokens for 4 experts, k = 2; the loads are
/// (3, 2, 2, 1).
[[nodiscard]] inline std::vector<double> f1_logits() {
  return {2.0, 1.0, 0.0, -1.0, 1.0, 2.0, 0.5, 0.0, 3.0, 0.0, 1.0, -1.0, 0.5, 0.0, 2.0, 1.0};
}

}  // namespace sluice::testing
