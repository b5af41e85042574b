#pragma once
// Domains of the training data, for models whose router tells them apart (mixer).
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

/// The model's router goes by a document's domain.
[[nodiscard]] bool reads_domains(const Recipe& recipe);

/// "" or one sentence: the router knows another number of domains than there are, or held-out text
/// is of none of them.
[[nodiscard]] std::string check_domains(const Recipe& recipe);

/// Number of the domain `name`; 0 for an empty name. Throws ConfigError naming `flag` when the model
/// was not trained on it, or goes by no domains.
[[nodiscard]] int32_t domain_number(const Recipe& recipe, std::string_view name,
                                    std::string_view flag);

/// Numbers the domains of `data` as the recipe's training data does. Throws ConfigError naming
/// `flag` for one that the model was not trained on. For models that read domains.
void number_domains(const Recipe& recipe, std::string_view flag, Dataset& data);

}  // namespace sluice
