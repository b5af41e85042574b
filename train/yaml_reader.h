#pragma once
// Fills a config from YAML, by its list of fields, and collects everything that is wrong.
//
//   Recipe recipe;
//   read_or_throw(recipe, load_documents({{"recipe.yaml"}, {"train.steps=100"}}));
//
// Every key must be read by somebody; what a key does not give keeps its default. Messages:
//
//   r.yaml:14:3: balance.coef: unknown key of type "bip"; did you mean "coefficient"?
//   r.yaml:14:3: balance.rate: not read by type "bip"; it belongs to type "loss_free_bias"
//   r.yaml:41:12: model.experts.top_k: found 12, allowed 1 to 8 (num_experts)

#include "autograd/support/fields.h"
#include "train/diagnostics.h"
#include "train/yaml_document.h"

namespace sluice {

/// Reads `document` into `config`, whose members hold the defaults, and returns all problems, those
/// of the document included, in the order of the text. With problems, `config` is partly filled and
/// of no use.
///
/// A tagged union that is given is made anew from its choice's own defaults; without `type` it
/// keeps the type of its default value. Configurable::check() runs, inner configs first, where
/// nothing else was wrong; a sentence that starts with a key ("top_k: found ...") is reported at
/// that key.
[[nodiscard]] Diagnostics read_into(Configurable& config, const YamlDocument& document);

/// The same; throws ConfigError with one line per problem.
void read_or_throw(Configurable& config, const YamlDocument& document);

}  // namespace sluice
