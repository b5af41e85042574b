#pragma once
// The tape: an ordered list of what was computed, walked backwards once.
//
//   Tape tape(pool);
//   Tensor w = tape.use(parameter);                 // gradient flows into parameter.grad
//   Tensor loss = sum(tape, matmul(tape, x, w));
//   tape.backward(loss);                            // releases each activation after its last use
//   tape.reset();                                   // forgets the step; memory stays for the next
//
// How an op is written (autograd/ops):
//
//   Tensor scale(Tape& tape, const Tensor& x, double factor) {
//     Tensor y = tape.empty(x.shape(), x.dtype());
//     tape.run(scale_info(), {.bytes = 2.0 * x.bytes()}, [&] { dispatch_float(x.dtype(), [&]<class
//     T>() {
//       kernels::scale<T>(x.data<T>(), T(factor), y.data<T>(), x.numel()); }); });
//     tape.record(scale_info(), {x}, {&y}, {}, [factor](Backward& b) {
//       const Tensor grad_y = b.grad(0);
//       GradTarget grad_x = b.target(0);
//       b.run({...}, [&] { ... kernels::add_scaled(grad_y, factor, grad_x.beta<T>(), grad_x.tensor)
//       ... });
//     });
//     return y;
//   }
//
// `saved` lists the tensors that the backward reads (b.saved(i)); the tape, not a destructor, drops
// them after that node ran. Closures live in the tape's arena and are never destroyed: they must be
// trivially destructible and hold no Tensor. The contents of a saved tensor must not change until
// the tape is reset.

#include <chrono>
#include <initializer_list>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "autograd/core/cost.h"
#include "autograd/core/op_info.h"
#include "autograd/core/parameter.h"
#include "autograd/core/tensor.h"
#include "autograd/support/arena.h"

namespace sluice {

class Backward;

/// Memory that a tape keeps until its backward pass, by what saved it. Weights are left out; a block
/// that several nodes save counts once, under the first of them.
struct SavedMemory {
  struct Entry {
    Phase phase;
    std::string_view op;
    int64_t tensors = 0;
    int64_t bytes = 0;
  };
  std::vector<Entry> entries;  // by phase, in the order in which the ops were first recorded
  [[nodiscard]] int64_t bytes() const;
};

/// Where a backward adds a gradient. When `fresh`, nothing was added before and the contents are
/// unspecified: write instead of add (beta 0), as in BLAS.
struct GradTarget {
  Tensor tensor;
  bool fresh = true;
  template <class T>
  [[nodiscard]] T beta() const {
    return fresh ? T(0) : T(1);
  }
};

class Tape {
 public:
  /// `pool` must outlive the tape. With a pool for shapes only, kernels are skipped and only costs
  /// are counted.
  explicit Tape(Pool& pool, CostMeter* meter = nullptr);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // --- making values ---------------------------------------------------------------------------
  [[nodiscard]] Tensor empty(const Shape& shape, DType dtype) const {
    return Tensor::empty(pool_, shape, dtype);
  }
  [[nodiscard]] Tensor zeros(const Shape& shape, DType dtype) const {
    return Tensor::zeros(pool_, shape, dtype);
  }
  /// The parameter's value; gradients go to parameter.grad (call zero_grad first). A frozen one is
  /// a constant.
  [[nodiscard]] Tensor use(Parameter& parameter);
  /// `value` as an input whose gradient can be read with gradient() after backward().
  [[nodiscard]] Tensor input(const Tensor& value);

  // --- for ops ---------------------------------------------------------------------------------
  /// True when gradients of `x` are wanted on this tape now.
  [[nodiscard]] bool requires_grad(const Tensor& x) const { return recording_ && value_of(x) >= 0; }
  [[nodiscard]] bool recording() const { return recording_; }
  [[nodiscard]] bool shapes_only() const { return shapes_only_; }
  /// True while a block is computed a second time for its backward: count nothing, draw no new
  /// selection.
  [[nodiscard]] bool recomputing() const { return recomputing_; }
  [[nodiscard]] Pool& pool() const { return pool_; }
  [[nodiscard]] CostMeter* meter() const { return meter_; }
  /// What a kernel call outside a backward counts as.
  [[nodiscard]] Direction direction() const {
    return recomputing_ || extra_ ? Direction::extra : Direction::forward;
  }

  /// Runs a kernel call: timed when there is a meter, skipped when only shapes are wanted.
  template <class F>
  void run(const OpInfo& op, const KernelCost& cost, F&& kernel) {
    run_as(direction(), op, cost, kernel);
  }

  /// Notes that `outputs` were computed from `inputs`, when recording and some input wants
  /// gradients; sets the outputs' value numbers.
  template <class F>
  void record(const OpInfo& op, std::initializer_list<Tensor> inputs,
              std::initializer_list<Tensor*> outputs, std::initializer_list<Tensor> saved,
              F backward) {
    record(op, std::span(inputs.begin(), inputs.size()), std::span(outputs.begin(), outputs.size()),
           std::span(saved.begin(), saved.size()), backward);
  }
  template <class F>
  void record(const OpInfo& op, std::span<const Tensor> inputs, std::span<Tensor* const> outputs,
              std::span<const Tensor> saved, F backward) {
    if (wants_node(inputs)) record_always(op, inputs, outputs, saved, backward);
  }
  /// Records even when no input wants gradients: the node uses parameters of its own
  /// (recomputation).
  template <class F>
  void record_always(const OpInfo& op, std::span<const Tensor> inputs,
                     std::span<Tensor* const> outputs, std::span<const Tensor> saved, F backward) {
    static_assert(
        std::is_trivially_destructible_v<F>,
        "backward closures live in the arena and are never destroyed; list tensors in `saved`");
    F* stored = arena_.create<F>(backward);
    add_node(op, inputs, outputs, saved, stored,
             [](void* closure, Backward& b) { (*static_cast<F*>(closure))(b); });
  }

  // --- backward --------------------------------------------------------------------------------
  /// Walks the tape backwards from a one-element `loss`. Once per recording. Throws ShapeError
  /// otherwise.
  void backward(const Tensor& loss);
  /// The same from several outputs with given gradients; an undefined gradient means none.
  void backward(std::span<const Tensor> outputs, std::span<const Tensor> grads);
  /// The gradient of an `input()` after backward(); undefined when nothing depended on it.
  [[nodiscard]] Tensor gradient(const Tensor& input) const;
  /// Gives an input() a gradient to start from.
  void seed_gradient(const Tensor& input, Tensor grad);
  /// Forgets all nodes and values. Tensors of the step must not be used on this tape afterwards.
  void reset();
  [[nodiscard]] int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }
  /// Names of recorded ops, in order (tests, `plan`).
  [[nodiscard]] std::vector<const OpInfo*> recorded_ops() const;

  /// Holds what nodes refer to and no tensor is (a layout) until reset().
  void keep(std::shared_ptr<const void> object) { kept_.push_back(std::move(object)); }
  /// A copy of `numbers` that lives until reset(): for ops whose backward reads a span.
  [[nodiscard]] std::span<const int64_t> keep(std::span<const int64_t> numbers);
  [[nodiscard]] std::span<const int32_t> keep(std::span<const int32_t> numbers);

  /// What the nodes recorded so far keep.
  [[nodiscard]] SavedMemory saved_memory() const;

  /// A tape of the same pool and meter for recomputation inside a backward; owned and reused by
  /// this one.
  [[nodiscard]] Tape& child();
  void set_recomputing(bool recomputing) { recomputing_ = recomputing; }
  [[nodiscard]] Phase phase() const { return phase_; }

 private:
  friend class Backward;
  friend class ExtraForward;
  friend class NoGrad;
  friend class PhaseScope;

  struct Value {
    Tensor grad;
    Parameter* parameter = nullptr;
    Shape shape;
    DType dtype = DType::f32;
    bool retained = false;
  };
  using Invoke = void (*)(void* closure, Backward&);
  struct Node {
    const OpInfo* op = nullptr;
    Phase phase = Phase::other;
    std::span<int32_t> inputs;
    std::span<int32_t> outputs;
    std::span<Tensor> saved;  // in the arena; destroyed by drop_saved
    void* closure = nullptr;
    Invoke invoke = nullptr;
  };

  [[nodiscard]] int32_t value_of(const Tensor& x) const { return x.tape_ == id_ ? x.value_ : -1; }
  int32_t new_value(Tensor& tensor, Parameter* parameter, bool retained);
  [[nodiscard]] bool wants_node(std::span<const Tensor> inputs) const;
  void add_node(const OpInfo& op, std::span<const Tensor> inputs, std::span<Tensor* const> outputs,
                std::span<const Tensor> saved, void* closure, Invoke invoke);
  static void drop_saved(Node& node);
  void run_nodes();

  template <class F>
  void run_as(Direction direction, const OpInfo& op, const KernelCost& cost, F&& kernel) {
    if (meter_ == nullptr) {
      if (!shapes_only_) kernel();
      return;
    }
    if (shapes_only_) return meter_->count(phase_, direction, cost);
    const auto start = WorkItem::Clock::now();
    kernel();
    const auto end = WorkItem::Clock::now();
    meter_->add({op.name, phase_, direction, cost, start, end,
                 std::chrono::duration<double>(end - start).count()});
  }

  Pool& pool_;
  CostMeter* meter_;
  const bool shapes_only_;
  bool recording_ = true;
  bool recomputing_ = false;
  bool extra_ = false;
  bool walked_ = false;
  Phase phase_ = Phase::other;
  uint64_t id_;
  Arena arena_;
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::vector<std::shared_ptr<const void>> kept_;
  std::unique_ptr<Tape> child_;
};

/// What a backward closure sees.
class Backward {
 public:
  /// Gradient of output i: zeros when nothing flowed into it. Never modify it.
  [[nodiscard]] Tensor grad(int output);
  [[nodiscard]] bool has_grad(int output) const;
  [[nodiscard]] const Tensor& saved(int i) const { return node_.saved[static_cast<size_t>(i)]; }
  /// Is the gradient of input i wanted?
  [[nodiscard]] bool needs(int input) const {
    return node_.inputs[static_cast<size_t>(input)] >= 0;
  }
  /// Where to add the gradient of input i; needs(i) must hold. Ask once per input.
  [[nodiscard]] GradTarget target(int input);
  /// The same, filled with zeros when fresh: only ever add to it.
  [[nodiscard]] Tensor target_zeroed(int input);
  /// Adds `grad` to the gradient of input i as it is; when it is the first, its memory is shared,
  /// not copied.
  void pass(int input, const Tensor& grad);
  [[nodiscard]] Shape input_shape(int input) const;

  template <class F>
  void run(const KernelCost& cost, F&& kernel) {
    tape_.run_as(Direction::backward, *node_.op, cost, kernel);
  }
  [[nodiscard]] Tape& tape() { return tape_; }
  [[nodiscard]] Tensor empty(const Shape& shape, DType dtype) const {
    return tape_.empty(shape, dtype);
  }

  /// For recomputation: removes the gradient gathered so far for input i (undefined when none or a
  /// parameter) ...
  [[nodiscard]] Tensor take_gradient(int input);
  /// ... and puts the sum back.
  void put_gradient(int input, Tensor grad);

 private:
  friend class Tape;
  Backward(Tape& tape, Tape::Node& node) : tape_(tape), node_(node) {}
  Tape::Value& input_value(int input);
  Tape& tape_;
  Tape::Node& node_;
};

/// No recording while it lives: evaluation, generation, counting passes.
class NoGrad {
 public:
  explicit NoGrad(Tape& tape) : tape_(tape), outer_(tape.recording_) { tape_.recording_ = false; }
  ~NoGrad() { tape_.recording_ = outer_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape& tape_;
  bool outer_;
};

/// Counts the kernels called while it lives under Direction::extra.
class ExtraForward {
 public:
  explicit ExtraForward(Tape& tape) : tape_(tape), outer_(tape.extra_) { tape_.extra_ = true; }
  ~ExtraForward() { tape_.extra_ = outer_; }
  ExtraForward(const ExtraForward&) = delete;
  ExtraForward& operator=(const ExtraForward&) = delete;

 private:
  Tape& tape_;
  bool outer_;
};

/// Attributes the kernels called while it lives, and later their backwards, to a phase.
class PhaseScope {
 public:
  PhaseScope(Tape& tape, Phase phase) : tape_(tape), outer_(tape.phase_) { tape_.phase_ = phase; }
  ~PhaseScope() { tape_.phase_ = outer_; }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  Tape& tape_;
  Phase outer_;
};

/// The same, with the time between the kernels (PhaseTimer).
class TimedPhaseScope {
 public:
  TimedPhaseScope(Tape& tape, Phase phase)
      : scope_(tape, phase),
        timer_(tape.shapes_only() ? nullptr : tape.meter(), phase, tape.direction()) {}

 private:
  PhaseScope scope_;
  PhaseTimer timer_;
};

}  // namespace sluice
