// Experts that remember: one gated recurrent unit per expert, which walks over the tokens of a document
// that were sent to it, in order, and knows nothing of the others (Hecto 2025, arXiv 2506.22919, in a
// form for language models; section 9.10 of the method page).
//
//   h_t = GRU_e(x_t, h of the last token of the document that e saw),   y_t = Wd_e h_t
//
// The published expert reads a whole text and gives its last state; here every token gets the state after
// it, so that no token sees a later one (ours). h starts at 0 in every document. ops/gru_scan.h has the cell.
// When decoding each expert keeps its state.
//
// Letters: R rows, E experts, D hidden size, P state width.

#include <algorithm>
#include <optional>

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/gru_scan.h"
#include "layers/experts.h"

namespace sluice {
namespace {

struct GruConfig final : Configurable {
  std::optional<int64_t> state_size;
  void fields(FieldVisitor& v) override {
    v.optional_integer({"state_size", "width P of an expert's state (auto: intermediate_size)"},
                       state_size, {.min = 1}, "auto");
  }
};

/// The state of each expert after the sequence's tokens so far.
struct GruState final : FeedForwardState {
  Tensor h;  // [E, P]
};

class GruExperts final : public RowExperts {
 public:
  GruExperts(const Builder& b, const ExpertsSetup& s, const GruConfig& config)
      : experts_(s.num_experts), size_(config.state_size.value_or(s.intermediate_size)) {
    const auto make = [&](const char* name, const Shape& shape, ParameterKind kind, Init init) {
      return &parameter(b, name, shape, kind, init, Stack::routed_experts);
    };
    w_x_ = make("w_x", {experts_, 3 * size_, s.hidden_size}, ParameterKind::matrix, {});
    w_h_ = make("w_h", {experts_, 3 * size_, size_}, ParameterKind::matrix, {});
    w_h_->stays_f32 = true;
    bias_ = make("bias", {experts_, 4 * size_}, ParameterKind::bias, Init::zeros());
    w_down_ =
        make("w_down", {experts_, s.hidden_size, size_}, ParameterKind::matrix, Init::residual());
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool,
                                                             DType dtype) const override {
    auto state = std::make_unique<GruState>();
    state->h = Tensor::zeros(pool, {experts_, size_}, dtype);
    return state;
  }

 private:
  Tensor rows(const ForwardContext& context, const Tensor& x,
              const ExpertRows& rows) const override {
    Tape& tape = context.tape;
    const GruTensors in{grouped_matmul(tape, x, tape.use(*w_x_), rows.offsets), tape.use(*w_h_),
                        tape.use(*bias_), rows.offsets};
    auto* memory = dynamic_cast<GruState*>(context.memory);
    ArenaScope scratch(thread_arena());
    const Tensor h =
        memory != nullptr
            ? gru_step(tape, in, memory->h)
            : gru_scan(tape, in, tape.keep(segments(scratch, context.layout, rows, x.dim(0))));
    return grouped_matmul(tape, h, tape.use(*w_down_), rows.offsets);
  }

  /// Offsets of the rows that each document sends to each expert, expert by expert.
  [[nodiscard]] static std::span<const int64_t> segments(ArenaScope& scratch,
                                                         const SequenceLayout& layout,
                                                         const ExpertRows& rows, int64_t count) {
    int64_t* ends = scratch.allocate<int64_t>(count + 1);
    size_t size = 0;
    ends[size++] = 0;
    const auto end_at = [&](int64_t row) {
      if (row > ends[size - 1]) ends[size++] = row;
    };
    if (!rows.offsets.has_memory()) {
      end_at(count);
      return {ends, size};
    }
    const auto offsets = rows.offsets.span<int32_t>();
    for (size_t e = 0; e + 1 < offsets.size(); ++e) {
      auto document =
          layout.document_offsets.begin();  // where the document behind the row's begins
      for (int64_t row = offsets[e]; row < offsets[e + 1]; ++row) {
        const int64_t token =
            rows.token_of_row.defined() ? rows.token_of_row.data<int32_t>()[row] : row;
        if (token < *document) continue;
        end_at(row);
        document = std::upper_bound(document, layout.document_offsets.end(), token);
      }
      end_at(offsets[e + 1]);
    }
    return {ends, size};
  }

  int64_t experts_;
  int64_t size_;
  Parameter* w_x_;
  Parameter* w_h_;
  Parameter* bias_;
  Parameter* w_down_;
};

}  // namespace

const ExpertsEntry gru_form = {
    .name = "gru",
    .doc =
        "a gated recurrent unit over the tokens of a document that chose the expert (Hecto 2025, "
        "arXiv 2506.22919)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<GruConfig>(); },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<GruExperts>(b, setup, dynamic_cast<const GruConfig&>(config));
    },
};

}  // namespace sluice
