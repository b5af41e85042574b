#include "layers/model.h"

#include <algorithm>
#include <cmath>

#include "autograd/core/recompute.h"
#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/linear_consistency.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/ops/matmul.h"
#include "autograd/support/parallel.h"
#include "layers/routed_layer.h"

namespace sluice {
namespace {

constexpr int64_t kSumBlock = 4096;
/// Layer number of the embedding's dropout stream; sublayers use their index.
constexpr int64_t kEmbeddingStream = int64_t{1} << 20;

/// Sum of a tensor's elements in double, in a fixed order.
double host_sum(const Tensor& x) {
  if (!x.has_memory()) return 0.0;
  return dispatch_float(x.dtype(), [&]<class T>() {
    const T* values = x.data<T>();
    return parallel_sum<double>(x.numel(), kSumBlock, [&](int64_t begin, int64_t end) {
      double total = 0.0;
      for (int64_t i = begin; i < end; ++i) total += static_cast<double>(values[i]);
      return total;
    });
  });
}

/// The tensors of a state in a fixed order, for recomputation: hidden, losses that exist, side
/// tensors.
struct StateKeys {
  std::array<bool, kLossKinds> has_loss{};
  std::array<std::string_view, SideTensors::kMaxSize> side{};
  size_t num_side = 0;

  static StateKeys of(const BlockState& state) {
    StateKeys keys;
    for (size_t kind = 0; kind < kLossKinds; ++kind)
      keys.has_loss[kind] = state.losses[kind].defined();
    for (const auto& [name, tensor] : state.side) keys.side[keys.num_side++] = name;
    return keys;
  }
  [[nodiscard]] static TensorList flatten(const BlockState& state) {
    TensorList tensors = {state.hidden};
    for (const Tensor& loss : state.losses) {
      if (loss.defined()) tensors.push_back(loss);
    }
    for (const auto& [name, tensor] : state.side) tensors.push_back(tensor);
    return tensors;
  }
  [[nodiscard]] BlockState restore(std::span<const Tensor> tensors) const {
    BlockState state;
    size_t next = 0;
    state.hidden = tensors[next++];
    for (size_t kind = 0; kind < kLossKinds; ++kind) {
      if (has_loss[kind]) state.losses[kind] = tensors[next++];
    }
    for (size_t i = 0; i < num_side; ++i) state.side[side[i]] = tensors[next++];
    return state;
  }
};

}  // namespace

/// One symbol of the pattern: a norm, and a mixer or a feed-forward.
struct Model::Sublayer final : public Module {
  std::string path;
  int64_t index = 0;
  bool routes = false;
  Norm* norm = nullptr;
  Mixer* mixer = nullptr;
  FeedForward* feed_forward = nullptr;

  Sublayer(const Builder& b, const ModelConfig& config, const SublayerSpec& spec,
           const SublayerPlace& place)
      : path(b.path()), index(place.index), routes(spec.routing() != nullptr) {
    norm = &child(std::make_unique<Norm>(b.child("norm"), config.norm, config.hidden_size));
    if (spec.mixer != nullptr) {
      mixer = &child(spec.mixer->make(b, config, *spec.config, place));
    } else {
      feed_forward = &child(spec.feed_forward->make(b, config, *spec.config, place));
    }
  }

  [[nodiscard]] SublayerBody& body() const {
    if (mixer != nullptr) return *mixer;
    return *feed_forward;
  }
};

Model::Model(Pool& pool, const ModelConfig& config, uint64_t seed)
    : pattern_(config.expanded_pattern()),
      dtype_(config.dtype == "f64" ? DType::f64 : DType::f32),
      vocab_size_(config.vocab_size.value_or(0)),
      dropout_(config.dropout) {
  SLUICE_CHECK(ConfigError, vocab_size_ >= 2,
               "model.vocab_size: not known; give a number or a tokenizer");
  const Builder b(pool, dtype_, seed, config.init, static_cast<int64_t>(pattern_.size()));
  embedding_ =
      &child(std::make_unique<Embedding>(b.child("embedding"), vocab_size_, config.hidden_size));
  if (config.learned_positions) {
    positions_ = &parameter(b, "positions", {*config.learned_positions, config.hidden_size},
                            ParameterKind::embedding);
  }
  SublayerPlace place{0, 0};
  for (const SublayerSpec& spec : config.sublayers()) {
    auto& sublayer = child(std::make_unique<Sublayer>(
        b.child(fmt::format("layers.{}", place.index)), config, spec, place));
    sublayers_.push_back(&sublayer);
    ++place.index;
    for (RoutedLayer* routed : sublayer.body().routed_layers()) {
      SLUICE_INTERNAL_CHECK(routed->layer() == place.routed_layer,
                            "{}: routed layer {} is number {}", sublayer.path, routed->layer(),
                            place.routed_layer);
      ++place.routed_layer;
      routed_.push_back({routed, &sublayer});
      if (place.first_router == nullptr) place.first_router = &routed->router();
    }
    AttentionSource* attention =
        sublayer.mixer != nullptr ? sublayer.mixer->attention_source() : nullptr;
    if (attention != nullptr) place.attention = attention;
  }
  final_norm_ =
      &child(std::make_unique<Norm>(b.child("final_norm"), config.norm, config.hidden_size));
  head_ = config.tie_embeddings
              ? &embedding_->weight()
              : &parameter(b, "head", {vocab_size_, config.hidden_size}, ParameterKind::embedding);
}

Model::~Model() = default;

std::vector<int64_t> Model::experts_per_layer() const {
  std::vector<int64_t> result;
  result.reserve(routed_.size());
  for (const RoutedPlace& routed : routed_) result.push_back(routed.layer->num_experts());
  return result;
}

std::vector<Parameter*> Model::routed_parameters(int64_t layer) const {
  std::vector<Parameter*> result = routed_[static_cast<size_t>(layer)].sublayer->parameters();
  std::erase_if(
      result, [](const Parameter* parameter) { return parameter->stack != Stack::routed_experts; });
  return result;
}

Tensor Model::maybe_dropout(const ForwardContext& context, const Tensor& x, int64_t stream) const {
  if (!context.training || dropout_ == 0.0) return x;
  return dropout(context.tape, x, dropout_,
                 {context.random_key(RandomPurpose::dropout, stream),
                  context.layout.sequence_offsets, context.layout.global_samples});
}

Tensor Model::embed(const ForwardContext& context, const Tensor& tokens) const {
  const PhaseScope phase(context.tape, Phase::embedding_and_loss);
  Tensor hidden = embedding_->forward(context, tokens);
  if (positions_ != nullptr) {
    Tape& tape = context.tape;
    hidden = add(tape, hidden, embedding(tape, tape.use(*positions_), context.layout.positions));
  }
  return maybe_dropout(context, hidden, kEmbeddingStream);
}

BlockState Model::run_sublayer(const ForwardContext& context, const Sublayer& sublayer,
                               BlockState state) const {
  return with_context([&] { return sublayer.path; },
                      [&] {
                        const Tensor x = sublayer.norm->forward(context, state.hidden);
                        const Tensor y = sublayer.mixer != nullptr
                                             ? sublayer.mixer->forward(context, x, state)
                                             : sublayer.feed_forward->forward(context, x, state);
                        state.hidden = add(context.tape, state.hidden,
                                           maybe_dropout(context, y, sublayer.index));
                        return state;
                      });
}

BlockState Model::run_block(const ForwardContext& context, const Sublayer& sublayer,
                            BlockState state) const {
  const bool twice = context.recompute == Recompute::all ||
                     (context.recompute == Recompute::experts && sublayer.routes);
  if (!twice || !context.tape.recording()) return run_sublayer(context, sublayer, std::move(state));
  const StateKeys in = StateKeys::of(state);
  StateKeys out;
  // `out` is written in the first run only: in the second, this frame is gone, and that of
  // forward() with it, which is why the context is copied.
  const auto outputs = recompute(
      context.tape, StateKeys::flatten(state),
      [this, context, &sublayer, in, keys = &out](Tape& tape, std::span<const Tensor> tensors) {
        const BlockState result = run_sublayer(context.on(tape), sublayer, in.restore(tensors));
        if (!tape.recomputing()) *keys = StateKeys::of(result);
        return StateKeys::flatten(result);
      });
  return out.restore(outputs);
}

BlockState Model::forward(const ForwardContext& caller, const Tensor& tokens) const {
  const ForwardContext context = caller.with_tokens(tokens);
  BlockState state;
  state.hidden = embed(context, tokens);
  for (const Sublayer* sublayer : sublayers_)
    state = run_block(context, *sublayer, std::move(state));
  state.hidden = final_norm_->forward(context, state.hidden);
  return state;
}

Model::Loss Model::loss(const ForwardContext& context, const Tensor& tokens, const Tensor& targets,
                        const LossOptions& options) const {
  Tape& tape = context.tape;
  const BlockState state = forward(context, tokens);
  Loss result;
  const PhaseScope phase(tape, Phase::embedding_and_loss);
  const auto divisor = static_cast<double>(context.valid_tokens);
  const auto head = linear_cross_entropy(tape, state.hidden, tape.use(*head_), targets,
                                         {divisor, options.head_z_loss});
  result.total = head.loss;
  result.language_model = host_sum(head.token_loss) / divisor;
  for (size_t kind = 0; kind < kLossKinds; ++kind) {
    if (!state.losses[kind].defined()) continue;
    result.auxiliary[kind] = state.losses[kind].item();
    result.total = add(tape, result.total, state.losses[kind]);
  }
  if (options.consistency > 0.0) {
    SLUICE_INTERNAL_CHECK(context.layout.passes == 2, "consistency of {} passes",
                          context.layout.passes);
    const Tensor divergence =
        linear_consistency(tape, state.hidden, tape.use(*head_), targets, divisor);
    const Tensor weighted = scale(tape, divergence, options.consistency);
    result.consistency = weighted.item();
    result.total = add(tape, result.total, weighted);
  }
  return result;
}

Tensor Model::token_losses(const ForwardContext& context, const Tensor& tokens,
                           const Tensor& targets) const {
  Tape& tape = context.tape;
  const BlockState state = forward(context, tokens);
  const PhaseScope phase(tape, Phase::embedding_and_loss);
  return linear_cross_entropy(tape, state.hidden, tape.use(*head_), targets, {}).token_loss;
}

Tensor Model::logits(const ForwardContext& context, const Tensor& hidden) const {
  const PhaseScope phase(context.tape, Phase::embedding_and_loss);
  return linear(context.tape, hidden, context.tape.use(*head_));
}

bool Model::wants_expert_losses(const Progress& progress) const {
  return std::ranges::any_of(routed_, [&](const RoutedPlace& routed) {
    return routed.layer->wants_expert_losses(progress);
  });
}

void Model::add_expert_losses(const ForwardContext& context, int64_t expert,
                              const Tensor& losses) const {
  for (const RoutedPlace& routed : routed_)
    routed.layer->add_expert_losses(context, expert, losses);
}

void Model::end_step(RoutingSession& session, const Progress& progress) {
  for (const RoutedPlace& routed : routed_) routed.layer->end_step(session, progress);
}

DecodeState Model::start_decoding(Pool& pool, int64_t capacity) const {
  DecodeState state;
  for (const Sublayer* sublayer : sublayers_) {
    if (sublayer->mixer != nullptr) {
      state.mixers.push_back(sublayer->mixer->make_state(pool, dtype_, capacity));
    } else {
      state.feed_forwards.push_back(sublayer->feed_forward->make_state(pool, dtype_, capacity));
    }
  }
  return state;
}

Tensor Model::decode(const ForwardContext& caller, const Tensor& tokens, DecodeState& state) const {
  ForwardContext context = caller.with_tokens(tokens);
  const NoGrad no_grad(context.tape);
  BlockState block;
  block.hidden = embed(context, tokens);
  size_t mixer = 0;
  size_t feed_forward = 0;
  for (const Sublayer* sublayer : sublayers_) {
    const Tensor x = sublayer->norm->forward(context, block.hidden);
    Tensor y;
    if (sublayer->mixer != nullptr) {
      y = sublayer->mixer->decode(context, x, block, *state.mixers[mixer++]);
    } else {
      context.memory = state.feed_forwards[feed_forward++].get();
      y = sublayer->feed_forward->forward(context, x, block);
    }
    block.hidden = add(context.tape, block.hidden, y);
  }
  state.length += tokens.numel();
  return final_norm_->forward(context, block.hidden);
}

}  // namespace sluice
