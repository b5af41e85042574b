// MoIIE, intra- and inter-modality experts (Wang et al. 2025, arXiv 2508.09779): each modality has a
// router of its own, which chooses among experts that only its tokens reach and experts that the tokens
// of all reach.
//
// The E experts stand in the order [of modality 0 | shared | of modality 1 | of modality 2 ...]. A router
// of `num_experts` outputs r knows the shared ones and `own_experts` of its modality; with S shared and O
// own experts, r of modality 0 is expert r, and of modality m > 0
//
//   O + r             for r < S
//   O + r + (m-1) O   for r >= S
//
// so that with two modalities, as published, r of the second is expert r + O (E = 8: [2 | 4 | 2]; the
// published code adds 1, which is right for E = 4 only; more modalities are ours). Routers, balancers
// and capacities see the tokens of their modality alone; losses are divided by the tokens of the whole
// global batch, so that each router counts by its share of them. The experts' products are one.
//
// Letters: N tokens, D hidden size, E experts, k experts per token.

#include <algorithm>
#include <array>

#include "autograd/ops/reshape.h"
#include "layers/experts.h"
#include "layers/modalities.h"
#include "layers/model.h"
#include "layers/routed_layer.h"
#include "layers/token_subset.h"

namespace sluice {
namespace {

/// `model.modality_experts`, or a variant of this type.
struct ModalityExpertsConfig final : RoutingConfig {
  std::optional<int64_t> own_experts;  // auto: a third of num_experts
  int64_t intermediate_size = 256;
  Tagged form = default_experts();
  ModalityExpertsConfig()
      : RoutingConfig({"num_experts",
                       "experts that a token may go to: those of its modality and those that all "
                       "modalities share"}) {
    num_experts = 12;
  }
  void fields(FieldVisitor& v) override {
    count_fields(v);
    v.optional_integer(
        {"own_experts", "experts of each modality that no other reaches (auto: num_experts / 3)"},
        own_experts, {.min = 0}, "auto");
    v.integer({"intermediate_size", "hidden width F of one expert"}, intermediate_size, {.min = 1});
    v.tagged({"form", "what one expert is"}, form, experts_choices());
    route_fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (own() > num_experts) {
      return fmt::format("own_experts: found {}, allowed 0 to {} (num_experts)", own(),
                         num_experts);
    }
    return RoutingConfig::check();
  }
  [[nodiscard]] int64_t num_routed_layers(const ModelConfig& model) const override {
    return num_modalities(model);
  }
  [[nodiscard]] double share_of_tokens(const ModelConfig& model) const override {
    return 1.0 / static_cast<double>(num_modalities(model));
  }

  [[nodiscard]] int64_t own() const { return own_experts.value_or(num_experts / 3); }
  [[nodiscard]] int64_t shared() const { return num_experts - own(); }
  /// The expert that output r of the router of modality m stands for.
  [[nodiscard]] int64_t expert_of(int64_t m, int64_t r) const {
    if (m == 0) return r;
    return own() + r + (r < shared() ? 0 : (m - 1) * own());
  }
};

/// The memories of the routers, by modality.
struct ModalityExpertsState final : FeedForwardState {
  std::vector<std::unique_ptr<FeedForwardState>> routers;
};

class ModalityExperts final : public FeedForward {
 public:
  ModalityExperts(const Builder& b, const ModelConfig& model, const ModalityExpertsConfig& config,
                  const SublayerPlace& place)
      : config_(config),
        modalities_(num_modalities(model)),
        num_experts_(config.shared() + modalities_ * config.own()) {
    const int64_t d = model.hidden_size;
    for (int64_t m = 0; m < modalities_; ++m) {
      routed_.push_back(&child(std::make_unique<RoutedLayer>(
          b.child(fmt::format("modalities.{}", m)), config, d, place.routed_layer + m, place)));
    }
    experts_ = &child(
        make_experts(b.child("experts"), {num_experts_, d, config.intermediate_size}, config.form));
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return routed_; }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override {
    auto state = std::make_unique<ModalityExpertsState>();
    for (const RoutedLayer* routed : routed_) {
      state->routers.push_back(routed->make_state(pool, dtype, capacity));
    }
    return state;
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const ModalityRows rows(context, modalities_);
    const Joined joined = join(route(context, x, rows, state), tape);
    const PhaseScope phase(tape, Phase::experts);
    const DispatchPlan plan =
        make_dispatch_plan(tape.pool(), joined.expert, x.dim(0), joined.top_k, num_experts_);
    return rows.scatter(tape, experts_->forward(context, joined.input, joined.weights, plan));
  }

 private:
  /// What became of the tokens of one modality: a part of the rows in order of modalities.
  struct Part {
    int64_t modality;
    Route route;
  };
  /// Of all rows.
  struct Joined {
    int64_t top_k;
    std::vector<int32_t> expert;  // [N, top_k], numbers among all experts
    Tensor weights;               // [N, top_k]
    Tensor input;                 // [N, D]
  };

  [[nodiscard]] std::vector<Part> route(const ForwardContext& whole, const Tensor& x,
                                        const ModalityRows& rows, BlockState& state) const {
    const auto* memory = dynamic_cast<ModalityExpertsState*>(whole.memory);
    std::vector<Part> parts;
    for (int64_t m = 0; m < modalities_; ++m) {
      const RoutedLayer& routed = *routed_[static_cast<size_t>(m)];
      std::vector<uint8_t> chosen(static_cast<size_t>(x.dim(0)), m == 0 ? 1 : 0);
      if (rows.ids.has_memory()) {
        std::ranges::transform(rows.ids.span<int32_t>(), chosen.begin(),
                               [&](int32_t id) -> uint8_t { return id == m ? 1 : 0; });
      }
      const auto subset = TokenSubset::of(whole, chosen);
      if (subset->tokens() == 0) {
        routed.skip(whole);
        continue;
      }
      ForwardContext context = subset->context(whole);
      context.memory = memory == nullptr ? nullptr : memory->routers[static_cast<size_t>(m)].get();
      parts.push_back({m, routed.route(context, subset->gather(whole.tape, x), state)});
    }
    return parts;
  }

  [[nodiscard]] Joined join(std::span<const Part> parts, Tape& tape) const {
    Joined joined{.top_k = 1};
    for (const Part& part : parts) {
      joined.top_k = std::max(joined.top_k, part.route.selection.top_k);
    }
    std::vector<Tensor> weights;
    std::vector<Tensor> inputs;
    for (const Part& part : parts) {
      append(part, joined);
      weights.push_back(widened(tape, part.route.weights, joined.top_k));
      inputs.push_back(part.route.input);
    }
    joined.weights = weights.size() == 1 ? weights.front() : concat_rows(tape, weights);
    joined.input = inputs.size() == 1 ? inputs.front() : concat_rows(tape, inputs);
    return joined;
  }

  /// The experts of the part's tokens, with empty slots up to the joint top_k.
  void append(const Part& part, Joined& joined) const {
    const Selection& selection = part.route.selection;
    const std::vector<int32_t>& chosen =
        selection.dispatched.empty() ? selection.expert : selection.dispatched;
    for (int64_t token = 0; token < selection.tokens; ++token) {
      for (int64_t slot = 0; slot < joined.top_k; ++slot) {
        const int32_t local = slot < selection.top_k
                                  ? chosen[static_cast<size_t>(token * selection.top_k + slot)]
                                  : kNoExpert;
        joined.expert.push_back(
            local == kNoExpert ? kNoExpert
                               : static_cast<int32_t>(config_.expert_of(part.modality, local)));
      }
    }
  }

  /// weights [n, k] with columns of zeros up to `top_k`.
  [[nodiscard]] static Tensor widened(Tape& tape, const Tensor& weights, int64_t top_k) {
    const int64_t missing = top_k - weights.dim(1);
    if (missing == 0) return weights;
    const std::array<Tensor, 2> parts{weights,
                                      tape.zeros({weights.dim(0), missing}, weights.dtype())};
    return concat_columns(tape, parts);
  }

  ModalityExpertsConfig config_;
  int64_t modalities_;
  int64_t num_experts_;
  std::vector<RoutedLayer*> routed_;
  Experts* experts_;
};

std::string check_modality_experts(const ModelConfig& /*model*/, const Configurable& section) {
  const auto& config = dynamic_cast<const ModalityExpertsConfig&>(section);
  if (!config.reads_attention()) return {};
  return fmt::format(
      "router: found type {}, which reads the attention among all tokens; a router here sees those "
      "of one modality",
      config.router.type);
}

}  // namespace

const FeedForwardEntry modality_experts_feed_forward = {
    .name = "modality_experts",
    .symbol = kNoSymbol,
    .section = "modality_experts",
    .doc = "experts of each modality and experts that all share, a router for each (MoIIE 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ModalityExpertsConfig>();
    },
    .check = check_modality_experts,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<ModalityExperts>(
          b, model, dynamic_cast<const ModalityExpertsConfig&>(config), place);
    },
    .by_modality = true,
};

}  // namespace sluice
