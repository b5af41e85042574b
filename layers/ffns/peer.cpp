// PEER, parameter-efficient expert retrieval (He 2024, arXiv 2407.04153): n^2 experts of one neuron each,
// of which every head retrieves k by product keys (product_keys.h):
//
//   y = sum over heads, over the k found experts i of w_i gelu(<u_i, x>) v_i,   w = softmax(s)
//
// As an MLP of width H k that is put together anew for every token. `weights: relu` lets the entries of a
// head not compete, w = max(s, 0) (a published variant of open implementations). gelu is the tanh form.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding_bag.h"
#include "layers/model.h"
#include "layers/product_keys.h"

namespace sluice {
namespace {

/// `model.peer`, or a variant of this type.
struct PeerConfig final : Configurable {
  enum class Weights : uint8_t { softmax, relu };
  int64_t num_keys = 64;
  int64_t num_heads = 8;
  int64_t top_k = 16;
  std::optional<int64_t> key_size;
  Weights weights = Weights::softmax;
  bool normalise_queries = false;
  void fields(FieldVisitor& v) override {
    v.integer({"num_keys", "keys n of one codebook; there are n^2 experts"}, num_keys,
              {.min = 1, .max = 32768});
    v.integer({"num_heads", "heads, each with queries and codebooks of its own"}, num_heads,
              {.min = 1});
    v.integer({"top_k", "experts that a head retrieves"}, top_k, {.min = 1});
    v.optional_integer({"key_size", "width of a key of one codebook (auto: hidden_size / 2)"},
                       key_size, {.min = 1}, "auto");
    v.enumeration({"weights", "of a head's experts: softmax, or relu, which lets them not compete"},
                  weights, {{"softmax", Weights::softmax}, {"relu", Weights::relu}});
    v.boolean({"normalise_queries", "RMSNorm of the two halves of a query"}, normalise_queries);
  }
  [[nodiscard]] std::string check() const override {
    if (top_k <= num_keys) return {};
    return fmt::format("top_k: found {}, allowed 1 to {} (num_keys)", top_k, num_keys);
  }
};

class Peer final : public FeedForward {
 public:
  Peer(const Builder& b, const ModelConfig& model, const PeerConfig& config)
      : weights_(config.weights),
        keys_(child(std::make_unique<ProductKeys>(
            b,
            ProductKeysSpec{model.hidden_size, config.num_heads, config.num_keys,
                            config.key_size.value_or(std::max<int64_t>(1, model.hidden_size / 2)),
                            config.top_k, config.normalise_queries},
            model.norm.eps))),
        up_(parameter(b, "w_up", {config.num_keys * config.num_keys, model.hidden_size},
                      ParameterKind::matrix)),
        down_(parameter(b, "w_down", {config.num_keys * config.num_keys, model.hidden_size},
                        ParameterKind::matrix, Init::residual())) {
    up_.stays_f32 = true;
    down_.stays_f32 = true;
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::feed_forward);
    const FoundEntries found = keys_.find(context, x);
    const Tensor weights = weights_ == PeerConfig::Weights::softmax
                               ? keys_.softmax_by_head(context, found.scores)
                               : relu(tape, found.scores);
    const Tensor hidden = gelu_tanh(tape, embedding_dots(tape, x, tape.use(up_), found.ids));
    return embedding_bag(tape, tape.use(down_), found.ids, mul(tape, weights, hidden));
  }

 private:
  PeerConfig::Weights weights_;
  ProductKeys& keys_;
  Parameter& up_;
  Parameter& down_;
};

}  // namespace

const FeedForwardEntry peer_feed_forward = {
    .name = "peer",
    .symbol = kNoSymbol,
    .section = "peer",
    .doc = "experts of one neuron, retrieved by product keys (PEER, He 2024, arXiv 2407.04153)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<PeerConfig>(); },
    .check = nullptr,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<FeedForward> {
      return std::make_unique<Peer>(b.child("peer"), model,
                                    dynamic_cast<const PeerConfig&>(config));
    },
};

}  // namespace sluice
