// Product-key memory (Lample et al. 2019, arXiv 1907.05242): a feed-forward whose hidden layer is a table
// of n^2 values of which each head reads the k whose keys suit the token best (product_keys.h):
//
//   y = sum over heads, over the k found entries i of softmax(s)_i V_i,   V [n^2, D]
//
// With an output gate (output_gate.h) y is a factual memory that a trained backbone can be given (Hydra
// proposal). Of V only the rows that were read get a gradient other than 0; the optimizer still visits all of them.

#include "autograd/ops/embedding_bag.h"
#include "layers/model.h"
#include "layers/output_gate.h"
#include "layers/product_keys.h"

namespace sluice {
namespace {

/// `model.product_key_memory`, or a variant of this type.
struct MemoryConfig final : Configurable {
  int64_t num_keys = 128;
  int64_t num_heads = 4;
  int64_t key_size = 64;
  int64_t top_k = 16;
  bool normalise_queries = true;
  OutputGateConfig gate;
  void fields(FieldVisitor& v) override {
    v.integer({"num_keys", "keys n of one codebook; the memory has n^2 values"}, num_keys,
              {.min = 1, .max = 32768});
    v.integer({"num_heads", "heads H, each with queries and codebooks of its own"}, num_heads,
              {.min = 1});
    v.integer({"key_size", "width of a key of one codebook, half of a query"}, key_size,
              {.min = 1});
    v.integer({"top_k", "values that a head reads"}, top_k, {.min = 1});
    v.boolean({"normalise_queries", "RMSNorm of the two halves of a query"}, normalise_queries);
    gate.fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (top_k <= num_keys) return {};
    return fmt::format("top_k: found {}, allowed 1 to {} (num_keys)", top_k, num_keys);
  }
};

class ProductKeyMemory final : public FeedForward {
 public:
  ProductKeyMemory(const Builder& b, const ModelConfig& model, const MemoryConfig& config)
      : keys_(child(std::make_unique<ProductKeys>(
            b,
            ProductKeysSpec{model.hidden_size, config.num_heads, config.num_keys, config.key_size,
                            config.top_k, config.normalise_queries},
            model.norm.eps))),
        values_(parameter(b, "values", {config.num_keys * config.num_keys, model.hidden_size},
                          ParameterKind::matrix, Init::residual())),
        gate_(child(std::make_unique<OutputGate>(b, model.hidden_size, config.gate))) {
    values_.stays_f32 = true;
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    const PhaseScope phase(context.tape, Phase::feed_forward);
    const FoundEntries found = keys_.find(context, x);
    return gate_.apply(context, x,
                       embedding_bag(context.tape, context.tape.use(values_), found.ids,
                                     keys_.softmax_by_head(context, found.scores)));
  }

 private:
  ProductKeys& keys_;
  Parameter& values_;
  const OutputGate& gate_;
};

}  // namespace

const FeedForwardEntry product_key_memory_feed_forward = {
    .name = "product_key_memory",
    .symbol = kNoSymbol,
    .section = "product_key_memory",
    .doc = "a large table read by product keys (Lample et al. 2019, arXiv 1907.05242)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MemoryConfig>();
    },
    .check = nullptr,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<FeedForward> {
      return std::make_unique<ProductKeyMemory>(b.child("memory"), model,
                                                dynamic_cast<const MemoryConfig&>(config));
    },
};

}  // namespace sluice
