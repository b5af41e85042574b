#include "layers/ffns/mixlora.h"

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/swiglu.h"
#include "layers/adapters/low_rank.h"
#include "layers/ffns/routed_feed_forward.h"
#include "layers/model.h"

namespace sluice {

MixLoraConfig::MixLoraConfig()
    : RoutingConfig({"num_experts", "experts E that share the feed-forward"}) {
  num_experts = 8;
}

void MixLoraConfig::fields(FieldVisitor& v) {
  v.integer({"intermediate_size", "width F of the dense feed-forward"}, intermediate_size,
            {.min = 1});
  rank_field(v);
  v.integers({"ranks",
              "a rank for each expert instead of one for all, 0 for the dense feed-forward itself "
              "(FlexMoRE); empty: none"},
             ranks, {.min = 0, .max = 65536});
  scale_fields(v);
  RoutingConfig::fields(v);
}

std::string MixLoraConfig::check() const {
  if (!ranks.empty() && std::ssize(ranks) != num_experts) {
    return fmt::format("ranks: found {} ranks, allowed {} (num_experts) or none", ranks.size(),
                       num_experts);
  }
  if (!ranks.empty() && std::ranges::all_of(ranks, [](int64_t r) { return r == 0; })) {
    return "ranks: found no rank above 0, allowed one or more";
  }
  return RoutingConfig::check();
}

std::vector<int64_t> MixLoraConfig::ranks_of_experts() const {
  return ranks.empty() ? std::vector<int64_t>(static_cast<size_t>(num_experts), rank) : ranks;
}

namespace {

// Letters: N tokens, R rows (assignments), D hidden size, F width, E experts, S ranks of all experts.

class MixLora final : public RoutedFeedForward {
 public:
  MixLora(const Builder& b, const ModelConfig& model, const MixLoraConfig& config,
          const SublayerPlace& place)
      : dropout_(config.dropout), stream_(kFirstStream + kMatrices * place.index) {
    const int64_t d = model.hidden_size;
    const int64_t f = config.intermediate_size;
    const Builder own = b.child("feed_forward");
    const auto map = [&](const char* name, int64_t in, int64_t out, Init init) {
      return &child(std::make_unique<Linear>(own, LinearSpec{name, in, out, false, init}));
    };
    gate_ = map("gate", d, f, {});
    up_ = map("up", d, f, {});
    down_ = map("down", f, d, Init::residual());
    const Builder beside = own.child("adapters");
    routed_ = &child(std::make_unique<RoutedLayer>(beside, config, d, place.routed_layer, place));
    const auto factors = [&](const char* name, int64_t in, int64_t out) {
      return &child(std::make_unique<Factors>(
          beside.child(name), FactorSpec{in, out, config.ranks_of_experts(), config.b_std, true}));
    };
    gate_factors_ = factors("gate", d, f);
    up_factors_ = factors("up", d, f);
    down_factors_ = factors("down", f, d);
    for (const int64_t r : config.ranks_of_experts()) {
      scales_.push_back(r == 0 ? 0.0 : config.scale(r));
    }
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const Route route = routed_->route(context, x, state);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const PhaseScope phase(tape, Phase::experts);
    const Tensor own_ranks = ranks_of_rows(tape, plan, x.dtype());  // [R, S]
    const auto [gate, up] = Linear::forward_joint<2>(context, route.input, {gate_, up_});
    const Tensor gates = add(tape, dispatch(tape, gate, plan),
                             low_rank(context, *gate_factors_, 0, route.input, plan, own_ranks));
    const Tensor ups = add(tape, dispatch(tape, up, plan),
                           low_rank(context, *up_factors_, 1, route.input, plan, own_ranks));
    const Tensor h = swiglu(tape, gates, ups);  // [R, F]
    const Tensor y = down_->forward(context, combine(tape, h, route.weights, plan));
    return add(tape, y, low_rank_down(context, h, route.weights, plan, own_ranks));
  }

 private:
  static constexpr int64_t kMatrices = 2;  // with dropout before A
  static constexpr int64_t kFirstStream = int64_t{3} << 21;

  /// [R, S]: s_e at the ranks of the row's expert, 0 elsewhere.
  [[nodiscard]] Tensor ranks_of_rows(Tape& tape, const DispatchPlan& plan, DType dtype) const {
    const int64_t total = gate_factors_->total();
    Tensor result = Tensor::zeros(tape.pool(), {plan.token_of_row.dim(0), total}, dtype);
    if (!result.has_memory() || !plan.offsets.has_memory()) return result;
    const auto offsets = plan.offsets.span<int32_t>();
    dispatch_float(dtype, [&]<class T>() {
      T* const values = result.data<T>();
      int64_t first = 0;
      for (size_t e = 0; e < scales_.size(); ++e) {
        const int64_t ranks = gate_factors_->ranks()[e];
        for (int64_t row = offsets[e]; row < offsets[e + 1]; ++row) {
          std::fill_n(values + row * total + first, ranks, static_cast<T>(scales_[e]));
        }
        first += ranks;
      }
    });
    return result;
  }

  /// s_e B_e A_e x of every row's expert; A x is computed once per token: [R, F].
  [[nodiscard]] Tensor low_rank(const ForwardContext& context, const Factors& factors,
                                int64_t which, const Tensor& x, const DispatchPlan& plan,
                                const Tensor& own_ranks) const {
    Tape& tape = context.tape;
    const FactorTensors own = factors.tensors(tape);
    const Tensor u = linear(tape, adapter_dropout(context, x, dropout_, stream_ + which), own.a);
    return matmul(tape, mul(tape, dispatch(tape, u, plan), own_ranks), own.b);
  }

  /// sum g_e s_e B_e A_e h_e: summed before B, which is linear: [N, D].
  [[nodiscard]] Tensor low_rank_down(const ForwardContext& context, const Tensor& h,
                                     const Tensor& weights, const DispatchPlan& plan,
                                     const Tensor& own_ranks) const {
    Tape& tape = context.tape;
    const FactorTensors own = down_factors_->tensors(tape);
    const Tensor u = mul(tape, linear(tape, h, own.a), own_ranks);
    return matmul(tape, combine(tape, u, weights, plan), own.b);
  }

  double dropout_;
  int64_t stream_;
  Linear* gate_;
  Linear* up_;
  Linear* down_;
  Factors* gate_factors_;
  Factors* up_factors_;
  Factors* down_factors_;
  std::vector<double> scales_;  // [E]
};

}  // namespace

const FeedForwardEntry mixlora_feed_forward = {
    .name = "mixlora",
    .symbol = kNoSymbol,
    .section = "mixlora",
    .doc =
        "a dense feed-forward that LoRA experts share (MixLoRA; Li et al. 2024, arXiv "
        "2404.15159)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MixLoraConfig>();
    },
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<MixLora>(b, model, dynamic_cast<const MixLoraConfig&>(config), place);
    },
};

}  // namespace sluice
