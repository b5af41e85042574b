#pragma once
// A parity comparison as the receipts of transformations keep it.

#include <nlohmann/json.hpp>

#include "train/transforms/receipt.h"

namespace sluice {

[[nodiscard]] nlohmann::ordered_json json_of(const Parity& parity);

}  // namespace sluice
