#include "data/fingerprint.h"

#include <fmt/format.h>

namespace sluice {

void Fingerprint::add(std::string_view text) {
  add(static_cast<uint64_t>(text.size()));
  hash_.update(std::as_bytes(std::span(text)));
}

std::string Fingerprint::hex() const { return fmt::format("{:016x}", value()); }

}  // namespace sluice
