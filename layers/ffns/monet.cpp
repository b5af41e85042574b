// Monet, mixture of monosemantic experts (Park et al. 2024, arXiv 2412.04139): n^2 tiny experts of which
// a token uses a few hundred, for the parameters of 2 n, because expert (i, j) is put together from one
// half i and one half j.
//
//   weight of (i, j) = sum over heads h of g1_hi g2_hj
//   horizontal:  E_ij(x) = V_j a_i + b_j,   a_i = relu(U_i x + c_i)^2 [m]
//   vertical:    E_ij(x) = [V11_i a1_i + V12_i a2_j + b1_i ; V21_j a1_i + V22_j a2_j + b2_j],
//                a1_i = relu(U1_i x + c1_i)^2,  a2_j = relu(U2_j x + c2_j)^2 [m / 2]
//
// The sum over all n^2 experts is taken axis by axis (ops/factored_mix.h), so no expert is ever put
// together: with G1_i = sum_h g1_hi and mix(g, g'; a)_j = sum_h g'_hj sum_i g_hi a_i,
//
//   horizontal:  y = sum_j V_j mix(g1, g2; a)_j + sum_j G2_j b_j
//   vertical:    top = sum_i V11_i G1_i a1_i + sum_i V12_i mix(g2, g1; a2)_i + sum_i G1_i b1_i
//
// and the bottom alike. The router: z1 = x W1^T, z2 = x W2^T, each [H, n]; z^ standardises z per axis and
// head over tokens and entries (BatchNorm without an affine map); an entry stays where z^ is at least
// min(its head's largest, Phi^-1(1 - k / n)), which is k of n entries of normal logits; g = softmax over
// the z that stay, 0 elsewhere. One router serves the next `router_layers` - 1 layers too.
//
// z^ decides who stays and has no gradient. In training its mean and variance are those of the tokens with
// a loss of the micro-batch (a token's experts depend on its neighbours), in evaluation running ones:
// frozen parameters "router.mean" and "router.variance" [2 H], saved with the weights and moved once per
// applied step by the sums of the whole global batch (the paper: once per forward pass; ours).
//
// Losses, as recalled by the method page [R], with the means over the micro-batch's T tokens with a loss,
// weighed by T over those of the global batch:
//
//   uniformity = -1 / (2 H n) sum over axis, head, i of log mean_t g_hi
//   ambiguity  = mean over t, axis, head of (1 - max_i g_hi)
//
// where log takes mean + 1e-9, so that an entry that nobody used does not end the run (ours).
//
// Letters: N tokens, D hidden size, H heads, n entries of an axis, m neurons.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/factored_mix.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/normal_quantile.h"
#include "autograd/support/parallel.h"
#include "layers/linear.h"
#include "layers/model.h"

namespace sluice {
namespace {

constexpr double kVarianceEpsilon = 1e-5;  // as BatchNorm's default
constexpr double kLogEpsilon = 1e-9;
constexpr double kOutside = -1e9;  // added to logits that do not stay: their exponential is 0
constexpr int64_t kTokenBlock = 32;
constexpr std::string_view kFirstGates = "monet.first";
constexpr std::string_view kSecondGates = "monet.second";

/// `model.monet`, or a variant of this type.
struct MonetConfig final : Configurable {
  enum class Decomposition : uint8_t { vertical, horizontal };
  Decomposition decomposition = Decomposition::vertical;
  int64_t num_keys = 64;
  int64_t num_heads = 4;
  int64_t neurons = 8;
  double top_k = 4.0;
  int64_t router_layers = 4;
  double decay = 0.9;
  Scheduled uniformity = 1e-3;
  Scheduled ambiguity = 1e-3;

  void fields(FieldVisitor& v) override {
    v.enumeration(
        {"decomposition",
         "what the two halves of an expert are: vertical, halves of its neurons and of its "
         "output; horizontal, its layers"},
        decomposition,
        {{"vertical", Decomposition::vertical}, {"horizontal", Decomposition::horizontal}});
    v.integer({"num_keys", "entries n of one axis; there are n^2 experts"}, num_keys,
              {.min = 2, .max = 32768});
    v.integer({"num_heads", "heads H of the router"}, num_heads, {.min = 1});
    v.integer({"neurons", "hidden neurons m of one expert"}, neurons, {.min = 1});
    v.number({"top_k", "entries that a head keeps of an axis where its logits are normal"}, top_k,
             {.min = 0.0, .exclusive_min = true});
    v.integer({"router_layers", "consecutive layers of this section that use one router's choice"},
              router_layers, {.min = 1});
    v.number({"decay", "what the statistics of evaluation keep of themselves at each step"}, decay,
             {.min = 0.0, .max = 1.0});
    v.scheduled({"uniformity", "weight of the loss that asks for all entries alike"}, uniformity,
                {.min = 0.0});
    v.scheduled({"ambiguity", "weight of the loss that asks every head to be sure"}, ambiguity,
                {.min = 0.0});
  }
  [[nodiscard]] std::string check() const override {
    if (top_k >= static_cast<double>(num_keys)) {
      return fmt::format("top_k: found {}, allowed less than {} (num_keys)", top_k, num_keys);
    }
    if (decomposition == Decomposition::vertical && neurons % 2 != 0) {
      return fmt::format("neurons: found {}, allowed an even number with decomposition: vertical",
                         neurons);
    }
    return {};
  }
};

/// g1 and g2 [N, H, n]
struct Gates {
  Tensor first;
  Tensor second;
};

class MonetRouter final : public Module {
 public:
  MonetRouter(const Builder& b, int64_t hidden_size, const MonetConfig& config)
      : H_(config.num_heads),
        n_(config.num_keys),
        decay_(config.decay),
        quantile_(normal_quantile(1.0 - config.top_k / static_cast<double>(config.num_keys))),
        first_(child(std::make_unique<Linear>(b, LinearSpec{"first", hidden_size, H_ * n_}))),
        second_(child(std::make_unique<Linear>(b, LinearSpec{"second", hidden_size, H_ * n_}))),
        mean_(parameter(b, "mean", {2 * H_}, ParameterKind::norm, Init::zeros())),
        variance_(parameter(b, "variance", {2 * H_}, ParameterKind::norm, Init::ones())) {
    mean_.trainable = false;
    variance_.trainable = false;
  }

  /// Of every axis and head the sums of z and of z^2, then the number of tokens.
  [[nodiscard]] int64_t num_sums() const { return 4 * H_ + 1; }

  /// x [N, D]; adds to `sums` unless it is empty.
  [[nodiscard]] Gates gates(const ForwardContext& context, const Tensor& x,
                            std::span<double> sums) const {
    const TimedPhaseScope phase(context.tape, Phase::routing);
    const std::array<Tensor, 2> z = Linear::forward_joint<2>(context, x, {&first_, &second_});
    const std::array<Tensor, 2> offsets = offsets_of(context, z, sums);
    return {softmax_of(context.tape, z[0], offsets[0]), softmax_of(context.tape, z[1], offsets[1])};
  }

  void end_step(std::span<const double> sums) {
    const double count = sums.back() * static_cast<double>(n_);
    if (count == 0.0 || !std::ranges::all_of(sums, [](double s) { return std::isfinite(s); })) {
      return;
    }
    dispatch_float(mean_.value.dtype(), [&]<class T>() {
      for (int64_t group = 0; group < 2 * H_; ++group) {
        const auto [mean, variance] = moments(sums, group, count);
        const auto follow = [&](T& kept, double now) {
          kept = static_cast<T>(decay_ * static_cast<double>(kept) + (1.0 - decay_) * now);
        };
        follow(mean_.value.data<T>()[group], mean);
        follow(variance_.value.data<T>()[group], variance);
      }
    });
  }

 private:
  struct Moments {
    double mean;
    double variance;
  };
  [[nodiscard]] static Moments moments(std::span<const double> sums, int64_t group, double count) {
    const double mean = sums[static_cast<size_t>(2 * group)] / count;
    const double squares = sums[static_cast<size_t>(2 * group + 1)] / count;
    return {mean, std::max(0.0, squares - mean * mean)};
  }

  [[nodiscard]] Tensor softmax_of(Tape& tape, const Tensor& z, const Tensor& offsets) const {
    const int64_t tokens = z.dim(0);
    const Tensor stays = reshape(tape, add(tape, z, offsets), {tokens * H_, n_});
    return reshape(tape, softmax(tape, stays), {tokens, H_, n_});
  }

  /// Of both axes [N, H n]: 0 where an entry stays, kOutside elsewhere. Constants.
  [[nodiscard]] std::array<Tensor, 2> offsets_of(const ForwardContext& context,
                                                 const std::array<Tensor, 2>& z,
                                                 std::span<double> sums) const {
    std::array<Tensor, 2> offsets{context.tape.empty(z[0].shape(), z[0].dtype()),
                                  context.tape.empty(z[1].shape(), z[1].dtype())};
    if (!offsets[0].has_memory()) return offsets;
    dispatch_float(z[0].dtype(), [&]<class T>() {
      ArenaScope scratch(thread_arena());
      const std::span<double> bounds(scratch.allocate<double>(2 * H_), 2 * H_);
      set_bounds<T>(scratch, context, z, sums, bounds);
      for (size_t axis = 0; axis < 2; ++axis) {
        mark<T>(z[axis], bounds.subspan(axis * static_cast<size_t>(H_), static_cast<size_t>(H_)),
                offsets[axis]);
      }
    });
    return offsets;
  }

  /// The z at which z^ is the quantile, for every axis and head.
  template <class T>
  void set_bounds(ArenaScope& scratch, const ForwardContext& context,
                  const std::array<Tensor, 2>& z, std::span<double> sums,
                  std::span<double> bounds) const {
    const double tokens =
        context.training ? static_cast<double>(context.layout.counted_tokens()) : 0.0;
    std::span<double> of_batch;
    if (tokens > 0.0) {
      of_batch = {scratch.allocate<double>(4 * H_), static_cast<size_t>(4 * H_)};
      parallel_for(2 * H_, [&](int64_t group) {
        add_up<T>(z[static_cast<size_t>(group / H_)], context.layout, group % H_,
                  of_batch.subspan(static_cast<size_t>(2 * group), 2));
      });
      if (!sums.empty()) {
        for (size_t i = 0; i < of_batch.size(); ++i) sums[i] += of_batch[i];
        sums.back() += tokens;
      }
    }
    for (int64_t group = 0; group < 2 * H_; ++group) {
      const Moments now = tokens > 0.0
                              ? moments(of_batch, group, tokens * static_cast<double>(n_))
                              : Moments{static_cast<double>(mean_.value.data<T>()[group]),
                                        static_cast<double>(variance_.value.data<T>()[group])};
      bounds[static_cast<size_t>(group)] =
          now.mean + quantile_ * std::sqrt(now.variance + kVarianceEpsilon);
    }
  }

  /// result = sum of z and of z^2 of one head over the counted tokens, in order.
  template <class T>
  void add_up(const Tensor& z, const SequenceLayout& layout, int64_t head,
              std::span<double> result) const {
    double sum = 0.0;
    double squares = 0.0;
    for (int64_t token = 0; token < z.dim(0); ++token) {
      if (layout.counted[static_cast<size_t>(token)] == 0) continue;
      const T* row = z.data<T>() + (token * H_ + head) * n_;
      for (int64_t i = 0; i < n_; ++i) {
        const auto value = static_cast<double>(row[i]);
        sum += value;
        squares += value * value;
      }
    }
    result[0] = sum;
    result[1] = squares;
  }

  template <class T>
  void mark(const Tensor& z, std::span<const double> bounds, Tensor& offsets) const {
    parallel_for_ranges(z.dim(0) * H_, kTokenBlock * H_, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* values = z.data<T>() + row * n_;
        const double largest = static_cast<double>(*std::max_element(values, values + n_));
        const double bound = std::min(largest, bounds[static_cast<size_t>(row % H_)]);
        T* offset = offsets.data<T>() + row * n_;
        for (int64_t i = 0; i < n_; ++i) {
          offset[i] = static_cast<double>(values[i]) >= bound ? T{0} : static_cast<T>(kOutside);
        }
      }
    });
  }

  int64_t H_;
  int64_t n_;
  double decay_;
  double quantile_;
  Linear& first_;
  Linear& second_;
  Parameter& mean_;      // [2 H]: of the first axis' heads, then of the second's
  Parameter& variance_;  // [2 H]
};

class Monet final : public FeedForward {
 public:
  Monet(const Builder& b, const ModelConfig& model, const MonetConfig& config,
        const SublayerPlace& place)
      : config_(config), H_(config.num_heads), n_(config.num_keys), sublayer_(place.index) {
    const int64_t d = model.hidden_size;
    if (place.gates == nullptr || !place.gates->join(config, config.router_layers)) {
      router_ = &child(std::make_unique<MonetRouter>(b.child("router"), d, config));
    }
    const auto linear = [&](const char* name, int64_t in, int64_t out, bool bias, Init init) {
      return &child(std::make_unique<Linear>(b, LinearSpec{name, in, out, bias, init}));
    };
    const int64_t hidden = n_ * config.neurons;
    if (is_vertical()) {
      up_ = linear("up_first", d, hidden / 2, true, {});
      up_second_ = linear("up_second", d, hidden / 2, true, {});
      down_ = linear("down_top", hidden, d / 2, false, Init::residual());
      bias_ = linear("bias_top", n_, d / 2, false, Init::zeros());
      down_bottom_ = linear("down_bottom", hidden, d / 2, false, Init::residual());
      bias_bottom_ = linear("bias_bottom", n_, d / 2, false, Init::zeros());
    } else {
      up_ = linear("up", d, hidden, true, {});
      down_ = linear("down", hidden, d, false, Init::residual());
      bias_ = linear("bias", n_, d, false, Init::zeros());
    }
  }

  [[nodiscard]] int64_t num_sums() const override {
    return router_ == nullptr ? 0 : router_->num_sums();
  }
  void end_step(std::span<const double> sums, const Progress& /*progress*/) override {
    router_->end_step(sums);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const Gates gates = gates_of(context, x, state);
    const PhaseScope phase(context.tape, Phase::feed_forward);
    return is_vertical() ? vertical(context, x, gates) : horizontal(context, x, gates);
  }

 private:
  [[nodiscard]] bool is_vertical() const {
    return config_.decomposition == MonetConfig::Decomposition::vertical;
  }

  [[nodiscard]] Gates gates_of(const ForwardContext& context, const Tensor& x,
                               BlockState& state) const {
    if (router_ == nullptr) return {state.side.at(kFirstGates), state.side.at(kSecondGates)};
    std::span<double> sums;
    if (context.training && context.routing != nullptr && !context.tape.recomputing()) {
      sums = context.routing->layer_sums(sublayer_, num_sums());
    }
    const Gates gates = router_->gates(context, x, sums);
    if (context.training) add_losses(context, gates, state);
    if (config_.router_layers > 1) {
      state.side[kFirstGates] = gates.first;
      state.side[kSecondGates] = gates.second;
    }
    return gates;
  }

  /// relu(up x)^2, an entry's neurons side by side: [N, n, neurons]
  [[nodiscard]] Tensor hidden(const ForwardContext& context, const Tensor& x,
                              const Linear& up) const {
    const Tensor a = relu_squared(context.tape, up.forward(context, x));
    return reshape(context.tape, a, {x.dim(0), n_, a.dim(1) / n_});
  }

  /// [N, n, ...] -> [N, n ...]
  [[nodiscard]] static Tensor flat(Tape& tape, const Tensor& x) {
    const int64_t tokens = x.dim(0);
    return reshape(tape, x, {tokens, x.dim(1) * x.dim(2)});
  }

  /// G_i = sum_h g_hi: [N, H, n] -> [N, n]
  [[nodiscard]] Tensor over_heads(Tape& tape, const Tensor& g) const {
    const Tensor wide = flat(tape, g);
    Tensor total = slice_columns(tape, wide, 0, n_);
    for (int64_t h = 1; h < H_; ++h) {
      total = add(tape, total, slice_columns(tape, wide, h * n_, (h + 1) * n_));
    }
    return total;
  }

  [[nodiscard]] Tensor horizontal(const ForwardContext& context, const Tensor& x,
                                  const Gates& g) const {
    Tape& tape = context.tape;
    const Tensor mixed = factored_mix(tape, g.first, g.second, hidden(context, x, *up_));
    return add(tape, down_->forward(context, flat(tape, mixed)),
               bias_->forward(context, over_heads(tape, g.second)));
  }

  [[nodiscard]] Tensor vertical(const ForwardContext& context, const Tensor& x,
                                const Gates& g) const {
    Tape& tape = context.tape;
    const Tensor first = hidden(context, x, *up_);
    const Tensor second = hidden(context, x, *up_second_);
    const Tensor total_first = over_heads(tape, g.first);
    const Tensor total_second = over_heads(tape, g.second);
    const Tensor own_first = weighed(tape, first, total_first);
    const Tensor own_second = weighed(tape, second, total_second);
    const std::array<Tensor, 2> top{own_first,
                                    flat(tape, factored_mix(tape, g.second, g.first, second))};
    const std::array<Tensor, 2> bottom{flat(tape, factored_mix(tape, g.first, g.second, first)),
                                       own_second};
    const std::array<Tensor, 2> y{
        add(tape, down_->forward(context, concat_columns(tape, top)),
            bias_->forward(context, total_first)),
        add(tape, down_bottom_->forward(context, concat_columns(tape, bottom)),
            bias_bottom_->forward(context, total_second))};
    return concat_columns(tape, y);
  }

  /// G_i a_i: a [N, n, m], total [N, n] -> [N, n m]
  [[nodiscard]] static Tensor weighed(Tape& tape, const Tensor& a, const Tensor& total) {
    const int64_t tokens = a.dim(0);
    const int64_t n = a.dim(1);
    const Tensor rows = mul_rows(tape, reshape(tape, a, {tokens * n, a.dim(2)}),
                                 reshape(tape, total, {tokens * n}));
    return reshape(tape, rows, {tokens, n * a.dim(2)});
  }

  void add_losses(const ForwardContext& context, const Gates& gates, BlockState& state) const {
    const double uniformity = config_.uniformity.at(context.progress);
    const double ambiguity = config_.ambiguity.at(context.progress);
    const auto tokens = static_cast<double>(context.layout.counted_tokens());
    if (tokens == 0.0 || (uniformity == 0.0 && ambiguity == 0.0)) return;
    const TimedPhaseScope phase(context.tape, Phase::balancing);
    Tape& tape = context.tape;
    const Tensor counted = counted_rows(context, gates.first.dtype());
    const double share = tokens / static_cast<double>(context.valid_tokens);
    const double heads = 2.0 * static_cast<double>(H_);
    for (const Tensor* g : {&gates.first, &gates.second}) {
      if (uniformity > 0.0) {
        const Tensor sums = sum_rows(tape, mul_rows(tape, flat(tape, *g), counted));
        const Tensor means = add_constant(tape, scale(tape, sums, 1.0 / tokens), kLogEpsilon);
        const double weight = -uniformity * share / (heads * static_cast<double>(n_));
        state.add_loss(tape, {LossKind::balance, scale(tape, sum(tape, log(tape, means)), weight)});
      }
      if (ambiguity > 0.0) {
        const Tensor rows = reshape(tape, *g, {g->dim(0) * H_, n_});
        const Tensor largest = reshape(tape, top_k(tape, rows, 1).values, {g->dim(0), H_});
        const Tensor sure = sum(tape, mul_rows(tape, largest, counted));
        const double weight = ambiguity * share / (heads * tokens);
        state.add_loss(tape, {LossKind::balance, add_constant(tape, scale(tape, sure, -weight),
                                                              0.5 * ambiguity * share)});
      }
    }
  }

  /// [N]: 1 for tokens with a loss
  [[nodiscard]] static Tensor counted_rows(const ForwardContext& context, DType dtype) {
    const std::vector<uint8_t>& counted = context.layout.counted;
    Tensor rows = context.tape.empty({std::ssize(counted)}, dtype);
    if (!rows.has_memory()) return rows;
    dispatch_float(dtype, [&]<class T>() {
      std::ranges::transform(counted, rows.data<T>(),
                             [](uint8_t counts) { return counts != 0 ? T{1} : T{0}; });
    });
    return rows;
  }

  MonetConfig config_;
  int64_t H_;
  int64_t n_;
  int64_t sublayer_;
  MonetRouter* router_ = nullptr;  // null: the gates are those of an earlier layer
  Linear* up_;
  Linear* down_;
  Linear* bias_;
  Linear* up_second_ = nullptr;  // these of the vertical decomposition only
  Linear* down_bottom_ = nullptr;
  Linear* bias_bottom_ = nullptr;
};

std::string check_monet(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const MonetConfig&>(section);
  if (config.decomposition != MonetConfig::Decomposition::vertical || model.hidden_size % 2 == 0) {
    return {};
  }
  return fmt::format(
      "decomposition: found vertical, allowed horizontal with an odd hidden_size ({})",
      model.hidden_size);
}

}  // namespace

const FeedForwardEntry monet_feed_forward = {
    .name = "monet",
    .symbol = kNoSymbol,
    .section = "monet",
    .doc =
        "n^2 experts put together from two axes of n (Monet, Park et al. 2024, arXiv 2412.04139)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MonetConfig>();
    },
    .check = check_monet,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<Monet>(b.child("monet"), model,
                                     dynamic_cast<const MonetConfig&>(config), place);
    },
    .batch_dependence = "standardises the router's logits over a whole micro-batch",
};

}  // namespace sluice
