// Chunk-level routing (Hydra proposal, section 6.4 of the method page [R]): a document is cut into
// chunks, and all tokens of a chunk have the scores of one vector, the mean of the chunk before,
//
//   u_c = (1 / Q) sum of x over chunk c - 1;  u_0 learned;   z_t = W u_{c(t)}
//
// and from z on what top_k does with its logits. The chunk before is complete when the first token of
// a chunk comes, so nothing looks ahead; experts read each token's own x. Tokens of a chunk have the
// same experts and weights under every balancing method that shifts experts; one that shifts or
// assigns token by token (sinkhorn, base) may part them, and so may capacity.
//
// Letters: N tokens, D hidden size, E experts, Q tokens of a chunk, C vectors.

#include <algorithm>
#include <array>
#include <numeric>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/embedding_bag.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "layers/routers/top_k.h"
#include "layers/routers/unit_rows.h"
#include "layers/row_cache.h"

namespace sluice {
namespace {

struct ChunkTopKConfig final : TopKRouterConfig {
  int64_t chunk_size = 64;
  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.integer({"chunk_size", "tokens that are routed as one, counted from the document's first"},
              chunk_size, {.min = 1});
  }
};

/// The chunk that is not complete yet, and the mean of the one before.
struct ChunkState final : FeedForwardState {
  ChunkState(Pool& pool, DType dtype, int64_t chunk, int64_t width)
      : rows(pool, {chunk, width}, dtype), mean(Tensor::empty(pool, {1, width}, dtype)) {}
  RowCache rows;  // [Q, D]
  Tensor mean;    // [1, D], meaningless in the first chunk
  bool is_first = true;
};

class ChunkTopKRouter final : public TopKRouter {
 public:
  ChunkTopKRouter(const Builder& b, const RouterSetup& setup, const ChunkTopKConfig& config)
      : TopKRouter(b, setup, config),
        first_(parameter(b, "first_chunk", {1, setup.hidden_size}, ParameterKind::router)),
        chunk_(config.chunk_size) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor rows = router_input(context, x);
    auto* state = dynamic_cast<ChunkState*>(context.memory);
    const Vectors u = state != nullptr ? next_vectors(tape, rows, *state)
                                       : vectors(tape, rows, context.layout.document_offsets);
    return from_logits(context, embedding(tape, linear(tape, u.rows, tape.use(weight_)), u.of));
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t /*capacity*/) const override {
    return std::make_unique<ChunkState>(pool, dtype, chunk_, weight_.value.dim(1));
  }

 private:
  /// u [C, D], and which of them is whose, [N] i32.
  struct Vectors {
    Tensor rows;
    Tensor of;
  };

  /// Those of whole documents: the learned one, then a mean for every chunk that another follows.
  [[nodiscard]] Vectors vectors(Tape& tape, const Tensor& x,
                                const std::vector<int64_t>& documents) const {
    int64_t chunks = 0;
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      chunks += std::max<int64_t>(0, documents[d + 1] - documents[d] - 1) / chunk_;
    }
    Tensor members = tape.empty({chunks, chunk_}, DType::i32);
    Tensor of = tape.empty({x.dim(0)}, DType::i32);
    if (of.has_memory()) {
      int32_t* member = members.data<int32_t>();
      int32_t before = 0;  // chunks of the documents before
      for (size_t d = 0; d + 1 < documents.size(); ++d) {
        const int64_t begin = documents[d];
        const int64_t length = documents[d + 1] - begin;
        for (int64_t t = 0; t < length; ++t) {
          const auto chunk = static_cast<int32_t>(t / chunk_);
          of.data<int32_t>()[begin + t] = chunk == 0 ? 0 : before + chunk;
        }
        const int64_t followed = std::max<int64_t>(0, length - 1) / chunk_;
        for (int64_t t = 0; t < followed * chunk_; ++t) {
          *member++ = static_cast<int32_t>(begin + t);
        }
        before += static_cast<int32_t>(followed);
      }
    }
    const std::array<Tensor, 2> parts = {tape.use(first_), means(tape, x, members)};
    return {concat_rows(tape, parts), of};
  }

  /// Those of the next tokens of one document, whose state moves on.
  [[nodiscard]] Vectors next_vectors(Tape& tape, const Tensor& x, ChunkState& state) const {
    const int64_t held = state.rows.length();
    const std::array<Tensor, 2> pieces = {state.rows.filled(tape.pool()), x};
    const Tensor rows = concat_rows(tape, pieces);
    const int64_t complete = rows.dim(0) / chunk_;
    Tensor members = tape.empty({complete, chunk_}, DType::i32);
    std::iota(members.data<int32_t>(), members.data<int32_t>() + members.numel(), 0);
    const std::array<Tensor, 2> parts = {state.is_first ? tape.use(first_) : state.mean,
                                         means(tape, rows, members)};
    Vectors result{concat_rows(tape, parts), tape.empty({x.dim(0)}, DType::i32)};
    for (int64_t t = 0; t < x.dim(0); ++t) {
      result.of.data<int32_t>()[t] = static_cast<int32_t>((held + t) / chunk_);
    }
    if (complete > 0) {
      state.mean.copy_from(slice_rows(tape, result.rows, complete, complete + 1));
      state.is_first = false;
    }
    state.rows.clear();
    state.rows.append(slice_rows(tape, rows, complete * chunk_, rows.dim(0)));
    return result;
  }

  /// x [N, D], members [C, Q] i32 -> [C, D]
  [[nodiscard]] Tensor means(Tape& tape, const Tensor& x, const Tensor& members) const {
    const Tensor share =
        filled(tape, members.shape(), x.dtype(), 1.0 / static_cast<double>(chunk_));
    return embedding_bag(tape, x, members, share);
  }

  Parameter& first_;  // u_0 [1, D]
  int64_t chunk_;
};

}  // namespace

const RouterEntry chunk_top_k_router = {
    .name = "chunk_top_k",
    .doc = "top-k for whole chunks of tokens, by the mean of the chunk before (Hydra proposal 2025)",
    .make_config = make_router_config<ChunkTopKConfig>,
    .make = make_router<ChunkTopKRouter, ChunkTopKConfig>,
};

}  // namespace sluice
