#pragma once
// State that survives a run: described once, then saved, loaded, hashed and counted by the same
// traversal.
//
//   void LossFreeBias::visit_state(StateVisitor& v) {      // in any module, optimizer, balancer or
//   loader
//     v.tensor("bias", bias_);                             // [E]
//     v.integer("steps", steps_);
//   }
//   void save(Model& model, AdamW& optimizer) {
//     SaveVisitor v;
//     { const StateScope scope(v, "model"); model.visit_state(v); }
//     { const StateScope scope(v, "optim"); optimizer.visit_state(v); }
//     StateDict state = v.take();                          // "model/layers.3.experts.w_up" ->
//     array
//   }
//
// Names are dotted inside a scope and scopes are joined by '/': exactly the path in a checkpoint. A
// component must visit the same names in the same order every time, and must not ask which visitor
// it is given.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/tensor.h"
#include "autograd/support/element_type.h"
#include "autograd/support/function_ref.h"

namespace sluice {

/// How a tensor's elements are stored.
[[nodiscard]] constexpr ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ElementType::f32;
    case DType::f64:
      return ElementType::f64;
    case DType::i32:
      return ElementType::i32;
    case DType::bf16:
      break;
  }
  return ElementType::u8;
}

/// An array away from any pool: what a checkpoint holds under one name.
struct StateArray {
  ElementType type = ElementType::f32;
  std::vector<int64_t> dims;  // outermost first; empty for a scalar
  std::vector<std::byte> bytes;

  [[nodiscard]] int64_t numel() const;
  /// The elements as T. Throws CheckpointError when they are of another type.
  template <Element T>
  [[nodiscard]] std::span<const T> values() const {
    check_type(element_type_of<T>);
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  friend bool operator==(const StateArray&, const StateArray&) = default;

 private:
  void check_type(ElementType wanted) const;
};

/// Path ("model/layers.3.experts.w_up") to array, in alphabetical order.
using StateDict = std::map<std::string, StateArray, std::less<>>;

/// One named array, as a visitor meets it.
struct StateField {
  const std::string& path;
  ElementType type;
  std::span<const int64_t> dims;
  std::span<std::byte> bytes;
  /// For a list whose length is part of the state: resizes it to that many elements, and returns
  /// its memory. Null when the size is fixed.
  const FunctionRef<std::span<std::byte>(int64_t)>* resize = nullptr;
};

class StateVisitor {
 public:
  virtual ~StateVisitor() = default;

  /// A tensor of fixed dtype and shape; loading fills it in place.
  void tensor(std::string_view name, Tensor& value);
  /// Memory of fixed size outside tensors, seen as an array of shape `dims`.
  template <Element T>
  void array(std::string_view name, std::span<T> values, std::span<const int64_t> dims) {
    visit({path_of(name), element_type_of<T>, dims, std::as_writable_bytes(values)});
  }
  void integer(std::string_view name, int64_t& value) {
    array<int64_t>(name, std::span<int64_t>(&value, 1), {});
  }
  void number(std::string_view name, double& value) {
    array<double>(name, std::span<double>(&value, 1), {});
  }
  /// A list of any length; loading resizes it.
  template <Element T>
  void list(std::string_view name, std::vector<T>& values) {
    const int64_t size = static_cast<int64_t>(values.size());
    const auto resize = [&values](int64_t count) {
      values.resize(static_cast<size_t>(count));
      return std::as_writable_bytes(std::span<T>(values));
    };
    const FunctionRef<std::span<std::byte>(int64_t)> resize_ref = resize;
    visit({path_of(name), element_type_of<T>, std::span<const int64_t>(&size, 1),
           std::as_writable_bytes(std::span<T>(values)), &resize_ref});
  }
  /// A text of any length, stored as its bytes.
  void text(std::string_view name, std::string& value);

 protected:
  virtual void visit(const StateField& field) = 0;

 private:
  friend class StateScope;
  /// Valid until the next call: the text is built in memory that is reused.
  [[nodiscard]] const std::string& path_of(std::string_view name);
  std::string prefix_;  // "optim/", or empty
  std::string path_;
};

/// Puts `name` and a '/' in front of every path visited while it lives.
class StateScope {
 public:
  StateScope(StateVisitor& visitor, std::string_view name);
  ~StateScope();
  StateScope(const StateScope&) = delete;
  StateScope& operator=(const StateScope&) = delete;

 private:
  StateVisitor& visitor_;
  size_t outer_size_;
};

/// Copies everything visited. A path visited twice is a bug of ours (InternalError).
class SaveVisitor final : public StateVisitor {
 public:
  [[nodiscard]] StateDict take() { return std::move(state_); }

 protected:
  void visit(const StateField& field) override;

 private:
  StateDict state_;
};

/// Keeps a copy of everything visited in memory that it reuses, for what is taken back within a
/// step (a counting pass, a skipped update): in a steady state it allocates nothing.
///
///   snapshot.begin_saving();
///   session.visit_state(snapshot);
///   ...
///   snapshot.begin_restoring();
///   session.visit_state(snapshot);
///   snapshot.finish_restoring();
class StateSnapshot final : public StateVisitor {
 public:
  /// Forgets the copy; what is visited from here on is saved.
  void begin_saving();
  /// What is visited from here on gets its copy back: the same arrays in the same order, lists in
  /// the length that they had. Another array is an InternalError. May be done again and again.
  void begin_restoring();
  /// Throws InternalError unless everything saved was given back.
  void finish_restoring() const;

 protected:
  void visit(const StateField& field) override;

 private:
  std::vector<std::byte> bytes_;  // of all arrays, one after the other
  std::vector<size_t> ends_;      // of each array in bytes_
  size_t next_ = 0;               // array to be given back
  bool restoring_ = false;
};

struct LoadOptions {
  /// Which paths take part; the others are neither loaded nor missed. Null for all (a full resume).
  /// To start from a checkpoint's weights: `[](std::string_view path) { return
  /// path.starts_with("model/"); }`.
  std::function<bool(std::string_view path)> wanted;
};

/// Copies a StateDict into everything visited. The dictionary must outlive the visitor. Nothing is
/// converted, and every difference counts: a missing path, a path that nothing visits, another type
/// or shape.
class LoadVisitor final : public StateVisitor {
 public:
  /// `source` (a file name) stands in front of messages.
  LoadVisitor(const StateDict& state, std::string source, LoadOptions options = {});

  /// Call after the last visit. Throws CheckpointError with the first difference found and the
  /// number of others: "step_00002000.h5: /model/layers.3.experts.w_up is [8, 512, 128], the model
  /// expects [8, 512, 256]".
  void finish();
  /// Arrays copied so far.
  [[nodiscard]] int64_t loaded() const { return loaded_; }

 protected:
  void visit(const StateField& field) override;

 private:
  [[nodiscard]] bool wanted(std::string_view path) const;
  const StateDict& state_;
  std::string source_;
  LoadOptions options_;
  std::set<std::string, std::less<>> visited_;
  std::vector<std::string> differences_;
  int64_t loaded_ = 0;
};

/// XXH64 of the type, shape and bytes of everything visited: equal hashes mean bitwise equal state.
class HashVisitor final : public StateVisitor {
 public:
  using Hashes = std::map<std::string, uint64_t, std::less<>>;
  [[nodiscard]] const Hashes& hashes() const { return hashes_; }
  /// One number for all of it, names included.
  [[nodiscard]] uint64_t combined() const;

 protected:
  void visit(const StateField& field) override;

 private:
  Hashes hashes_;
};

/// Elements and bytes of everything visited, and of each outermost scope.
class CountVisitor final : public StateVisitor {
 public:
  struct Count {
    int64_t arrays = 0;
    int64_t elements = 0;
    int64_t bytes = 0;
  };
  [[nodiscard]] const Count& total() const { return total_; }
  /// By outermost scope ("model", "optim"); paths without one are under "".
  [[nodiscard]] const std::map<std::string, Count, std::less<>>& scopes() const { return scopes_; }

 protected:
  void visit(const StateField& field) override;

 private:
  Count total_;
  std::map<std::string, Count, std::less<>> scopes_;
};

}  // namespace sluice
