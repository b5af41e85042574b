#include "layers/mixers/stick_breaking_experts.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/stick_breaking_attention.h"
#include "layers/linear.h"
#include "layers/model.h"
#include "layers/routers/top_k.h"
#include "layers/row_cache.h"

namespace sluice {

StickBreakingExpertsConfig::StickBreakingExpertsConfig() {
  const RouterEntry& entry = router_registry().at("mlp");
  router = {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
  dynamic_cast<TopKRouterConfig&>(*router.config).weights = "as_is";
}

void StickBreakingExpertsConfig::fields(FieldVisitor& v) {
  count_fields(v);
  v.integer({"attention_size", "width of the keys that all experts share, over all heads"},
            attention_size, {.min = 1});
  v.integer({"num_heads", "heads, a divisor of attention_size"}, num_heads, {.min = 1});
  route_fields(v);
}

std::string StickBreakingExpertsConfig::check() const {
  if (attention_size % num_heads != 0) {
    return fmt::format("num_heads: found {}, allowed a divisor of attention_size ({})", num_heads,
                       attention_size);
  }
  return RoutingConfig::check();
}

namespace {

/// Between expert order and [N, k] slots, for rows that both have one of per assignment.
struct SlotOrder {
  DispatchPlan to_slots;  // from R rows in expert order, and one more of zeros, to N k slots
  DispatchPlan to_rows;   // from N k slots to R rows
};

SlotOrder slot_order(Pool& pool, const DispatchPlan& plan) {
  const int64_t rows = plan.slot_of_row.dim(0);
  const int64_t slots = plan.row_of_slot.numel();
  const Shape each_row{rows + 1, 1};
  Tensor source = Tensor::empty(pool, {slots}, DType::i32);
  Tensor slot_of_source = Tensor::empty(pool, each_row, DType::i32);
  if (source.has_memory()) {
    // Slots without a row read the zeros, and give them no gradient.
    const auto row_of_slot = plan.row_of_slot.span<int32_t>();
    std::ranges::transform(row_of_slot, source.span<int32_t>().begin(),
                           [&](int32_t row) { return row < 0 ? static_cast<int32_t>(rows) : row; });
    const auto slot_of_row = plan.slot_of_row.span<int32_t>();
    const auto targets = slot_of_source.span<int32_t>();
    std::ranges::copy(slot_of_row, targets.begin());
    targets.back() = -1;
  }
  return {.to_slots = {{}, source, {}, slot_of_source},
          .to_rows = {{}, plan.slot_of_row, {}, plan.row_of_slot.reshaped({slots, 1})}};
}

class SharedKeyCache final : public MixerState {
 public:
  SharedKeyCache(Pool& pool, const Shape& shape, DType dtype,
                 std::unique_ptr<FeedForwardState> router_)
      : keys(pool, shape, dtype), values(pool, shape, dtype), router(std::move(router_)) {}
  [[nodiscard]] int64_t length() const override { return keys.length(); }

  RowCache keys;    // [capacity, n, A / n]
  RowCache values;  // [capacity, n, A / n]
  std::unique_ptr<FeedForwardState> router;
};

class StickBreakingExperts final : public Mixer {
 public:
  StickBreakingExperts(const Builder& b, const ModelConfig& model,
                       const StickBreakingExpertsConfig& config, const SublayerPlace& place)
      : width_(config.attention_size), heads_(config.num_heads) {
    const int64_t d = model.hidden_size;
    routed_ = &child(std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place));
    const Builder own = b.child("attention_experts");
    w_q_ = &parameter(own, "w_q", {config.num_experts, width_, d}, ParameterKind::matrix, {},
                      Stack::routed_experts);
    k_ = &child(std::make_unique<Linear>(own, LinearSpec{"k", d, width_}));
    v_ = &child(std::make_unique<Linear>(own, LinearSpec{"v", d, width_}));
    w_o_ = &parameter(own, "w_o", {config.num_experts, d, width_}, ParameterKind::matrix,
                      Init::residual(), Stack::routed_experts);
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    return mix(context, x, state, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      return stick_breaking_attention(context.tape, q, k, v,
                                      {context.layout.document_offsets, scale(), true});
    });
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<SharedKeyCache>(pool, Shape{capacity, heads_, width_ / heads_}, dtype,
                                            routed_->make_state(pool, dtype, capacity));
  }

  Tensor decode(const ForwardContext& caller, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    auto& cache = dynamic_cast<SharedKeyCache&>(state);
    ForwardContext context = caller;
    context.memory = cache.router.get();
    return mix(context, x, block, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      cache.keys.append(k);
      cache.values.append(v);
      return cached_stick_breaking_attention(context.tape, q, cache.keys.rows(),
                                             cache.values.rows(), cache.length(),
                                             {{}, scale(), true});
    });
  }

 private:
  [[nodiscard]] double scale() const {
    return 1.0 / std::sqrt(static_cast<double>(width_) / static_cast<double>(heads_));
  }

  [[nodiscard]] Tensor in_heads(Tape& tape, const Tensor& x, int64_t groups) const {
    return reshape(tape, x, {x.dim(0) / groups, groups * heads_, width_ / heads_});
  }

  /// attend(q [N, k n, A / n], k, v [N, n, A / n]) gives o, like q; head h of q reads key head h % n.
  template <class Attend>
  [[nodiscard]] Tensor mix(const ForwardContext& context, const Tensor& x, BlockState& state,
                           Attend&& attend) const {
    Tape& tape = context.tape;
    const Route route = routed_->route(context, x, state);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const PhaseScope phase(tape, Phase::attention);
    const SlotOrder order = slot_order(tape.pool(), plan);
    const int64_t slots = route.selection.top_k;

    const Tensor asked =
        grouped_matmul(tape, dispatch(tape, route.input, plan), tape.use(*w_q_), plan.offsets);
    const Tensor none = tape.zeros({1, width_}, asked.dtype());
    const Tensor q = dispatch(tape, concat_rows(tape, std::array{asked, none}), order.to_slots);
    const auto [keys, values] = Linear::forward_joint<2>(context, route.input, {k_, v_});
    Tensor o = attend(in_heads(tape, q, slots), in_heads(tape, keys, 1), in_heads(tape, values, 1));
    o = reshape(tape, o, q.shape());
    const Tensor y =
        grouped_matmul(tape, dispatch(tape, o, order.to_rows), tape.use(*w_o_), plan.offsets);
    return combine(tape, y, route.weights, plan);
  }

  int64_t width_;  // A
  int64_t heads_;  // n
  RoutedLayer* routed_;
  Parameter* w_q_;  // [E, A, D]
  Linear* k_;
  Linear* v_;
  Parameter* w_o_;  // [E, D, A]
};

}  // namespace

const MixerEntry stick_breaking_experts_mixer = {
    .name = "stick_breaking_experts",
    .symbol = 'B',
    .section = "stick_breaking_experts",
    .doc = "routed experts of stick-breaking attention with shared keys (ModuleFormer 2023)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<StickBreakingExpertsConfig>();
    },
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<Mixer> {
      return std::make_unique<StickBreakingExperts>(
          b, model, dynamic_cast<const StickBreakingExpertsConfig&>(config), place);
    },
};

}  // namespace sluice
