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
#include "layers/depth.h"
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
  using Names = std::array<std::string_view, SideTensors::kMaxSize>;
  Names side{};
  size_t num_side = 0;
  Names key_values{};
  size_t num_key_values = 0;

  static StateKeys of(const BlockState& state) {
    StateKeys keys;
    for (size_t kind = 0; kind < kLossKinds; ++kind)
      keys.has_loss[kind] = state.losses[kind].defined();
    for (const auto& [name, tensor] : state.side) keys.side[keys.num_side++] = name;
    for (const auto& [name, tensor] : state.key_values)
      keys.key_values[keys.num_key_values++] = name;
    return keys;
  }
  [[nodiscard]] static TensorList flatten(const BlockState& state) {
    TensorList tensors = {state.hidden};
    for (const Tensor& loss : state.losses) {
      if (loss.defined()) tensors.push_back(loss);
    }
    for (const auto& [name, tensor] : state.side) tensors.push_back(tensor);
    for (const auto& [name, tensor] : state.key_values) tensors.push_back(tensor);
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
    for (size_t i = 0; i < num_key_values; ++i) state.key_values[key_values[i]] = tensors[next++];
    return state;
  }
};

}  // namespace

/// One symbol of the pattern: a norm, and a mixer or a feed-forward.
struct Model::Sublayer final : public Module {
  std::string path;
  int64_t index = 0;
  bool routes = false;
  Norm* norm = nullptr;  // null: mixer or feed-forward normalises
  Mixer* mixer = nullptr;
  FeedForward* feed_forward = nullptr;

  Sublayer(const Builder& b, const ModelConfig& config, const SublayerSpec& spec,
           const SublayerPlace& place)
      : path(b.path()), index(place.index), routes(spec.routing() != nullptr) {
    if (!spec.normalises()) {
      norm = &child(std::make_unique<Norm>(b.child("norm"), config.norm, config.hidden_size));
    }
    if (spec.mixer != nullptr) {
      mixer = &child(spec.mixer->make(b, config, *spec.config, place));
    } else {
      feed_forward = &child(spec.feed_forward->make(b, config, *spec.config, place));
    }
  }

  /// What mixer or feed-forward reads.
  [[nodiscard]] Tensor input(const ForwardContext& context, const BlockState& state) const {
    return norm == nullptr ? state.hidden : norm->forward(context, state.hidden);
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
      dropout_(config.dropout),
      modalities_(config.told_modalities()),
      domain_modalities_(config.domain_modalities) {
  SLUICE_CHECK(ConfigError, vocab_size_ >= 2,
               "model.vocab_size: not known; give a number or a tokenizer");
  const Builder b(pool, dtype_, seed, config.init, std::ssize(config.sublayers()));
  embedding_ =
      &child(std::make_unique<Embedding>(b.child("embedding"), vocab_size_, config.hidden_size));
  if (config.learned_positions) {
    positions_ = &parameter(b, "positions", {*config.learned_positions, config.hidden_size},
                            ParameterKind::embedding);
  }
  adapter_pools_ = &child(std::make_unique<AdapterPools>(b.child("adapters")));
  ExpertPools pools;
  SublayerPlace place{0, 0};
  place.pools = &pools;
  SharedGates gates;
  place.gates = &gates;
  add_blocks(b, config, config.sublayers(), place);
  trunk_blocks_ = blocks_.size();
  final_norm_ =
      &child(std::make_unique<Norm>(b.child("final_norm"), config.norm, config.hidden_size));
  head_ = config.tie_embeddings
              ? &embedding_->weight()
              : &parameter(b, "head", {vocab_size_, config.hidden_size}, ParameterKind::embedding);
  multi_token_ = config.multi_token();
  for (int64_t j = 0; multi_token_ != nullptr && j < multi_token_->num_depths; ++j) {
    const Builder of_depth = b.child(fmt::format("multi_token.{}", j));
    auto& depth =
        child(std::make_unique<PredictionDepth>(of_depth, config.norm, config.hidden_size));
    place.attention = nullptr;
    gates.close();
    const size_t first_block = blocks_.size();
    add_blocks(of_depth, config, config.prediction_sublayers(), place);
    predictions_.push_back({&depth, first_block, blocks_.size()});
  }
}

void Model::add_blocks(const Builder& b, const ModelConfig& config,
                       std::span<const SublayerSpec> specs, SublayerPlace& place) {
  for (size_t i = 0; i < specs.size(); ++i) {
    const SublayerSpec& spec = specs[i];
    const bool in_group = spec.group >= 0;
    const bool begins = i == 0 || specs[i - 1].group != spec.group;
    const bool ends = i + 1 == specs.size() || specs[i + 1].group != spec.group;
    if (!in_group) blocks_.push_back({.begin = place.index, .end = place.index});
    if (in_group && begins) {
      start_group(b.child(fmt::format("depths.{}", spec.group)), config, place);
    }
    add_sublayer(b, config, spec, place);
    if (in_group && ends) end_group(place);
  }
}

void Model::add_routed_layers(SublayerBody& body, SublayerPlace& place) {
  for (RoutedLayer* routed : body.routed_layers()) {
    SLUICE_INTERNAL_CHECK(routed->layer() == place.routed_layer,
                          "routed layer {} says that it is number {}", place.routed_layer,
                          routed->layer());
    ++place.routed_layer;
    routed_.push_back({routed, &body, nullptr, 0});
    if (place.first_router == nullptr) place.first_router = &routed->router();
  }
}

void Model::add_routed_adapters(std::span<const AdaptedLinear> adapters, SublayerPlace& place) {
  for (const AdaptedLinear& adapted : adapters) {
    RoutedLayer* routed = adapted.adapter->routed_layer();
    if (routed == nullptr) continue;
    SLUICE_INTERNAL_CHECK(routed->layer() == place.routed_layer,
                          "routed layer {} of an adapter says that it is number {}",
                          place.routed_layer, routed->layer());
    ++place.routed_layer;
    routed_.push_back({routed, nullptr, adapted.adapter, 0});
  }
}

void Model::add_sublayer(const Builder& b, const ModelConfig& config, const SublayerSpec& spec,
                         SublayerPlace& place) {
  const Builder of_layer = b.child(fmt::format("layers.{}", place.index));
  // Routed layers of adapters are numbered behind those of the sublayer itself.
  const RoutingConfig* routing = spec.routing();
  const int64_t own_routed = routing == nullptr ? 0 : routing->num_routed_layers(config);
  SublayerAdapters adapters(config.adapters_of(spec, place.index), of_layer.path(),
                            place.routed_layer + own_routed, *adapter_pools_);
  auto& sublayer = child(std::make_unique<Sublayer>(
      config.adapters.empty() ? of_layer : of_layer.with_adapters(adapters), config, spec, place));
  sublayers_.push_back(&sublayer);
  blocks_.back().end = ++place.index;
  add_routed_layers(sublayer.body(), place);
  const std::vector<AdaptedLinear> adapted = adapters.finish();
  add_routed_adapters(adapted, place);
  adapted_.insert(adapted_.end(), adapted.begin(), adapted.end());
  AttentionSource* attention =
      sublayer.mixer != nullptr ? sublayer.mixer->attention_source() : nullptr;
  if (attention != nullptr) place.attention = attention;
}

void Model::start_group(const Builder& b, const ModelConfig& config, SublayerPlace& place) {
  const DepthEntry& entry = depth_registry().at(config.depth.type);
  Depth& depth = child(entry.make(b, config.hidden_size, *config.depth.config, place));
  add_routed_layers(depth, place);
  blocks_.push_back({.begin = place.index,
                     .end = place.index,
                     .depth = &depth,
                     .visits = entry.visits(*config.depth.config),
                     .first_routed = place.routed_layer,
                     .attention_before = std::exchange(place.attention, nullptr)});
  place.gates->close();
}

void Model::end_group(SublayerPlace& place) {
  Block& group = blocks_.back();
  place.attention = group.attention_before;
  place.gates->close();
  group.routed_layers = place.routed_layer - group.first_routed;
  for (int64_t visit = 1; visit < group.visits; ++visit) {
    for (int64_t i = 0; i < group.routed_layers; ++i) {
      RoutedPlace again = routed_[static_cast<size_t>(group.first_routed + i)];
      again.shift = visit * group.routed_layers;
      routed_.push_back(again);
    }
    place.routed_layer += group.routed_layers;
  }
}

Model::~Model() = default;

std::vector<int64_t> Model::experts_per_layer() const {
  std::vector<int64_t> result;
  result.reserve(routed_.size());
  for (const RoutedPlace& routed : routed_) result.push_back(routed.layer->num_experts());
  return result;
}

bool Model::belongs_to_adapter(const Parameter& parameter) const {
  return std::ranges::any_of(adapted_, [&](const AdaptedLinear& adapted) {
    return std::ranges::count(adapted.adapter->parameters(), &parameter) > 0;
  });
}

std::vector<Parameter*> Model::routed_parameters(int64_t layer) const {
  const RoutedPlace& place = routed_[static_cast<size_t>(layer)];
  std::vector<Parameter*> parameters =
      place.adapter != nullptr ? place.adapter->parameters() : place.owner->routed_parameters();
  const bool of_adapter = place.adapter != nullptr;
  std::erase_if(parameters, [&](const Parameter* parameter) {
    return of_adapter ? parameter->stack != Stack::routed_experts : belongs_to_adapter(*parameter);
  });
  return parameters;
}

void Model::tell_modalities(const ForwardContext& context, std::span<int32_t> modalities) const {
  const SequenceLayout& layout = context.layout;
  for (size_t document = 0; document < static_cast<size_t>(layout.documents()); ++document) {
    int32_t of_all = kByTokenId;
    if (!domain_modalities_.empty()) {
      const auto domain = static_cast<size_t>(layout.document_domains[document]);
      SLUICE_INTERNAL_CHECK(domain < domain_modalities_.size(),
                            "a document of domain {}, of {} that have modalities", domain,
                            domain_modalities_.size());
      of_all = domain_modalities_[domain];
    }
    const auto end = static_cast<size_t>(layout.document_offsets[document + 1]);
    for (auto i = static_cast<size_t>(layout.document_offsets[document]); i < end; ++i) {
      modalities[i] = of_all == kByTokenId ? modalities_->of_token(context.token_ids[i]) : of_all;
    }
  }
}

ForwardContext Model::with_tokens(const ForwardContext& caller, const Tensor& tokens) const {
  ForwardContext context = caller.with_tokens(tokens);
  if (modalities_ == nullptr || context.token_ids.empty()) return context;
  ArenaScope scratch(thread_arena());
  const size_t count = context.token_ids.size();
  const std::span modalities(scratch.allocate<int32_t>(std::ssize(context.token_ids)), count);
  tell_modalities(context, modalities);
  context.modalities = context.tape.keep(std::span<const int32_t>(modalities));
  return context;
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
  ForwardContext inner = context;
  inner.block = &state;
  return with_context([&] { return sublayer.path; },
                      [&] {
                        const Tensor x = sublayer.input(inner, state);
                        const Tensor y = sublayer.mixer != nullptr
                                             ? sublayer.mixer->forward(inner, x, state)
                                             : sublayer.feed_forward->forward(inner, x, state);
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

BlockState Model::walk(std::span<const Block> blocks, const ForwardContext& context,
                       BlockState state, SublayerPass pass) const {
  for (const Block& block : blocks) {
    const auto visit_block = [&](const ForwardContext& inner, BlockState at, int64_t visit) {
      ForwardContext visiting = inner;
      visiting.routed_shift = visit * block.routed_layers;
      if (inner.layout.tokens() == 0) {
        for (int64_t i = 0; i < block.routed_layers; ++i) {
          routed_[static_cast<size_t>(block.first_routed + i)].layer->skip(visiting);
        }
        return at;
      }
      for (int64_t i = block.begin; i < block.end; ++i)
        at = pass(visiting, i, visit, std::move(at));
      return at;
    };
    state = block.depth == nullptr ? visit_block(context, std::move(state), 0)
                                   : block.depth->forward(context, std::move(state), visit_block);
  }
  return state;
}

BlockState Model::run_blocks(std::span<const Block> blocks, const ForwardContext& context,
                             BlockState state) const {
  return walk(blocks, context, std::move(state),
              [&](const ForwardContext& at, int64_t sublayer, int64_t, BlockState before) {
                return run_block(at, *sublayers_[static_cast<size_t>(sublayer)], std::move(before));
              });
}

std::vector<Model::Predicted> Model::predict_further(const ForwardContext& context,
                                                     const Tensor& tokens,
                                                     BlockState& trunk) const {
  std::vector<Predicted> result;
  Tensor hidden = trunk.hidden;
  for (size_t j = 0; j < predictions_.size(); ++j) {
    const Prediction& prediction = predictions_[j];
    const auto rows =
        PredictionDepth::rows(j == 0 ? context : result[j - 1].rows->context(context));
    if (rows->tokens() == 0) break;
    const Tensor ids = PredictionDepth::shifted(context.tape.pool(), tokens, context.layout,
                                                rows->layout, static_cast<int64_t>(j) + 1);
    const ForwardContext inner = with_tokens(rows->context(context), ids);
    BlockState state;
    state.losses = trunk.losses;
    state.hidden =
        prediction.depth->input(inner, *embedding_, ids, rows->gather(context.tape, hidden));
    state = run_blocks(std::span(blocks_).subspan(prediction.first_block,
                                                  prediction.end_block - prediction.first_block),
                       inner, std::move(state));
    trunk.losses = state.losses;
    hidden = state.hidden;
    result.push_back({prediction.depth->output(inner, hidden), rows});
  }
  return result;
}

Model::Pass Model::pass(const ForwardContext& caller, const Tensor& tokens) const {
  const ForwardContext context = with_tokens(caller, tokens);
  if (context.training && context.routing != nullptr) {
    for (const Sublayer* sublayer : sublayers_) {
      const int64_t size = sublayer->body().num_sums();
      if (size > 0) (void)context.routing->layer_sums(sublayer->index, size);
    }
  }
  Pass result;
  result.state.hidden = embed(context, tokens);
  result.state = run_blocks(trunk(), context, std::move(result.state));
  if (context.training) result.predicted = predict_further(context, tokens, result.state);
  result.state.hidden = final_norm_->forward(context, result.state.hidden);
  return result;
}

BlockState Model::forward(const ForwardContext& context, const Tensor& tokens) const {
  return pass(context, tokens).state;
}

BlockState Model::forward(const ForwardContext& caller, const Tensor& tokens,
                          StreamHook hook) const {
  const ForwardContext context = with_tokens(caller, tokens);
  BlockState state;
  state.hidden = embed(context, tokens);
  state = walk(trunk(), context, std::move(state),
               [&](const ForwardContext& at, int64_t index, int64_t, BlockState before) {
                 const Sublayer& sublayer = *sublayers_[static_cast<size_t>(index)];
                 Tensor input;
                 {
                   const NoGrad no_grad(at.tape);
                   input = sublayer.input(at, before);
                 }
                 before.hidden = hook(index, before.hidden, input);
                 return run_sublayer(at, sublayer, std::move(before));
               });
  const int64_t behind = blocks_[trunk_blocks_ - 1].end;
  state.hidden = final_norm_->forward(context, hook(behind, state.hidden, {}));
  return state;
}

Tensor Model::loss_of(const ForwardContext& context, const Tensor& hidden,
                      const Tensor& targets) const {
  const PhaseScope phase(context.tape, Phase::embedding_and_loss);
  return linear_cross_entropy(context.tape, hidden, context.tape.use(*head_), targets,
                              {static_cast<double>(context.valid_tokens), 0.0})
      .loss;
}

Tensor Model::multi_token_loss(const ForwardContext& context, std::span<const Predicted> predicted,
                               const Tensor& targets) const {
  Tape& tape = context.tape;
  const double weight = multi_token_->coefficient.at(context.progress) /
                        static_cast<double>(multi_token_->num_depths);
  Tensor total;
  for (size_t j = 0; j < predicted.size(); ++j) {
    const Tensor later =
        PredictionDepth::shifted(tape.pool(), targets, context.layout, predicted[j].rows->layout,
                                 static_cast<int64_t>(j) + 1);
    const auto head = linear_cross_entropy(tape, predicted[j].hidden, tape.use(*head_), later,
                                           {static_cast<double>(context.valid_tokens), 0.0});
    const Tensor loss = scale(tape, head.loss, weight);
    total = total.defined() ? add(tape, total, loss) : loss;
  }
  return total;
}

Model::Loss Model::loss(const ForwardContext& context, const Tensor& tokens, const Tensor& targets,
                        const LossOptions& options) const {
  Tape& tape = context.tape;
  auto [state, predicted] = pass(context, tokens);
  Loss result;
  const PhaseScope phase(tape, Phase::embedding_and_loss);
  if (!predicted.empty()) {
    state.add_loss(tape, {LossKind::multi_token, multi_token_loss(context, predicted, targets)});
  }
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
  for (const RoutedPlace& routed : routed_) routed.layer->end_step(session, routed.shift, progress);
  for (const Sublayer* sublayer : sublayers_) {
    const int64_t size = sublayer->body().num_sums();
    if (size > 0) sublayer->body().end_step(session.layer_sums(sublayer->index, size), progress);
  }
}

DecodeState Model::start_decoding(Pool& pool, int64_t capacity) const {
  DecodeState state;
  for (const Block& block : trunk()) {
    for (int64_t i = block.begin; i < block.end; ++i) {
      const Sublayer& sublayer = *sublayers_[static_cast<size_t>(i)];
      auto& visits = state.sublayers.emplace_back();
      for (int64_t visit = 0; visit < block.visits; ++visit) {
        DecodeState::Kept& kept = visits.emplace_back();
        if (sublayer.mixer != nullptr) {
          const bool has_own =
              visit == 0 || block.depth == nullptr || !block.depth->shares_key_values();
          if (has_own) kept.mixer = sublayer.mixer->make_state(pool, dtype_, capacity);
        } else {
          kept.feed_forward = sublayer.feed_forward->make_state(pool, dtype_, capacity);
        }
      }
    }
  }
  return state;
}

Tensor Model::decode(const ForwardContext& caller, const Tensor& tokens, DecodeState& state) const {
  ForwardContext context = caller.with_tokens(tokens);
  // In memory of this call: the caller's tape may never be reset.
  ArenaScope scratch(thread_arena());
  if (modalities_ != nullptr && !context.token_ids.empty()) {
    const size_t count = context.token_ids.size();
    const std::span modalities(scratch.allocate<int32_t>(std::ssize(context.token_ids)), count);
    tell_modalities(context, modalities);
    context.modalities = modalities;
  }
  const NoGrad no_grad(context.tape);
  BlockState block;
  block.hidden = embed(context, tokens);
  block = walk(trunk(), context, std::move(block),
               [&](const ForwardContext& outer, int64_t index, int64_t visit, BlockState at) {
                 const Sublayer& sublayer = *sublayers_[static_cast<size_t>(index)];
                 auto& visits = state.sublayers[static_cast<size_t>(index)];
                 const DecodeState::Kept& kept = visits[static_cast<size_t>(visit)];
                 MixerState* const of_mixer =
                     visits[outer.sharing != nullptr ? 0 : static_cast<size_t>(visit)].mixer.get();
                 ForwardContext inner = outer;
                 inner.memory = kept.feed_forward.get();
                 inner.block = &at;
                 const Tensor x = sublayer.input(inner, at);
                 const Tensor y = sublayer.mixer != nullptr
                                      ? sublayer.mixer->decode(inner, x, at, *of_mixer)
                                      : sublayer.feed_forward->forward(inner, x, at);
                 at.hidden = add(inner.tape, at.hidden, y);
                 return at;
               });
  state.length += tokens.numel();
  return final_norm_->forward(context, block.hidden);
}

}  // namespace sluice
