#include "layers/mixers/mixture_of_heads.h"

#include <array>
#include <cmath>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/linear.h"
#include "layers/model.h"
#include "layers/routers/query_norm.h"
#include "layers/row_cache.h"

namespace sluice {

MixtureOfHeadsConfig::MixtureOfHeadsConfig()
    : RoutingConfig({"num_routed_heads", "heads R of which a token uses top_k"}) {
  num_experts = 6;
  top_k = 4.0;
}

void MixtureOfHeadsConfig::fields(FieldVisitor& v) {
  count_fields(v);
  v.integer({"num_shared_heads", "heads S that every token uses"}, num_shared_heads, {.min = 0});
  v.optional_integer(
      {"num_kv_heads", "key/value heads, a divisor of all heads (auto: as many as those)"},
      num_kv_heads, {.min = 1}, "auto");
  v.optional_integer({"head_dim", "width of a head (auto: hidden_size / all heads)"}, head_dim,
                     {.min = 1}, "auto");
  v.optional_number({"rope_theta", "base of the rotary frequencies; none: no rotation"}, rope_theta,
                    {.min = 1.0}, "none");
  v.integer({"max_position_embeddings", "longest document, in tokens, that can be rotated"},
            max_position_embeddings, {.min = 1, .max = int64_t{1} << 24});
  v.optional_integer({"window", "tokens a token sees, itself included; none: all before it"},
                     window, {.min = 1}, "none");
  v.enumeration(
      {"gates",
       "learned: by router, shared and balance weights; query_norm: no parameters, routed "
       "heads are chosen by the norms of their queries and all that are used weigh 1"},
      gates, {{"learned", Gates::learned}, {"query_norm", Gates::query_norm}});
  v.tagged({"router", "scores, choice and combine weights; not used with gates: query_norm"},
           router, router_choices());
}

std::string MixtureOfHeadsConfig::check() const {
  if (num_heads() % kv_heads() != 0) {
    return fmt::format("num_kv_heads: found {}, allowed a divisor of all heads ({})", kv_heads(),
                       num_heads());
  }
  if (head_dim && *head_dim % 2 != 0 && rope_theta) {
    return fmt::format("head_dim: found {}, allowed an even number with rotary positions",
                       *head_dim);
  }
  if (gates == Gates::query_norm && router.type != "top_k") {
    return fmt::format("router.type: found {}, allowed top_k (or nothing) with gates: query_norm",
                       router.type);
  }
  return RoutingConfig::check();
}

namespace {

std::string check_heads(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const MixtureOfHeadsConfig&>(section);
  const int64_t heads = config.num_heads();
  const bool divides = model.hidden_size % heads == 0;
  if (!config.head_dim && (!divides || (config.rope_theta && model.hidden_size / heads % 2 != 0))) {
    return fmt::format(
        "num_routed_heads: found {}, with {} shared heads {} in all, allowed what divides "
        "hidden_size "
        "({}) into heads of {}width, or give head_dim",
        config.num_experts, config.num_shared_heads, heads, model.hidden_size,
        config.rope_theta ? "even " : "whole ");
  }
  return check_attention_before(model, section);
}

/// Keys after rotation and values of every token so far, and what the router keeps.
class MixtureOfHeadsState final : public MixerState {
 public:
  MixtureOfHeadsState(Pool& pool, const Shape& shape, DType dtype,
                      std::unique_ptr<FeedForwardState> router_)
      : keys(pool, shape, dtype), values(pool, shape, dtype), router(std::move(router_)) {}
  [[nodiscard]] int64_t length() const override { return keys.length(); }

  RowCache keys;    // [capacity, K, P]
  RowCache values;  // [capacity, K, P]
  std::unique_ptr<FeedForwardState> router;
};

class MixtureOfHeads final : public Mixer {
 public:
  MixtureOfHeads(const Builder& b, const ModelConfig& model, const MixtureOfHeadsConfig& config,
                 const SublayerPlace& place)
      : config_(config),
        heads_(config.num_heads()),
        head_dim_(config.head_dim.value_or(model.hidden_size / heads_)) {
    const int64_t d = model.hidden_size;
    const int64_t shared = config.num_shared_heads;
    const Builder own = b.child("mixture_of_heads");
    routed_ =
        &child(learns() ? std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place)
                        : std::make_unique<RoutedLayer>(config, place.routed_layer,
                                                        std::make_unique<QueryNormRouter>()));
    const auto project = [&](const char* name, int64_t out) {
      return &child(std::make_unique<Linear>(own, LinearSpec{name, d, out}));
    };
    q_ = project("q", heads_ * head_dim_);
    k_ = project("k", config.kv_heads() * head_dim_);
    v_ = project("v", config.kv_heads() * head_dim_);
    o_ = &child(std::make_unique<Linear>(
        own, LinearSpec{"o", heads_ * head_dim_, d, false, Init::residual()}));
    const auto gate = [&](const char* name, int64_t out) {
      return &parameter(own, name, {out, d}, ParameterKind::router);
    };
    if (learns() && shared > 1) w_shared_ = gate("w_shared", shared);
    if (learns() && shared > 0) w_balance_ = gate("w_balance", 2);
    if (config.rope_theta) {
      table_ =
          rope_table(b.pool(), b.dtype(), {.rotary_dim = head_dim_, .theta = *config.rope_theta},
                     config.max_position_embeddings);
    }
  }

  std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const auto [q, k, v] = project(context, x);
    const Tensor g = gates(context, x, q, state);
    const PhaseScope phase(tape, Phase::attention);
    CausalAttentionOptions options{context.layout.document_offsets, scale(), config_.window};
    if (table_.cos.defined()) {
      options.rope = {context.layout.positions, table_, RopeLayout::half_split};
    }
    return output(context, causal_attention(tape, q, k, v, options), g);
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<MixtureOfHeadsState>(pool,
                                                 Shape{capacity, config_.kv_heads(), head_dim_},
                                                 dtype, routed_->make_state(pool, dtype, capacity));
  }

  Tensor decode(const ForwardContext& caller, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    auto& own = dynamic_cast<MixtureOfHeadsState&>(state);
    ForwardContext context = caller;
    context.memory = own.router.get();
    const auto [q, k, v] = project(context, x);
    const Tensor g = gates(context, x, q, block);
    const PhaseScope phase(context.tape, Phase::attention);
    own.keys.append(turned(context, k));
    own.values.append(v);
    const Tensor mixed =
        cached_attention(context.tape, turned(context, q), own.keys.rows(), own.values.rows(),
                         {.length = own.length(), .scale = scale(), .window = config_.window});
    return output(context, mixed, g);
  }

 private:
  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim_)); }

  /// q [N, H, P], k and v [N, K, P], not turned.
  [[nodiscard]] std::array<Tensor, 3> project(const ForwardContext& context,
                                              const Tensor& x) const {
    const PhaseScope phase(context.tape, Phase::attention);
    std::array<Tensor, 3> result = Linear::forward_joint<3>(context, x, {q_, k_, v_});
    for (Tensor& y : result) {
      y = reshape(context.tape, y, {y.dim(0), y.dim(1) / head_dim_, head_dim_});
    }
    return result;
  }

  [[nodiscard]] Tensor turned(const ForwardContext& context, const Tensor& x) const {
    if (!table_.cos.defined()) return x;
    return rope(context.tape, x, context.layout.positions, table_, RopeLayout::half_split);
  }

  [[nodiscard]] bool learns() const {
    return config_.gates == MixtureOfHeadsConfig::Gates::learned;
  }

  /// [N, H] of queries that are not turned.
  [[nodiscard]] Tensor gates(const ForwardContext& context, const Tensor& x, const Tensor& q,
                             BlockState& state) const {
    if (learns()) return learned_gates(context, x, routed_->route(context, x, state));
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::routing);
    const Tensor norms = query_norms(tape, q, config_.num_experts);
    const Route route = routed_->route(context, norms, state);
    const Tensor routed = straight_through(tape, route.scores.probabilities, route.selection);
    if (config_.num_shared_heads == 0) return routed;
    const Tensor none = tape.zeros({x.dim(0), config_.num_shared_heads}, x.dtype());
    const std::array<Tensor, 2> parts = {add_constant(tape, none, 1.0), routed};
    return concat_columns(tape, parts);
  }

  [[nodiscard]] Tensor learned_gates(const ForwardContext& context, const Tensor& x,
                                     const Route& route) const {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::routing);
    const Tensor chosen = scatter_last(
        tape, route.weights, expert_index(tape.pool(), route.selection), config_.num_experts);
    const Tensor routed =
        sluice::scale(tape, chosen, static_cast<double>(config_.top_k_at(context.progress)));
    if (w_balance_ == nullptr) return routed;
    const Tensor balance =
        sluice::scale(tape, softmax(tape, linear(tape, x, tape.use(*w_balance_))), 2.0);
    const auto weight = [&](int64_t column) {
      return reshape(tape, slice_columns(tape, balance, column, column + 1), {x.dim(0)});
    };
    const Tensor own_routed = mul_rows(tape, routed, weight(1));
    const std::array<Tensor, 2> parts = {
        w_shared_ == nullptr
            ? slice_columns(tape, balance, 0, 1)
            : mul_rows(tape,
                       sluice::scale(tape, softmax(tape, linear(tape, x, tape.use(*w_shared_))),
                                     static_cast<double>(config_.num_shared_heads)),
                       weight(0)),
        own_routed};
    return concat_columns(tape, parts);
  }

  /// mixed [N, H, P], gates [N, H]
  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& mixed,
                              const Tensor& gates) const {
    Tape& tape = context.tape;
    const int64_t rows = mixed.dim(0) * heads_;
    const Tensor gated =
        mul_rows(tape, reshape(tape, mixed, {rows, head_dim_}), reshape(tape, gates, {rows}));
    return o_->forward(context, reshape(tape, gated, {mixed.dim(0), heads_ * head_dim_}));
  }

  MixtureOfHeadsConfig config_;
  int64_t heads_;
  int64_t head_dim_;
  RopeTable table_;
  RoutedLayer* routed_;
  Linear* q_;
  Linear* k_;
  Linear* v_;
  Linear* o_;
  Parameter* w_shared_ = nullptr;   // [S, D]; none for a single shared head
  Parameter* w_balance_ = nullptr;  // [2, D]; none without shared heads
};

}  // namespace

const MixerEntry mixture_of_heads_mixer = {
    .name = "mixture_of_heads",
    .symbol = 'H',
    .section = "mixture_of_heads",
    .doc = "MoH: attention of which a token uses some heads only (Jin et al. 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MixtureOfHeadsConfig>();
    },
    .check = check_heads,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& section,
               SublayerPlace place) -> std::unique_ptr<Mixer> {
      return std::make_unique<MixtureOfHeads>(
          b, model, dynamic_cast<const MixtureOfHeadsConfig&>(section), place);
    },
    .longest_document = [](const Configurable& section) -> std::optional<int64_t> {
      const auto& config = dynamic_cast<const MixtureOfHeadsConfig&>(section);
      if (!config.rope_theta) return std::nullopt;
      return config.max_position_embeddings;
    },
};

}  // namespace sluice
