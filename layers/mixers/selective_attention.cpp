#include "layers/mixers/selective_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "layers/model.h"
#include "layers/rotary.h"
#include "layers/routers/top_k.h"
#include "layers/row_cache.h"

namespace sluice {

SelectiveAttentionConfig::SelectiveAttentionConfig()
    : RoutingConfig({"num_heads", "heads H, of which each token chooses top_k"}) {
  num_experts = 8;
  top_k = 4.0;
  dynamic_cast<TopKRouterConfig&>(*router.config).weights = "as_is";
}

void SelectiveAttentionConfig::fields(FieldVisitor& v) {
  count_fields(v);
  v.optional_integer({"head_dim",
                      "width of a head, even with rotary positions (auto: hidden_size "
                      "/ num_heads)"},
                     head_dim, {.min = 1}, "auto");
  v.optional_number({"rope_theta", "base of the rotary frequencies; none: no rotation"}, rope_theta,
                    {.min = 1.0}, "none");
  v.integer({"max_position_embeddings", "longest document, in tokens, that can be rotated"},
            max_position_embeddings, {.min = 1, .max = int64_t{1} << 24});
  v.boolean({"gate_output", "a head's output times its weight; false: heads are only chosen"},
            gate_output);
  route_fields(v);
}

namespace {

std::string check_selective(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const SelectiveAttentionConfig&>(section);
  const int64_t heads = config.num_experts;
  if (!config.head_dim && model.hidden_size % heads != 0) {
    return fmt::format(
        "num_heads: found {}, allowed a divisor of hidden_size ({}), or give head_dim", heads,
        model.hidden_size);
  }
  const int64_t width = config.head_dim.value_or(model.hidden_size / heads);
  if (config.rope_theta && width % 2 != 0) {
    return fmt::format("head_dim: found {}, allowed an even number with rotary positions", width);
  }
  return check_attention_before(model, section);
}

/// A cache of every head, each as long as the tokens that chose it.
class SelectiveCache final : public MixerState {
 public:
  SelectiveCache(Pool& pool, int64_t heads, const Shape& shape, DType dtype,
                 std::unique_ptr<FeedForwardState> router_)
      : router(std::move(router_)) {
    for (int64_t h = 0; h < heads; ++h) {
      keys.emplace_back(pool, shape, dtype);
      values.emplace_back(pool, shape, dtype);
    }
  }
  [[nodiscard]] int64_t length() const override { return tokens; }

  std::vector<RowCache> keys;    // [H] of [capacity, 1, P]
  std::vector<RowCache> values;  // likewise
  std::unique_ptr<FeedForwardState> router;
  int64_t tokens = 0;
};

class SelectiveAttention final : public Mixer {
 public:
  SelectiveAttention(const Builder& b, const ModelConfig& model,
                     const SelectiveAttentionConfig& config, const SublayerPlace& place)
      : heads_(config.num_experts),
        width_(config.head_dim.value_or(model.hidden_size / config.num_experts)),
        gates_output_(config.gate_output) {
    const int64_t d = model.hidden_size;
    routed_ = &child(std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place));
    const Builder own = b.child("selective_attention");
    const auto stack = [&](const std::string& name, const Shape& shape, Init init) {
      return &parameter(own, name, shape, ParameterKind::matrix, init, Stack::routed_experts);
    };
    w_q_ = stack("w_q", {heads_, width_, d}, {});
    w_k_ = stack("w_k", {heads_, width_, d}, {});
    w_v_ = stack("w_v", {heads_, width_, d}, {});
    w_o_ = stack("w_o", {heads_, d, width_}, Init::residual());
    if (config.rope_theta) {
      table_ = rope_table(b.pool(), b.dtype(), rope_config(width_, *config.rope_theta, nullptr),
                          config.max_position_embeddings);
    }
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const Route route = routed_->route(context, x, state);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const PhaseScope phase(tape, Phase::attention);
    const Rows rows = project(tape, dispatch(tape, route.input, plan), plan);
    const Subsets subsets = subsets_of(context, plan);
    CausalAttentionOptions options{{}, scale()};
    options.segments = subsets.segments;
    if (table_.cos.defined()) options.rope = {subsets.positions, table_};
    return gather(context, route, plan, causal_attention(tape, rows.q, rows.k, rows.v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<SelectiveCache>(pool, heads_, Shape{capacity, 1, width_}, dtype,
                                            routed_->make_state(pool, dtype, capacity));
  }

  Tensor decode(const ForwardContext& caller, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    auto& cache = dynamic_cast<SelectiveCache&>(state);
    Tape& tape = caller.tape;
    ForwardContext context = caller;
    context.memory = cache.router.get();
    const Route route = routed_->route(context, x, block);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const PhaseScope phase(tape, Phase::attention);
    const Rows rows = project(tape, dispatch(tape, route.input, plan), plan);
    cache.tokens += x.dim(0);
    std::vector<Tensor> mixed;
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t begin = plan.offsets.data<int32_t>()[h];
      const int64_t end = plan.offsets.data<int32_t>()[h + 1];
      if (begin == end) continue;
      RowCache& keys = cache.keys[static_cast<size_t>(h)];
      RowCache& values = cache.values[static_cast<size_t>(h)];
      Tensor positions = Tensor::empty(tape.pool(), {end - begin}, DType::i32);
      std::iota(positions.data<int32_t>(), positions.data<int32_t>() + end - begin,
                static_cast<int32_t>(keys.length()));
      const auto part = [&](const Tensor& all) { return slice_rows(tape, all, begin, end); };
      keys.append(turn(tape, part(rows.k), positions));
      values.append(part(rows.v));
      mixed.push_back(cached_attention(tape, turn(tape, part(rows.q), positions), keys.rows(),
                                       values.rows(), {keys.length(), scale()}));
    }
    const Tensor o = mixed.empty() ? rows.q : concat_rows(tape, mixed);
    return gather(context, route, plan, o);
  }

 private:
  struct Rows {
    Tensor q, k, v;  // [R, 1, P], in order of the heads
  };
  /// Where one document's rows of one head lie, and the positions in them.
  struct Subsets {
    Tensor segments;   // [H G + 1] i32
    Tensor positions;  // [R] i32
  };

  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(width_)); }

  [[nodiscard]] Rows project(Tape& tape, const Tensor& rows, const DispatchPlan& plan) const {
    const auto map = [&](Parameter& w) {
      const Tensor y = grouped_matmul(tape, rows, tape.use(w), plan.offsets);
      return reshape(tape, y, {y.dim(0), 1, width_});
    };
    return {map(*w_q_), map(*w_k_), map(*w_v_)};
  }

  [[nodiscard]] Subsets subsets_of(const ForwardContext& context, const DispatchPlan& plan) const {
    const std::vector<int64_t>& documents = context.layout.document_offsets;
    const int64_t count = context.layout.documents();
    Pool& pool = context.tape.pool();
    Subsets result{Tensor::empty(pool, {heads_ * count + 1}, DType::i32),
                   Tensor::empty(pool, {plan.token_of_row.dim(0)}, DType::i32)};
    if (!result.segments.has_memory()) return result;
    const auto token = plan.token_of_row.span<int32_t>();
    const auto offsets = plan.offsets.span<int32_t>();
    const auto segments = result.segments.span<int32_t>();
    const auto positions = result.positions.span<int32_t>();
    int32_t row = 0;
    size_t segment = 0;
    for (int64_t head = 0; head < heads_; ++head) {
      const int32_t end_of_head = offsets[static_cast<size_t>(head) + 1];
      for (int64_t d = 0; d < count; ++d) {
        segments[segment++] = row;
        const int64_t end = documents[static_cast<size_t>(d) + 1];
        for (int32_t position = 0; row < end_of_head && token[static_cast<size_t>(row)] < end;) {
          positions[static_cast<size_t>(row++)] = position++;
        }
      }
    }
    segments[segment] = row;
    return result;
  }

  [[nodiscard]] Tensor turn(Tape& tape, const Tensor& x, const Tensor& positions) const {
    if (!table_.cos.defined()) return x;
    return rope(tape, x, positions, table_, RopeLayout::half_split);
  }

  /// o [R, 1, P] back to the tokens that the rows are of.
  [[nodiscard]] Tensor gather(const ForwardContext& context, const Route& route,
                              const DispatchPlan& plan, const Tensor& o) const {
    Tape& tape = context.tape;
    const Tensor y =
        grouped_matmul(tape, reshape(tape, o, {o.dim(0), width_}), tape.use(*w_o_), plan.offsets);
    if (gates_output_) return combine(tape, y, route.weights, plan);
    Tensor ones = tape.empty(route.weights.shape(), y.dtype());
    if (ones.has_memory()) {
      dispatch_float(ones.dtype(), [&]<class T>() { std::ranges::fill(ones.span<T>(), T{1}); });
    }
    return combine(tape, y, ones, plan);
  }

  int64_t heads_;
  int64_t width_;  // P
  bool gates_output_;
  RopeTable table_;
  RoutedLayer* routed_;
  Parameter* w_q_;  // [H, P, D]
  Parameter* w_k_;
  Parameter* w_v_;
  Parameter* w_o_;  // [H, D, P]
};

}  // namespace

const MixerEntry selective_attention_mixer = {
    .name = "selective_attention",
    .symbol = 'X',
    .section = "selective_attention",
    .doc = "attention of heads among the tokens that chose them (Union of Experts 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SelectiveAttentionConfig>();
    },
    .check = check_selective,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<Mixer> {
      return std::make_unique<SelectiveAttention>(
          b, model, dynamic_cast<const SelectiveAttentionConfig&>(config), place);
    },
    .longest_document = [](const Configurable& section) -> std::optional<int64_t> {
      const auto& config = dynamic_cast<const SelectiveAttentionConfig&>(section);
      if (!config.rope_theta) return std::nullopt;
      return config.max_position_embeddings;
    },
};

}  // namespace sluice
