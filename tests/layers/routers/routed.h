#pragma once
// A router by its recipe name, and one pass of it over one sequence.

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/core/gradcheck.h"
#include "autograd/ops/elementwise.h"
#include "layers/attention_map.h"
#include "layers/router.h"
#include "tests/support/set_fields.h"

namespace sluice::testing {

/// The page prints six digits.
inline constexpr double kPrinted = 6e-7;

/// What a pass is besides its input.
struct PassOptions {
  bool training = false;
  Progress progress = {};
  uint64_t seed = 0;
  std::vector<int32_t> token_ids = {};  // 0, 1, 2, ... when empty
  std::vector<double> shift = {};
  /// Of decoding: what the router keeps, and the tokens before this input.
  FeedForwardState* memory = nullptr;
  int64_t earlier = 0;
};

struct Routed {
  Selection selection;
  RouterScores scores;
  std::vector<double> weights;  // [N, k]
};

inline std::vector<double> numbers(const Tensor& x) {
  return dispatch_float(x.dtype(), [&]<class T>() {
    const auto values = x.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

class RouterFixture : public ::testing::Test {
 protected:
  struct Setup {
    int64_t experts = 4;
    int64_t hidden_size = 0;  // 0: as many as experts
    int64_t top_k = 2;
    int64_t layer = 0;
    DType dtype = DType::f64;
    const Experts* weights_of = nullptr;
  };

  /// `{type: <type>, ...options}`.
  void make(const std::string& type, const nlohmann::json& options, const Setup& shape) {
    const RouterEntry& entry = router_registry().at(type);
    const auto config = entry.make_config();
    set_fields(*config, options);
    reads_attention_ = dynamic_cast<const RouterConfig&>(*config).reads_attention();
    dtype_ = shape.dtype;
    width_ = shape.hidden_size == 0 ? shape.experts : shape.hidden_size;
    router_ = entry.make(Builder(pool_, shape.dtype, 1, init_, 1).child("router"),
                         {.hidden_size = width_,
                          .num_experts = shape.experts,
                          .layer = shape.layer,
                          .top_k = shape.top_k,
                          .experts = shape.weights_of},
                         *config);
    for (Parameter* parameter : router_->parameters()) parameter->zero_grad(pool_);
  }
  void make(const std::string& type, const nlohmann::json& options = nlohmann::json::object()) {
    make(type, options, Setup{});
  }

  [[nodiscard]] Parameter& parameter(const std::string& name) {
    for (Parameter* parameter : router_->parameters()) {
      if (parameter->name == "router." + name) return *parameter;
    }
    throw InternalError("no parameter " + name);
  }
  void set(const std::string& name, const std::vector<double>& values) {
    Tensor& value = parameter(name).value;
    value.copy_from(Tensor::of<double>(pool_, value.shape(), values));
  }
  /// A router whose weight is the identity (and 0 past it): the input is the logits.
  void make_of_logits(const std::string& type, const nlohmann::json& options, const Setup& shape) {
    make(type, options, shape);
    set_identity();
  }
  void make_of_logits(const std::string& type,
                      const nlohmann::json& options = nlohmann::json::object()) {
    make_of_logits(type, options, Setup{});
  }
  void set_identity() {
    Tensor& weight = parameter("weight").value;
    weight.fill_zero();
    for (int64_t e = 0; e < std::min(weight.dim(0), weight.dim(1)); ++e) {
      weight.data<double>()[e * weight.dim(1) + e] = 1.0;
    }
  }

  [[nodiscard]] Tensor rows(const std::vector<double>& values, int64_t width) {
    return Tensor::of<double>(pool_, {static_cast<int64_t>(values.size()) / width, width}, values);
  }
  /// Random numbers of the size of logits.
  [[nodiscard]] Tensor random_rows(int64_t tokens, int64_t width, uint64_t seed = 1) {
    return SampleFactory(pool_, DType::f64, seed).uniform({tokens, width}, -2.0, 2.0);
  }
  /// Fixture F1 of the worked examples.
  [[nodiscard]] Tensor f1() {
    return rows({2.0, 1.0, 0.0, -1.0, 1.0, 2.0, 0.5, 0.0, 3.0, 0.0, 1.0, -1.0, 0.5, 0.0, 2.0, 1.0},
                4);
  }
  /// Logits whose softmax has these ratios.
  [[nodiscard]] Tensor logarithms(std::vector<double> values, int64_t width) {
    for (double& value : values) value = std::log(value);
    return rows(values, width);
  }

  [[nodiscard]] Routed route(const Tensor& x, int64_t k, const PassOptions& options = {}) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    return route_on(tape, x, k, options);
  }

  [[nodiscard]] Routed route_on(Tape& tape, const Tensor& x, int64_t k,
                                const PassOptions& options = {}) {
    prepare(x.dim(0), options);
    const ForwardContext context = context_of(tape, options);
    Routed result;
    result.scores = router_->score(context, x);
    {
      const NoGrad no_grad(tape);
      router_->choose(context, result.scores, options.shift, k, result.selection);
    }
    result.selection.count_load(layout_.counted);
    last_weights_ = router_->combine_weights(context, result.scores, result.selection);
    if (last_weights_.has_memory()) result.weights = numbers(last_weights_);
    return result;
  }

  /// Differences against the tape, from x to the combine weights and the probabilities.
  void expect_gradient(const Tensor& x, int64_t k, const PassOptions& options = {}) {
    const OpSample sample = {
        .label = "router",
        .inputs = {x},
        .differentiable = {true},
        .apply = [&](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
          const Routed routed = route_on(tape, in[0], k, options);
          return {last_weights_, routed.scores.probabilities};
        }};
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << report.message;
  }

  /// d <grad, weights> / dx of x, `grad` [N, k] arriving at the combine weights.
  [[nodiscard]] std::vector<double> gradient(const Tensor& x, int64_t k,
                                             const std::vector<double>& grad,
                                             const PassOptions& options = {}) {
    Tape tape(pool_);
    const Tensor input = tape.input(x);
    (void)route_on(tape, input, k, options);
    const Tensor outputs[] = {last_weights_};
    const Tensor grads[] = {Tensor::of<double>(pool_, last_weights_.shape(), grad)};
    tape.backward(outputs, grads);
    const Tensor result = tape.gradient(input);
    return result.defined() ? numbers(result)
                            : std::vector<double>(static_cast<size_t>(x.numel()), 0.0);
  }

  void prepare(int64_t tokens, const PassOptions& options) {
    if (layout_.sequences() == 0 || layout_.tokens() != tokens)
      layout_ = SequenceLayout::single(pool_, tokens);
    ids_ = options.token_ids;
    if (ids_.empty()) {
      for (int32_t t = 0; t < tokens; ++t) ids_.push_back(t);
    }
    if (reads_attention_ && !attention_is_given_) {
      attention_ = {waves(options.earlier, options.earlier + tokens, 4, 1.3),
                    waves(0, options.earlier + tokens, 2, 2.1), 0.7};
    }
  }
  /// The attention that a router reads, instead of one that is made up.
  void give_attention(const AttentionMap& map) {
    attention_ = map;
    attention_is_given_ = true;
  }
  /// [end - begin, heads, 3]: queries or keys of these tokens, whatever the others.
  [[nodiscard]] Tensor waves(int64_t begin, int64_t end, int64_t heads, double frequency) {
    const int64_t width = heads * 3;
    Tensor rows = Tensor::empty(pool_, {end - begin, heads, 3}, dtype_);
    dispatch_float(dtype_, [&]<class T>() {
      for (int64_t i = 0; i < rows.numel(); ++i) {
        rows.data<T>()[i] =
            static_cast<T>(2.0 * std::sin(frequency * static_cast<double>(begin * width + i)));
      }
    });
    return rows;
  }
  [[nodiscard]] ForwardContext context_of(Tape& tape, const PassOptions& options) const {
    return {.tape = tape,
            .layout = layout_,
            .training = options.training,
            .seed = options.seed,
            .progress = options.progress,
            .valid_tokens = std::max<int64_t>(1, layout_.tokens()),
            .token_ids = ids_,
            .attention = reads_attention_ ? &attention_ : nullptr,
            .memory = options.memory};
  }

  Pool pool_;
  InitConfig init_;
  SequenceLayout layout_;
  std::vector<int32_t> ids_;
  std::unique_ptr<Router> router_;
  int64_t width_ = 0;
  DType dtype_ = DType::f64;
  bool reads_attention_ = false;
  bool attention_is_given_ = false;
  AttentionMap attention_;
  Tensor last_weights_;
};

}  // namespace sluice::testing
