// Experts for a document, not for a token: the router reads the mean of the document's tokens (Union of
// Experts, Yang et al. 2025, arXiv 2503.02495: expert selection).
//
//   z_t = W mean of x_s,   s over the tokens of t's document;   softmax, top-k
//
// The published router reads the whole text, flattened; that fixes its length, so the mean takes its place
// (method page). A model that writes text cannot read what it has not written: `over: prefix` (ours) takes
// the mean over the tokens up to t, in training and evaluation alike, so that a document's experts settle as
// it grows. `over: document` is the published choice in training, of a mean that looks at later tokens; it
// evaluates by prefix. All tokens count for the mean, those without a loss too: it is part of the choice.

#include <algorithm>

#include "autograd/ops/embedding.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/running_mean.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct DocumentMeanConfig final : TopKRouterConfig {
  enum class Over : uint8_t { prefix, document };
  Over over = Over::prefix;
  DocumentMeanConfig() { weights = "as_is"; }

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.enumeration(
        {"over",
         "tokens of the mean: prefix, those so far; document, in training all (not causal)"},
        over, {{"prefix", Over::prefix}, {"document", Over::document}});
  }
  [[nodiscard]] bool looks_ahead() const override { return over == Over::document; }
};

/// The sum of a document's tokens so far.
struct MeanState final : FeedForwardState {
  std::vector<double> sums;  // [D]
  int64_t tokens = 0;
};

class DocumentMeanRouter final : public TopKRouter {
 public:
  DocumentMeanRouter(const Builder& b, const RouterSetup& setup, const DocumentMeanConfig& config)
      : TopKRouter(b, setup, config), width_(setup.hidden_size), over_(config.over) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    const Tensor mean = router_input(context, mean_of(context, x));
    return from_logits(context, linear(context.tape, mean, context.tape.use(weight_)));
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/, DType /*dtype*/,
                                                             int64_t /*capacity*/) const override {
    auto state = std::make_unique<MeanState>();
    state->sums.assign(static_cast<size_t>(width_), 0.0);
    return state;
  }

 private:
  [[nodiscard]] Tensor mean_of(const ForwardContext& context, const Tensor& x) const {
    Tape& tape = context.tape;
    if (auto* state = dynamic_cast<MeanState*>(context.memory)) {
      Tensor mean = running_mean_step(tape, x, state->sums, state->tokens);
      state->tokens += x.dim(0);
      return mean;
    }
    const std::vector<int64_t>& documents = context.layout.document_offsets;
    Tensor mean = running_mean(tape, x, documents);
    if (over_ == DocumentMeanConfig::Over::prefix || !context.training) return mean;
    // The last token of a document has seen all of it.
    Tensor last = tape.empty({x.dim(0)}, DType::i32);
    for (size_t d = 0; last.has_memory() && d + 1 < documents.size(); ++d) {
      std::fill(last.data<int32_t>() + documents[d], last.data<int32_t>() + documents[d + 1],
                static_cast<int32_t>(documents[d + 1] - 1));
    }
    return embedding(tape, mean, last);
  }

  int64_t width_;
  DocumentMeanConfig::Over over_;
};

}  // namespace

const RouterEntry document_mean_router = {
    .name = "document_mean",
    .doc = "experts by the mean of the document's tokens (Union of Experts 2025, arXiv 2503.02495)",
    .make_config = make_router_config<DocumentMeanConfig>,
    .make = make_router<DocumentMeanRouter, DocumentMeanConfig>,
};

}  // namespace sluice
