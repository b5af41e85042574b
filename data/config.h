#pragma once
// The recipe's `data` section.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "data/source.h"

namespace sluice {

using SourceConfigs = std::vector<std::shared_ptr<Configurable>>;  // each a SourceConfig

struct HeldOutConfig final : Configurable {
  double fraction = 0.02;
  SourceConfigs sources;  // when there are any, `fraction` is not used

  void fields(FieldVisitor& visitor) override;
  [[nodiscard]] std::string check() const override;
};

struct DataConfig final : Configurable {
  Tagged tokenizer;
  int64_t sequence_length = 512;
  SourceConfigs sources;
  HeldOutConfig held_out;
  int64_t sequences_per_draw = 1;
  bool shuffle = true;
  bool cross_document_loss = false;
  int64_t prefetch = 2;
  std::optional<std::string> cache;

  /// With the default tokenizer.
  DataConfig();
  void fields(FieldVisitor& visitor) override;
  [[nodiscard]] std::string check() const override;
};

/// The items as what they are.
[[nodiscard]] const SourceConfig& as_source(const std::shared_ptr<Configurable>& item);

}  // namespace sluice
