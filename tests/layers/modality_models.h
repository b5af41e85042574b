#pragma once
// Small models with layers whose parameters are untied by modality.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/modalities.h"
#include "tests/layers/layer_checks.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

/// Of `pattern`, in which Z is the layer of this table's entry with these fields; tokens below 32 are of
/// modality 0, the others of modality 1.
template <class Entry>
ModelConfig modality_config(const Entry& entry, const std::string& pattern,
                            const nlohmann::json& fields, const std::string& dtype = "f32") {
  ModelConfig config = tiny_config("AFE", dtype);
  auto modalities = std::make_shared<ModalitiesConfig>();
  modalities->names = {"text", "image"};
  modalities->first_tokens = {0, 32};
  config.modalities = modalities;
  auto settings = entry.make_config();
  testing::set_fields(*settings, fields);
  config.variants = {
      {"Z", {std::string(entry.name), std::shared_ptr<Configurable>(std::move(settings))}}};
  config.pattern = pattern;
  return config;
}

inline Parameter* parameter_named(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return parameter;
  }
  return nullptr;
}

/// A copy of modality m's part of an untied parameter.
inline std::vector<double> part_of(const Tensor& stacked, int64_t m) {
  const int64_t size = stacked.numel() / stacked.dim(0);
  std::vector<double> result;
  for (int64_t i = 0; i < size; ++i) result.push_back(element(stacked, m * size + i));
  return result;
}

/// Gives `untied` the values of `tied`: a parameter whose name differs by what `renamed` does to it;
/// untied ones as equal copies. Every parameter of `untied` must have one.
template <class Rename>
void copy_parameters(const Model& tied, const Model& untied, Rename&& renamed) {
  for (Parameter* parameter : untied.parameters()) {
    const Parameter* source = parameter_named(tied, renamed(parameter->name));
    ASSERT_NE(source, nullptr) << parameter->name << " is " << renamed(parameter->name);
    if (parameter->stack != Stack::modalities) {
      parameter->value.copy_from(source->value);
      continue;
    }
    const int64_t copies = parameter->value.dim(0);
    ASSERT_EQ(parameter->value.numel(), copies * source->value.numel()) << parameter->name;
    dispatch_float(parameter->value.dtype(), [&]<class T>() {
      for (int64_t m = 0; m < copies; ++m) {
        std::copy_n(source->value.data<T>(), source->value.numel(),
                    parameter->value.data<T>() + m * source->value.numel());
      }
    });
  }
}

/// `name` with `from` replaced by `to` where it occurs.
inline std::string replaced(std::string name, const std::string& from, const std::string& to) {
  const size_t at = name.find(from);
  return at == std::string::npos ? name : name.replace(at, from.size(), to);
}

/// Packed documents of tokens of both modalities in turns, or of one only.
inline TinyBatch tokens_of_modality(Pool& pool, std::optional<int64_t> only) {
  TinyBatch batch = tiny_batch(pool, {{9, 1, 14}, {20}});
  int32_t* tokens = batch.tokens.data<int32_t>();
  for (int64_t i = 0; only && i < batch.tokens.numel(); ++i) {
    tokens[i] = static_cast<int32_t>(tokens[i] % 32 + 32 * *only);
  }
  return batch;
}

/// Backward of one training pass, into the parameters' gradients.
inline void run_backward(Pool& pool, const Model& model, const TinyBatch& batch) {
  zero_grads(model, pool);
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  tape.backward(
      model.loss(training_context(tape, batch, session), batch.tokens, batch.targets).total);
  for (Parameter* parameter : model.parameters()) parameter->materialise_grad();
}

/// A batch of one modality leaves the gradients of the other copies exactly 0, and no other's.
inline void expect_other_modalities_untouched(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 3);
  for (const int64_t m : {0, 1}) {
    run_backward(pool, model, tokens_of_modality(pool, m));
    int64_t untied = 0;
    for (const Parameter* parameter : model.parameters()) {
      if (parameter->stack != Stack::modalities) continue;
      ++untied;
      const std::vector<double> own = part_of(parameter->grad, m);
      const std::vector<double> other = part_of(parameter->grad, 1 - m);
      const auto is_zero = [](double value) { return value == 0.0; };
      EXPECT_FALSE(std::ranges::all_of(own, is_zero)) << parameter->name;
      EXPECT_TRUE(std::ranges::all_of(other, is_zero)) << parameter->name;
    }
    EXPECT_GT(untied, 0);
  }
}

/// The first and second half of every untied parameter change places.
inline void swap_copies(const Model& model) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->stack != Stack::modalities) continue;
    ASSERT_EQ(parameter->value.dim(0), 2);
    dispatch_float(parameter->value.dtype(), [&]<class T>() {
      T* values = parameter->value.data<T>();
      const int64_t half = parameter->value.numel() / 2;
      std::swap_ranges(values, values + half, values + half);
    });
  }
}

/// Modalities with each other's numbers and copies compute the same bits.
inline void expect_labels_mean_nothing(ModelConfig config) {
  Pool pool;
  TinyBatch batch = tokens_of_modality(pool, std::nullopt);
  for (size_t i = 0; i < batch.layout.document_domains.size(); ++i) {
    batch.layout.document_domains[i] = static_cast<int32_t>(i % 2);
  }
  config.domain_modalities = {0, 1};
  const Model model(pool, config, 3);
  const Tensor expected = hidden_of(pool, model, batch, /*training=*/false);
  config.domain_modalities = {1, 0};
  const Model other(pool, config, 3);
  EXPECT_FALSE(same_bits(hidden_of(pool, other, batch, /*training=*/false), expected));
  swap_copies(other);
  EXPECT_TRUE(same_bits(hidden_of(pool, other, batch, /*training=*/false), expected));
}

}  // namespace sluice::testing_support
