#include "layers/mixers/mixture_of_memories.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "layers/linear.h"
#include "layers/model.h"

namespace sluice {

MixtureOfMemoriesConfig::MixtureOfMemoriesConfig()
    : RoutingConfig({"num_memories", "routed memories M of a layer"}) {
  num_experts = 4;
  top_k = 2.0;
}

void MixtureOfMemoriesConfig::fields(FieldVisitor& v) {
  count_fields(v);
  heads.fields(v);
  v.enumeration({"backend",
                 "how a memory is written: gated_delta_rule, gated_linear_attention, "
                 "gated_slot_attention (num_slots keys and values instead of a matrix) or "
                 "linear_attention (no gates, keys and queries through (W1 x) * (W2 x))"},
                backend,
                {{"gated_delta_rule", MemoryBackend::gated_delta_rule},
                 {"gated_linear_attention", MemoryBackend::gated_linear_attention},
                 {"gated_slot_attention", MemoryBackend::gated_slot_attention},
                 {"linear_attention", MemoryBackend::linear_attention}});
  v.integer({"num_slots", "slots of a head, with backend: gated_slot_attention"}, num_slots,
            {.min = 1});
  v.boolean({"shared_memory", "one more memory that every token uses, with weight 1"},
            shared_memory);
  v.boolean({"single_kv_proj", "all memories share one projection to keys, values and gates"},
            single_kv_proj);
  v.tagged({"router", "scores, choice and combine weights"}, router, router_choices());
  v.number({"capacity",
            "in training a memory takes at most this share of a document's tokens, the latest of "
            "those that chose it; 1: all"},
           capacity, {.min = 0.0, .max = 1.0, .exclusive_min = true});
  step_size.fields(v);
}

std::string MixtureOfMemoriesConfig::check() const {
  std::string problem = RoutingConfig::check();
  return problem.empty() ? step_size.check() : problem;
}

namespace {

MatrixMemorySettings settings_of(const MixtureOfMemoriesConfig& config) {
  MatrixMemorySettings settings{.heads = config.heads, .step_size = config.step_size};
  if (config.backend == MemoryBackend::gated_delta_rule) return settings;
  settings.update = MemoryUpdate::sum;
  settings.has_beta = false;
  settings.feature_map = FeatureMap::identity;
  if (config.backend == MemoryBackend::gated_slot_attention) {
    settings.update = MemoryUpdate::slots;
    settings.has_decay = false;
    settings.num_slots = config.num_slots;
  }
  if (config.backend == MemoryBackend::linear_attention) {
    settings.has_decay = false;
    settings.feature_map = FeatureMap::hadamard;
  }
  return settings;
}

/// One projection per memory: w_k [M, H K, D] and so on.
class MemoryProjections final : public Module {
 public:
  MemoryProjections(const Builder& b, int64_t memories, int64_t hidden_size,
                    const MatrixMemory& memory) {
    const auto project = [&](const char* name, int64_t out) {
      return &parameter(b, name, {memories, out, hidden_size}, ParameterKind::matrix, {},
                        Stack::routed_experts);
    };
    k_ = project("w_k", memory.keys_width());
    v_ = project("w_v", memory.values_width());
    if (memory.gates() > 0) a_ = project("w_a", memory.gates());
    if (memory.has_beta()) b_ = project("w_b", memory.heads());
  }
  /// x [R, D], rows of memory m from offsets[m] on.
  [[nodiscard]] MemoryWrites writes(Tape& tape, const Tensor& x, const Tensor& offsets) const {
    const auto of = [&](Parameter* weight) {
      return weight != nullptr ? grouped_matmul(tape, x, tape.use(*weight), offsets) : Tensor();
    };
    return {of(k_), of(v_), of(a_), of(b_)};
  }

 private:
  Parameter* k_;
  Parameter* v_;
  Parameter* a_ = nullptr;
  Parameter* b_ = nullptr;
};

class MixtureOfMemories final : public Mixer {
 public:
  MixtureOfMemories(const Builder& b, const ModelConfig& model,
                    const MixtureOfMemoriesConfig& config, const SublayerPlace& place)
      : memories_(config.num_experts), capacity_(config.capacity) {
    const int64_t d = model.hidden_size;
    const Builder own = b.child("mixture_of_memories");
    routed_ = &child(std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place));
    memory_ = &child(std::make_unique<MatrixMemory>(own, d, model.norm.eps, settings_of(config)));
    if (config.single_kv_proj) {
      single_ = &child(std::make_unique<WriteProjections>(own, d, *memory_));
    } else {
      each_ = &child(std::make_unique<MemoryProjections>(own, memories_, d, *memory_));
    }
    if (config.shared_memory) {
      has_shared_ = true;
      if (!config.single_kv_proj) {
        shared_ =
            &child(std::make_unique<WriteProjections>(own.child("shared_memory"), d, *memory_));
      }
    }
  }

  std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const Route route = routed_->route(context, x, state);
    const PhaseScope phase(tape, Phase::attention);
    ArenaScope scratch(thread_arena());
    const std::span<const int32_t> memory_of = kept(scratch, context, route.selection);
    const DispatchPlan plan = make_dispatch_plan(tape.pool(), memory_of, route.selection.tokens,
                                                 route.selection.top_k, memories_);
    const auto offsets =
        tape.keep(sub_sequences(scratch, context.layout, route.selection, memory_of));
    const Rows all = project(context, x, route.input, plan);
    const Tensor rows = memory_->recall(context, all.q_rows, all.writes, offsets);
    Tensor o = combine(tape, rows, route.weights, plan);
    if (has_shared_) {
      o = add(tape, o,
              memory_->recall(context, all.q, shared_writes(context, x, all),
                              context.layout.document_offsets));
    }
    return memory_->output(context, x, o);
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    auto state = std::make_unique<MixtureOfMemoriesState>();
    for (int64_t m = 0; m < memories_; ++m) {
      state->memories.push_back(memory_->make_state(pool, dtype));
    }
    if (has_shared_) state->shared = memory_->make_state(pool, dtype);
    state->router = routed_->make_state(pool, dtype, capacity);
    return state;
  }

  Tensor decode(const ForwardContext& caller, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    Tape& tape = caller.tape;
    auto& own = dynamic_cast<MixtureOfMemoriesState&>(state);
    ForwardContext context = caller;
    context.memory = own.router.get();
    const Route route = routed_->route(context, x, block);
    const PhaseScope phase(tape, Phase::attention);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const Rows all = project(context, x, route.input, plan);
    std::vector<Tensor> parts;
    for (int64_t m = 0; m < memories_; ++m) {
      const auto ends = plan.offsets.data<int32_t>() + m;
      if (ends[0] == ends[1]) continue;
      const auto part = [&](const Tensor& rows) {
        return rows.defined() ? slice_rows(tape, rows, ends[0], ends[1]) : Tensor();
      };
      parts.push_back(memory_->recall_next(
          context, part(all.q_rows),
          {part(all.writes.k), part(all.writes.v), part(all.writes.a), part(all.writes.b)},
          own.memories[static_cast<size_t>(m)]));
    }
    const Tensor rows = parts.empty() ? tape.empty({0, memory_->values_width()}, x.dtype())
                                      : concat_rows(tape, parts);
    Tensor o = combine(tape, rows, route.weights, plan);
    if (has_shared_) {
      o = add(tape, o,
              memory_->recall_next(context, all.q, shared_writes(context, x, all), own.shared));
    }
    own.tokens += x.dim(0);
    return memory_->output(context, x, o);
  }

 private:
  /// Queries of all tokens; of the routed rows those, and what they write.
  struct Rows {
    Tensor q;             // [N, H K]
    Tensor q_rows;        // [R, H K]
    MemoryWrites writes;  // [R, ...]
    MemoryWrites tokens;  // [N, ...]; only with a single projection
  };

  [[nodiscard]] Rows project(const ForwardContext& context, const Tensor& x,
                             const Tensor& routed_input, const DispatchPlan& plan) const {
    Tape& tape = context.tape;
    Rows result;
    result.q = memory_->queries(context, x);
    result.q_rows = dispatch(tape, result.q, plan);
    if (single_ == nullptr) {
      result.writes = each_->writes(tape, dispatch(tape, routed_input, plan), plan.offsets);
      return result;
    }
    result.tokens = single_->writes(context, routed_input);
    const auto gather = [&](const Tensor& y) {
      return y.defined() ? dispatch(tape, y, plan) : Tensor();
    };
    result.writes = {gather(result.tokens.k), gather(result.tokens.v), gather(result.tokens.a),
                     gather(result.tokens.b)};
    return result;
  }

  [[nodiscard]] MemoryWrites shared_writes(const ForwardContext& context, const Tensor& x,
                                           const Rows& rows) const {
    return shared_ != nullptr ? shared_->writes(context, x) : rows.tokens;
  }

  /// The memory of every slot [N k], kNoExpert where it found no room: of each document a memory keeps
  /// the latest tokens. Only in training: who is dropped depends on later tokens.
  [[nodiscard]] std::span<const int32_t> kept(ArenaScope& scratch, const ForwardContext& context,
                                              const Selection& selection) const {
    const std::span<const int32_t> chosen =
        selection.dispatched.empty() ? selection.expert : selection.dispatched;
    if (!context.training || capacity_ == 1.0) return chosen;
    const std::span<int32_t> result(scratch.allocate<int32_t>(std::ssize(chosen)), chosen.size());
    std::ranges::copy(chosen, result.begin());
    int64_t* taken = scratch.allocate<int64_t>(memories_);
    const std::vector<int64_t>& documents = context.layout.document_offsets;
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      const auto tokens = static_cast<double>(documents[d + 1] - documents[d]);
      const auto room = static_cast<int64_t>(std::ceil(capacity_ * tokens));
      std::fill_n(taken, memories_, 0);
      for (int64_t slot = documents[d + 1] * selection.top_k - 1;
           slot >= documents[d] * selection.top_k; --slot) {
        int32_t& memory = result[static_cast<size_t>(slot)];
        if (memory != kNoExpert && ++taken[memory] > room) memory = kNoExpert;
      }
    }
    return result;
  }

  /// Offsets of the rows that each document sends to each memory, memory by memory: the order of a
  /// dispatch plan.
  [[nodiscard]] std::span<const int64_t> sub_sequences(ArenaScope& scratch,
                                                       const SequenceLayout& layout,
                                                       const Selection& selection,
                                                       std::span<const int32_t> memory_of) const {
    const int64_t documents = layout.documents();
    int64_t* counts = scratch.allocate<int64_t>(memories_ * documents);
    std::fill_n(counts, memories_ * documents, 0);
    for (int64_t d = 0; d < documents; ++d) {
      const int64_t begin = layout.document_offsets[static_cast<size_t>(d)];
      const int64_t end = layout.document_offsets[static_cast<size_t>(d) + 1];
      for (int64_t slot = begin * selection.top_k; slot < end * selection.top_k; ++slot) {
        const int32_t memory = memory_of[static_cast<size_t>(slot)];
        if (memory != kNoExpert) ++counts[memory * documents + d];
      }
    }
    int64_t* offsets = scratch.allocate<int64_t>(memories_ * documents + 1);
    size_t size = 0;
    offsets[size++] = 0;
    for (int64_t i = 0; i < memories_ * documents; ++i) {
      if (counts[i] == 0) continue;
      offsets[size] = offsets[size - 1] + counts[i];
      ++size;
    }
    return {offsets, size};
  }

  int64_t memories_;
  double capacity_;
  bool has_shared_ = false;
  RoutedLayer* routed_;
  MatrixMemory* memory_;
  MemoryProjections* each_ = nullptr;
  WriteProjections* single_ = nullptr;  // in place of each_, and of shared_
  WriteProjections* shared_ = nullptr;
};

std::string check_memories(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const MixtureOfMemoriesConfig&>(section);
  std::string problem = config.heads.check(model.hidden_size);
  return problem.empty() ? check_attention_before(model, section) : problem;
}

}  // namespace

const MixerEntry mixture_of_memories_mixer = {
    .name = "mixture_of_memories",
    .symbol = 'O',
    .section = "mixture_of_memories",
    .doc = "MoM: tokens choose among memories of linear attention (Du et al. 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MixtureOfMemoriesConfig>();
    },
    .check = check_memories,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& section,
               SublayerPlace place) -> std::unique_ptr<Mixer> {
      return std::make_unique<MixtureOfMemories>(
          b, model, dynamic_cast<const MixtureOfMemoriesConfig&>(section), place);
    },
};

}  // namespace sluice
