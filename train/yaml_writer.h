#pragma once
// A config as YAML: complete, every default included. What is saved with a run and printed by
// `recipes cat`.
//
// Reading the text back gives equal values for every field, to the last bit of every number.

#include <string>

#include "autograd/support/fields.h"

namespace sluice {

struct YamlWriteOptions {
  bool with_docs = false;  // each key's documentation as a comment above it
  bool with_absolute_paths =
      true;  // relative paths, which only code can put there, from the current folder
};

/// `config` is visited, not changed. Throws InternalError if it holds a NaN or an infinity.
[[nodiscard]] std::string write_yaml(Configurable& config, const YamlWriteOptions& options = {});

}  // namespace sluice
