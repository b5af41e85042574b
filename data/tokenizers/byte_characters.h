#pragma once
// How byte-level vocabularies (GPT-2, Radford et al. 2019) spell bytes: each as one printable character,
// itself where it is one and no space, else the next free one from U+0100 on. A space is U+0120, "Ġ".

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// The character of each byte, in UTF-8, [256].
[[nodiscard]] const std::array<std::string, 256>& byte_characters();

/// `bytes`, which may be any, in these characters.
[[nodiscard]] std::string spelled_bytes(std::string_view bytes);

/// The bytes that `token` spells; nullopt when one of its characters is no byte's.
[[nodiscard]] std::optional<std::string> unspelled_bytes(std::string_view token);

}  // namespace sluice
