#include "layers/modalities.h"

#include <algorithm>
#include <functional>

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/support/arena.h"
#include "layers/model.h"

namespace sluice {

void ModalitiesConfig::fields(FieldVisitor& v) {
  v.texts({.key = "names", .doc = "the modalities, in order of their numbers", .required = true},
          names);
  v.integers({"first_tokens",
              "the token id with which each modality begins, the first 0; empty: a token's source "
              "says its modality (data.sources.modality)"},
             first_tokens, {.min = 0});
}

std::string ModalitiesConfig::check() const {
  if (names.size() < 2) {
    return fmt::format("names: found {}, allowed two or more modalities", names.size());
  }
  for (auto name = names.begin(); name != names.end(); ++name) {
    if (name->empty()) return "names: found an empty name";
    if (std::find(names.begin(), name, *name) != name) {
      return fmt::format("names: found {} twice, allowed names that differ", *name);
    }
  }
  if (first_tokens.empty()) return {};
  const bool grows =
      std::ranges::adjacent_find(first_tokens, std::ranges::greater_equal{}) == first_tokens.end();
  if (first_tokens.size() == names.size() && first_tokens.front() == 0 && grows) return {};
  return fmt::format(
      "first_tokens: found [{}], allowed {} ids (names) that begin with 0 and grow, or none",
      fmt::join(first_tokens, ", "), names.size());
}

int32_t ModalitiesConfig::of_token(int32_t id) const {
  const auto after = std::ranges::upper_bound(first_tokens, int64_t{id});
  return static_cast<int32_t>(std::max<int64_t>(0, after - first_tokens.begin() - 1));
}

int64_t num_modalities(const ModelConfig& model) {
  const auto config = model.told_modalities();
  return config == nullptr ? 0 : std::ssize(config->names);
}

ModalityRows::ModalityRows(const ForwardContext& context, int64_t modalities) {
  Tape& tape = context.tape;
  const int64_t tokens = context.layout.tokens();
  ArenaScope scratch(thread_arena());
  std::span<const int32_t> of_token = context.modalities;
  if (tape.shapes_only()) {
    // Any will do.
    int32_t* first = scratch.allocate<int32_t>(tokens);
    std::fill_n(first, tokens, 0);
    of_token = {first, static_cast<size_t>(tokens)};
  }
  SLUICE_INTERNAL_CHECK(std::ssize(of_token) == tokens,
                        "modalities of {} tokens are known, of {} are asked", of_token.size(),
                        tokens);
  ids = Tensor::of<int32_t>(tape.pool(), {tokens}, of_token);
  to_ = make_dispatch_plan(tape.pool(), of_token, tokens, 1, modalities);
  offsets = to_.offsets;
  // Each token has one row: the inverse of a permutation.
  back_.token_of_row = to_.row_of_slot.reshaped({tokens});
  back_.slot_of_row = back_.token_of_row;
  back_.row_of_slot = to_.token_of_row.reshaped({tokens, 1});
}

UntiedLinear::UntiedLinear(const Builder& b, const LinearSpec& spec, int64_t modalities)
    : weight_(parameter(b, "w_" + spec.name, {modalities, spec.out, spec.in}, ParameterKind::matrix,
                        spec.init, Stack::modalities)) {
  SLUICE_INTERNAL_CHECK(!spec.bias, "an untied linear map {} with a bias", spec.name);
}

Tensor UntiedLinear::forward(Tape& tape, const Tensor& x, const ModalityRows& rows) const {
  return grouped_matmul(tape, x, tape.use(weight_), rows.offsets);
}

UntiedNorm::UntiedNorm(const Builder& b, const Spec& spec, int64_t modalities)
    : eps_(spec.eps),
      weight_(parameter(b, spec.name, {modalities, spec.size}, ParameterKind::norm, Init::ones(),
                        Stack::modalities)) {}

Tensor UntiedNorm::forward(Tape& tape, const Tensor& x, const ModalityRows& rows) const {
  return grouped_rms_norm(tape, x, tape.use(weight_), rows.offsets, eps_);
}

void visit_untied_norms(FieldVisitor& v, UntiedNorms& norms) {
  v.enumeration(
      {"norm",
       "RMSNorms with a weight for each modality: pre, before the projections; post, behind them, "
       "as published; or both"},
      norms, {{"pre", UntiedNorms::pre}, {"post", UntiedNorms::post}, {"both", UntiedNorms::both}});
}

UntiedBlockNorms::UntiedBlockNorms(const Builder& b, const ModelConfig& model, UntiedNorms norms) {
  const auto norm = [&](const char* name) {
    return &child(std::make_unique<UntiedNorm>(
        b, UntiedNorm::Spec{name, model.hidden_size, model.norm.eps}, num_modalities(model)));
  };
  if (norms != UntiedNorms::post) pre_ = norm("pre_norm");
  if (norms != UntiedNorms::pre) post_ = norm("post_norm");
}

Tensor UntiedBlockNorms::before(Tape& tape, const Tensor& x, const ModalityRows& rows) const {
  return pre_ == nullptr ? x : pre_->forward(tape, x, rows);
}

Tensor UntiedBlockNorms::behind(Tape& tape, const Tensor& y, const ModalityRows& rows) const {
  return post_ == nullptr ? y : post_->forward(tape, y, rows);
}

std::string check_untied_norms(const ModelConfig& model) {
  if (model.norm.type == "rms_norm") return {};
  return fmt::format(
      "norm: a layer with norms for each modality takes model.norm.type rms_norm only, "
      "found {}",
      model.norm.type);
}

ModalityLinear::ModalityLinear(const Builder& b, const LinearSpec& spec, int64_t modalities) {
  if (modalities == 0) {
    tied_ = &child(std::make_unique<Linear>(b, spec));
  } else {
    untied_ = &child(std::make_unique<UntiedLinear>(b, spec, modalities));
  }
}

Tensor ModalityLinear::forward(const ForwardContext& context, const Tensor& x,
                               const ModalityRows* rows) const {
  if (tied_ != nullptr) return tied_->forward(context, x);
  Tape& tape = context.tape;
  return rows->scatter(tape, untied_->forward(tape, rows->gather(tape, x), *rows));
}

}  // namespace sluice
