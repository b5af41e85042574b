#pragma once
// Domains of the training data, for models that tell them apart: by a router (mixer), or because
// sources say which modality their tokens are of (layers/modalities.h).
//
// Such a model knows a domain by its number among the recipe's training sources. Other text has to
// say, by name, which of them it belongs to.

#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "train/recipe.h"

namespace sluice {

/// Names of the domains of data.sources, in order, each once: the numbers of Dataset::domains.
[[nodiscard]] std::vector<std::string> training_domains(const DataConfig& config);

/// The modality of all tokens of each of them, or kByTokenId; empty when no source names one.
[[nodiscard]] std::vector<int32_t> domain_modalities(const Recipe& recipe);

/// The model goes by a document's domain.
[[nodiscard]] bool reads_domains(const Recipe& recipe);

/// "" or one sentence: the router knows another number of domains than there are, sources name
/// modalities that the model does not have, of one domain different ones, or none where nothing else
/// tells them, or held-out text is of no domain that the model goes by.
[[nodiscard]] std::string check_domains(const Recipe& recipe);

/// Number of the domain `name`; 0 for an empty name. Throws ConfigError naming `flag` when the model
/// was not trained on it, or goes by no domains.
[[nodiscard]] int32_t domain_number(const Recipe& recipe, std::string_view name,
                                    std::string_view flag);

/// Numbers the domains of `data` as the recipe's training data does. Throws ConfigError naming
/// `flag` for one that the model was not trained on. For models that read domains.
void number_domains(const Recipe& recipe, std::string_view flag, Dataset& data);

}  // namespace sluice
