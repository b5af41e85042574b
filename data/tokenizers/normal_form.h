#pragma once
// The normal forms of Unicode (Annex 15), by utf8proc: one way of writing what may be written in
// several.

#include <cstdint>
#include <string>

namespace sluice {

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

/// Brings `text`, which is valid UTF-8, into this form.
void to_normal_form(NormalForm form, std::string& text);

}  // namespace sluice
