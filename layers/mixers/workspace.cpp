#include "layers/mixers/workspace.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/slot_attention.h"
#include "layers/linear.h"
#include "layers/model.h"

namespace sluice {

void WorkspaceConfig::fields(FieldVisitor& v) {
  v.integer({"num_slots", "slots W of a document"}, num_slots, {.min = 1});
  v.integer({"num_heads", "heads, a divisor of hidden_size"}, num_heads, {.min = 1});
  v.integer({"chunk_size", "tokens that are written together, counted from the document's first"},
            chunk_size, {.min = 1});
  gate.fields(v);
}

namespace {

/// Where the chunks of documents lie, in the order in which they are written: the first chunks of all
/// documents, the second ones, ..., documents of most chunks first, so that those that go on always
/// stand in front.
class Schedule {
 public:
  Schedule(ArenaScope& scratch, const std::vector<int64_t>& offsets, int64_t chunk)
      : chunk_(chunk), documents_(scratch.allocate<Document>(std::ssize(offsets))) {
    for (size_t d = 0; d + 1 < offsets.size(); ++d) {
      if (offsets[d] == offsets[d + 1]) continue;
      documents_[count_++] = {offsets[d], offsets[d + 1],
                              (offsets[d + 1] - offsets[d] - 1) / chunk + 1};
      sets_ += documents_[count_ - 1].chunks;
    }
    // The order among equals changes no bit: rows do not know their neighbours.
    std::sort(documents_, documents_ + count_, [](const Document& a, const Document& b) {
      return a.chunks != b.chunks ? a.chunks > b.chunks : a.begin < b.begin;
    });
    ranges_ = scratch.allocate<int64_t>(2 * sets_);
    int64_t* next = ranges_;
    for (int64_t c = 0; documents_of(c) > 0; ++c) {
      for (int64_t d = 0; d < documents_of(c); ++d) {
        *next++ = documents_[d].begin + c * chunk_;
        *next++ = std::min(documents_[d].begin + (c + 1) * chunk_, documents_[d].end);
      }
    }
  }
  /// Documents that have a chunk number c.
  [[nodiscard]] int64_t documents_of(int64_t c) const {
    return std::partition_point(documents_, documents_ + count_,
                                [c](const Document& d) { return d.chunks > c; }) -
           documents_;
  }
  /// First and last of the tokens of every chunk, as SlotOptions::ranges.
  [[nodiscard]] std::span<const int64_t> ranges() const {
    return {ranges_, static_cast<size_t>(2 * sets_)};
  }

 private:
  struct Document {
    int64_t begin;
    int64_t end;
    int64_t chunks;
  };
  int64_t chunk_;
  Document* documents_;
  int64_t count_ = 0;
  int64_t sets_ = 0;
  int64_t* ranges_ = nullptr;
};

class Workspace final : public Mixer {
 public:
  Workspace(const Builder& b, const ModelConfig& model, const WorkspaceConfig& config)
      : width_(model.hidden_size),
        slots_count_(config.num_slots),
        heads_(config.num_heads),
        chunk_(config.chunk_size),
        eps_(model.norm.eps),
        slots_(parameter(b, "slots", {config.num_slots, width_}, ParameterKind::embedding)),
        norm_(parameter(b, "slot_norm", {width_}, ParameterKind::norm, Init::ones())) {
    slots_.stays_f32 = true;  // decoding starts from a copy
    const auto square = [&](const char* name, Init init = {}, bool bias = false) {
      return &child(std::make_unique<Linear>(b, LinearSpec{name, width_, width_, bias, init}));
    };
    read_q_ = square("read_q");
    read_k_ = square("read_k");
    read_v_ = square("read_v");
    read_o_ = square("read_o", Init::residual());
    write_q_ = square("write_q");
    write_k_ = square("write_k");
    write_v_ = square("write_v");
    forget_slot_ = square("forget_slot", {}, true);
    forget_update_ = square("forget_update");
    gate_ = &child(std::make_unique<OutputGate>(b, width_, config.gate));
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::attention);
    ArenaScope scratch(thread_arena());
    const Schedule schedule(scratch, context.layout.document_offsets, chunk_);
    const auto ranges = tape.keep(schedule.ranges());
    const TokenRows rows = project(context, x);
    std::vector<Tensor> sets = {start(tape, schedule.documents_of(0))};
    size_t first = 0;  // of the chunks that are written next
    for (int64_t c = 1; schedule.documents_of(c) > 0; ++c) {
      // Those that have a chunk after this one.
      const int64_t going_on = schedule.documents_of(c);
      const Tensor before = slice_rows(tape, sets.back(), 0, going_on * slots_count_);
      const auto chunks = ranges.subspan(first, static_cast<size_t>(2 * going_on));
      first += static_cast<size_t>(2 * schedule.documents_of(c - 1));
      sets.push_back(write(context, before, rows, chunks));
    }
    return read(context, x, rows, concat_rows(tape, sets), ranges);
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType /*dtype*/,
                                         int64_t /*capacity*/) const override {
    return std::make_unique<WorkspaceState>(pool, slots_.value, chunk_);
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::attention);
    auto& own = dynamic_cast<WorkspaceState&>(state);
    const TokenRows rows = project(context, x);
    std::vector<Tensor> sets = {own.slots};
    std::vector<int64_t> ranges;
    const std::array<int64_t, 2> whole = {0, chunk_};
    Tensor slots = own.slots;
    for (int64_t begin = 0; begin < x.dim(0);) {
      if (!ranges.empty()) sets.push_back(slots);
      const int64_t end = std::min(x.dim(0), begin + chunk_ - own.keys.length());
      ranges.insert(ranges.end(), {begin, end});
      own.keys.append(slice_rows(tape, rows.write_k, begin, end));
      own.values.append(slice_rows(tape, rows.write_v, begin, end));
      if (own.keys.length() == chunk_) {
        slots = write(context, slots, {{}, own.keys.rows(), own.values.rows()}, whole);
        own.keys.clear();
        own.values.clear();
      }
      begin = end;
    }
    own.tokens += x.dim(0);
    if (ranges.empty()) ranges = {0, 0};
    const Tensor y = read(context, x, rows, concat_rows(tape, sets), ranges);
    if (!slots.shares_memory_with(own.slots)) own.slots.copy_from(slots);
    return y;
  }

 private:
  /// What is made of the tokens, whatever the slots are; each [N, D].
  struct TokenRows {
    Tensor read_q;
    Tensor write_k;
    Tensor write_v;
  };
  [[nodiscard]] TokenRows project(const ForwardContext& context, const Tensor& x) const {
    auto [q, k, v] = Linear::forward_joint<3>(context, x, {read_q_, write_k_, write_v_});
    return {q, k, v};
  }

  /// [documents W, D]
  [[nodiscard]] Tensor start(Tape& tape, int64_t documents) const {
    Tensor ids = tape.empty({documents * slots_count_}, DType::i32);
    if (ids.has_memory()) {
      for (int64_t i = 0; i < ids.numel(); ++i) {
        ids.data<int32_t>()[i] = static_cast<int32_t>(i % slots_count_);
      }
    }
    return embedding(tape, tape.use(slots_), ids);
  }

  [[nodiscard]] Tensor normalised(Tape& tape, const Tensor& slots) const {
    return rms_norm(tape, slots, tape.use(norm_), eps_);
  }
  [[nodiscard]] Tensor of_tokens(Tape& tape, const Tensor& rows) const {
    return reshape(tape, rows, {rows.dim(0), heads_, width_ / heads_});
  }
  [[nodiscard]] Tensor of_sets(Tape& tape, const Tensor& slots) const {
    return reshape(tape, slots,
                   {slots.dim(0) / slots_count_, slots_count_, heads_, width_ / heads_});
  }
  [[nodiscard]] SlotOptions options(std::span<const int64_t> ranges) const {
    return {ranges, 1.0 / std::sqrt(static_cast<double>(width_ / heads_))};
  }

  /// m_c [G W, D] of some documents -> m_{c + 1}, by the tokens of their chunks.
  [[nodiscard]] Tensor write(const ForwardContext& context, const Tensor& slots,
                             const TokenRows& rows, std::span<const int64_t> chunks) const {
    Tape& tape = context.tape;
    const Tensor now = normalised(tape, slots);
    const Tensor u = reshape(
        tape,
        write_slots(tape, of_sets(tape, write_q_->forward(context, now)),
                    of_tokens(tape, rows.write_k), of_tokens(tape, rows.write_v), options(chunks)),
        slots.shape());
    const Tensor f = sigmoid(
        tape, add(tape, forget_slot_->forward(context, now), forget_update_->forward(context, u)));
    return add(tape, slots, mul(tape, f, sub(tape, u, slots)));
  }

  /// sets [G W, D]: of every chunk in `ranges` the slots that it reads.
  [[nodiscard]] Tensor read(const ForwardContext& context, const Tensor& x, const TokenRows& rows,
                            const Tensor& sets, std::span<const int64_t> ranges) const {
    Tape& tape = context.tape;
    const auto [k, v] =
        Linear::forward_joint<2>(context, normalised(tape, sets), {read_k_, read_v_});
    const Tensor mixed = read_slots(tape, of_tokens(tape, rows.read_q), of_sets(tape, k),
                                    of_sets(tape, v), options(ranges));
    return gate_->apply(context, x, read_o_->forward(context, reshape(tape, mixed, x.shape())));
  }

  int64_t width_;
  int64_t slots_count_;
  int64_t heads_;
  int64_t chunk_;
  double eps_;
  Parameter& slots_;  // m_0 [W, D]
  Parameter& norm_;   // [D]
  Linear* read_q_;
  Linear* read_k_;
  Linear* read_v_;
  Linear* read_o_;
  Linear* write_q_;
  Linear* write_k_;
  Linear* write_v_;
  Linear* forget_slot_;
  Linear* forget_update_;
  OutputGate* gate_;
};

std::string check_heads(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const WorkspaceConfig&>(section);
  if (model.hidden_size % config.num_heads == 0) return {};
  return fmt::format("num_heads: found {}, allowed a divisor of hidden_size ({})", config.num_heads,
                     model.hidden_size);
}

}  // namespace

const MixerEntry workspace_mixer = {
    .name = "workspace",
    .symbol = 'K',
    .section = "workspace",
    .doc =
        "slots that tokens read and chunks of tokens write (Hydra proposal; Locatello et al. "
        "2020)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<WorkspaceConfig>();
    },
    .check = check_heads,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<Workspace>(b.child("workspace"), model,
                                         dynamic_cast<const WorkspaceConfig&>(config));
    },
};

}  // namespace sluice
