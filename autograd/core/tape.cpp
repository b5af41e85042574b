#include "autograd/core/tape.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <unordered_set>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kAddBlock = int64_t{1} << 16;

/// Every recording gets a number of its own, so that a tensor of another tape or of an earlier step
/// is recognised as a constant. Process-wide because tapes are made in several places; no result
/// depends on it.
uint64_t next_tape_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

/// into += from
void add_into(Tensor& into, const Tensor& from) {
  if (!into.has_memory()) return;
  dispatch_float(into.dtype(), [&]<class T>() {
    T* target = into.data<T>();
    const T* source = from.data<T>();
    parallel_for_ranges(into.numel(), kAddBlock, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) target[i] += source[i];
    });
  });
}

template <class T>
std::span<T> arena_span(Arena& arena, size_t count) {
  return {static_cast<T*>(arena.allocate_bytes(count * sizeof(T))), count};
}

template <class T>
std::span<const T> arena_copy(Arena& arena, std::span<const T> values) {
  const std::span<T> copy = arena_span<T>(arena, values.size());
  std::ranges::copy(values, copy.begin());
  return copy;
}

}  // namespace

Tape::Tape(Pool& pool, CostMeter* meter)
    : pool_(pool), meter_(meter), shapes_only_(pool.shapes_only()), id_(next_tape_id()) {}

Tape::~Tape() { reset(); }

int32_t Tape::new_value(Tensor& tensor, Parameter* parameter, bool retained) {
  const auto value = static_cast<int32_t>(values_.size());
  values_.push_back({Tensor(), parameter, tensor.shape(), tensor.dtype(), retained});
  tensor.value_ = value;
  tensor.tape_ = id_;
  return value;
}

Tensor Tape::use(Parameter& parameter) {
  Tensor result = parameter.value.detached();
  if (recording_ && parameter.trainable) {
    SLUICE_INTERNAL_CHECK(parameter.grad.defined(), "{} is used for training before zero_grad",
                          parameter.name);
    new_value(result, &parameter, false);
  }
  return result;
}

Tensor Tape::input(const Tensor& value) {
  Tensor result = value.detached();
  new_value(result, nullptr, true);
  return result;
}

bool Tape::wants_node(std::span<const Tensor> inputs) const {
  return recording_ && std::any_of(inputs.begin(), inputs.end(),
                                   [&](const Tensor& x) { return value_of(x) >= 0; });
}

void Tape::add_node(const OpInfo& op, std::span<const Tensor> inputs,
                    std::span<Tensor* const> outputs, std::span<const Tensor> saved, void* closure,
                    Invoke invoke) {
  SLUICE_INTERNAL_CHECK(!walked_, "{} is recorded on a tape that was walked; reset it first",
                        op.name);
  Node node;
  node.op = &op;
  node.phase = phase_;
  node.closure = closure;
  node.invoke = invoke;
  node.inputs = arena_span<int32_t>(arena_, inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) node.inputs[i] = value_of(inputs[i]);
  node.outputs = arena_span<int32_t>(arena_, outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    node.outputs[i] = new_value(*outputs[i], nullptr, false);
  }
  node.saved = arena_span<Tensor>(arena_, saved.size());
  // A saved tensor keeps memory, not its place on the tape: an op that saves its output gives the
  // handle before the output has a value number.
  for (size_t i = 0; i < saved.size(); ++i) new (&node.saved[i]) Tensor(saved[i].detached());
  nodes_.push_back(node);
}

void Tape::drop_saved(Node& node) {
  for (Tensor& tensor : node.saved) tensor.~Tensor();
  node.saved = {};
}

void Tape::backward(const Tensor& loss) {
  SLUICE_CHECK(ShapeError, loss.numel() == 1, "backward: expected a loss of one element, found {}",
               loss.shape());
  Tensor one = empty(loss.shape(), loss.dtype());
  if (one.has_memory()) dispatch_float(one.dtype(), [&]<class T>() { *one.data<T>() = T(1); });
  backward(std::span(&loss, 1), std::span(&one, 1));
}

void Tape::backward(std::span<const Tensor> outputs, std::span<const Tensor> grads) {
  SLUICE_INTERNAL_CHECK(!walked_, "the tape was walked already; reset it first");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int32_t value = value_of(outputs[i]);
    if (value < 0 || !grads[i].defined()) continue;
    SLUICE_CHECK(ShapeError, grads[i].shape() == outputs[i].shape(),
                 "backward: output is {} but its gradient is {}", outputs[i].shape(),
                 grads[i].shape());
    Value& slot = values_[static_cast<size_t>(value)];
    if (slot.grad.defined()) {
      slot.grad = slot.grad.clone(pool_);
      add_into(slot.grad, grads[i]);
    } else {
      slot.grad = grads[i].detached();
    }
  }
  run_nodes();
}

void Tape::run_nodes() {
  walked_ = true;
  const bool was_recording = recording_;
  const Phase outer_phase = phase_;
  recording_ = false;
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    const bool reached = std::any_of(
        node->outputs.begin(), node->outputs.end(),
        [&](int32_t output) { return values_[static_cast<size_t>(output)].grad.defined(); });
    if (reached) {
      phase_ = node->phase;
      Backward b(*this, *node);
      with_context([&] { return std::string("backward of ") + std::string(node->op->name); },
                   [&] { node->invoke(node->closure, b); });
    }
    drop_saved(*node);
    for (const int32_t output : node->outputs) values_[static_cast<size_t>(output)].grad = Tensor();
  }
  recording_ = was_recording;
  phase_ = outer_phase;
}

Tensor Tape::gradient(const Tensor& input) const {
  const int32_t value = value_of(input);
  SLUICE_INTERNAL_CHECK(value >= 0, "gradient of a tensor that is not an input of this tape");
  return values_[static_cast<size_t>(value)].grad;
}

void Tape::seed_gradient(const Tensor& input, Tensor grad) {
  const int32_t value = value_of(input);
  SLUICE_INTERNAL_CHECK(value >= 0, "seed of a tensor that is not an input of this tape");
  values_[static_cast<size_t>(value)].grad = std::move(grad);
}

void Tape::reset() {
  for (Node& node : nodes_) drop_saved(node);
  nodes_.clear();
  values_.clear();
  kept_.clear();
  arena_.rewind({});
  walked_ = false;
  id_ = next_tape_id();
}

std::span<const int64_t> Tape::keep(std::span<const int64_t> numbers) {
  return arena_copy(arena_, numbers);
}

std::span<const int32_t> Tape::keep(std::span<const int32_t> numbers) {
  return arena_copy(arena_, numbers);
}

std::vector<const OpInfo*> Tape::recorded_ops() const {
  std::vector<const OpInfo*> ops;
  for (const Node& node : nodes_) ops.push_back(node.op);
  return ops;
}

int64_t SavedMemory::bytes() const {
  return std::accumulate(entries.begin(), entries.end(), int64_t{0},
                         [](int64_t sum, const Entry& entry) { return sum + entry.bytes; });
}

SavedMemory Tape::saved_memory() const {
  SavedMemory memory;
  std::unordered_set<const void*> seen;
  for (const Node& node : nodes_) {
    for (const Tensor& tensor : node.saved) {
      if (!tensor.defined() || tensor.block().kind() != MemoryKind::activations) continue;
      if (!seen.insert(tensor.block().identity()).second) continue;
      auto entry = std::ranges::find_if(memory.entries, [&](const SavedMemory::Entry& e) {
        return e.phase == node.phase && e.op == node.op->name;
      });
      if (entry == memory.entries.end()) {
        entry = memory.entries.insert(entry, {node.phase, node.op->name});
      }
      ++entry->tensors;
      entry->bytes += tensor.bytes();
    }
  }
  std::ranges::stable_sort(memory.entries, {}, &SavedMemory::Entry::phase);
  return memory;
}

Tape& Tape::child() {
  if (!child_) child_ = std::make_unique<Tape>(pool_, meter_);
  return *child_;
}

// --- Backward ------------------------------------------------------------------------------------

bool Backward::has_grad(int output) const {
  const int32_t value = node_.outputs[static_cast<size_t>(output)];
  return tape_.values_[static_cast<size_t>(value)].grad.defined();
}

Tensor Backward::grad(int output) {
  const int32_t value = node_.outputs[static_cast<size_t>(output)];
  Tape::Value& slot = tape_.values_[static_cast<size_t>(value)];
  if (!slot.grad.defined()) slot.grad = tape_.zeros(slot.shape, slot.dtype);
  return slot.grad;
}

Tape::Value& Backward::input_value(int input) {
  const int32_t value = node_.inputs[static_cast<size_t>(input)];
  SLUICE_INTERNAL_CHECK(value >= 0, "{}: gradient of input {} is not wanted", node_.op->name,
                        input);
  return tape_.values_[static_cast<size_t>(value)];
}

GradTarget Backward::target(int input) {
  Tape::Value& slot = input_value(input);
  if (Parameter* parameter = slot.parameter) {
    const bool fresh = parameter->grad_is_zero;
    parameter->grad_is_zero = false;
    return {parameter->grad, fresh};
  }
  if (!slot.grad.defined()) {
    slot.grad = tape_.empty(slot.shape, slot.dtype);
    return {slot.grad, true};
  }
  // Shared with another value by pass(): adding here must not change that one.
  if (!slot.grad.unique()) slot.grad = slot.grad.clone(tape_.pool_);
  return {slot.grad, false};
}

Tensor Backward::target_zeroed(int input) {
  GradTarget target = this->target(input);
  if (target.fresh) target.tensor.fill_zero();
  return target.tensor;
}

void Backward::pass(int input, const Tensor& grad) {
  Tape::Value& slot = input_value(input);
  SLUICE_INTERNAL_CHECK(grad.numel() == slot.shape.numel(),
                        "{}: gradient {} for input {} of shape {}", node_.op->name, grad.shape(),
                        input, slot.shape);
  if (slot.parameter == nullptr && !slot.grad.defined()) {
    slot.grad = grad.reshaped(slot.shape);
    return;
  }
  GradTarget target = this->target(input);
  if (target.fresh) {
    target.tensor.copy_from(grad);
  } else {
    add_into(target.tensor, grad);
  }
}

Shape Backward::input_shape(int input) const {
  const int32_t value = node_.inputs[static_cast<size_t>(input)];
  return tape_.values_[static_cast<size_t>(value)].shape;
}

Tensor Backward::take_gradient(int input) {
  Tape::Value& slot = input_value(input);
  if (slot.parameter != nullptr) return {};
  return std::exchange(slot.grad, Tensor());
}

void Backward::put_gradient(int input, Tensor grad) {
  Tape::Value& slot = input_value(input);
  if (slot.parameter == nullptr && !slot.grad.defined()) {
    slot.grad = std::move(grad);
  } else if (grad.defined()) {
    pass(input, grad);
  }
}

}  // namespace sluice
