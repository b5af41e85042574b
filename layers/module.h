#pragma once
// Modules: owners of named parameters, and the builder that names and initialises them.
//
//   class Linear : public Module {
//    public:
//     Linear(Builder b, int64_t in, int64_t out)
//         : weight_(parameter(b, "weight", {out, in}, ParameterKind::matrix)) {}
//     Tensor forward(const ForwardContext& context, const Tensor& x) const {
//       return linear(context.tape, x, context.tape.use(weight_));
//     }
//    private:
//     Parameter& weight_;
//   };
//
// The dotted path of a parameter ("layers.3.experts.w_gate") is its name in checkpoints and errors.
// Initial values depend only on (seed, name, index): not on construction order, threads or which
// other parameters exist.

#include <memory>
#include <string>
#include <vector>

#include "autograd/core/parameter.h"
#include "autograd/support/fields.h"
#include "autograd/support/function_ref.h"

namespace sluice {

/// `init:` of a recipe.
struct InitConfig final : Configurable {
  double std = 0.02;
  /// "gpt2" divides the standard deviation of projections that add to the residual stream by sqrt(2
  /// L).
  std::string residual = "none";
  void fields(FieldVisitor& v) override;
};

enum class InitKind : uint8_t { zeros, ones, normal, fan_in_uniform };

/// How a parameter starts.
struct Init {
  InitKind kind = InitKind::normal;
  /// Takes part in the "gpt2" depth scaling; fan_in_uniform: divided by the root of the number of
  /// sublayers in any case.
  bool adds_to_residual = false;
  int64_t fan_in = 1;  // of fan_in_uniform: U(-1/sqrt(fan_in), 1/sqrt(fan_in))
  static Init zeros() { return {InitKind::zeros}; }
  static Init ones() { return {InitKind::ones}; }
  static Init residual() { return {InitKind::normal, true}; }
  static Init uniform(int64_t fan_in, bool adds_to_residual = false) {
    return {InitKind::fan_in_uniform, adds_to_residual, fan_in};
  }
};

class AdapterMaker;

/// Hands down what parameters are made from, and the path so far. Cheap to copy.
class Builder {
 public:
  Builder(Pool& pool, DType dtype, uint64_t seed, const InitConfig& init, int64_t num_sublayers)
      : pool_(&pool), dtype_(dtype), seed_(seed), init_(&init), num_sublayers_(num_sublayers) {}

  /// A builder one level down; an empty name stays on this level.
  [[nodiscard]] Builder child(const std::string& name) const;
  /// The same, whose linear maps carry what `maker` makes for them (linear.h); it outlives the builder.
  [[nodiscard]] Builder with_adapters(AdapterMaker& maker) const;
  /// Null where no linear map carries anything.
  [[nodiscard]] AdapterMaker* adapters() const { return adapters_; }
  [[nodiscard]] std::unique_ptr<Parameter> make(const std::string& name, const Shape& shape,
                                                ParameterKind kind, Init init) const;
  /// Other initial values: element i becomes value(i, u), u uniform in [0, 1) for (seed, name, i).
  void fill(Parameter& parameter, FunctionRef<double(int64_t, double)> value) const;
  [[nodiscard]] Pool& pool() const { return *pool_; }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Pool* pool_;
  DType dtype_;
  uint64_t seed_;
  const InitConfig* init_;
  int64_t num_sublayers_;
  AdapterMaker* adapters_ = nullptr;
  std::string path_;
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters of this module and its children, in order of registration, each once.
  [[nodiscard]] std::vector<Parameter*> parameters() const;

 protected:
  /// Makes and owns a parameter.
  Parameter& parameter(const Builder& b, const std::string& name, const Shape& shape,
                       ParameterKind kind, Init init = {}, Stack stack = Stack::none);
  /// Owns a child.
  template <class M>
  M& child(std::unique_ptr<M> module) {
    M& reference = *module;
    children_.push_back(std::move(module));
    order_.push_back({nullptr, children_.back().get()});
    return reference;
  }

 private:
  struct Item {
    Parameter* parameter;
    Module* child;
  };
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<std::unique_ptr<Module>> children_;
  std::vector<Item> order_;
};

}  // namespace sluice
