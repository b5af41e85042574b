#include "data/tokenizers/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// No character that starts with a smaller byte changes, or combines with another: below U+0300 for
/// NFC, ASCII for all.
unsigned char first_that_may_change(NormalForm form) {
  return form == NormalForm::nfc ? 0xCC : 0x80;
}

utf8proc_option_t options_of(NormalForm form) {
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool unifies = form == NormalForm::nfkc || form == NormalForm::nfkd;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE |
                                        (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                        (unifies ? UTF8PROC_COMPAT : 0));
}

/// U+11A7 composes with nothing, but utf8proc 2.8 drops it behind a Hangul syllable.
constexpr std::string_view kHangulBase = "\xE1\x86\xA7";

std::string normal_form(NormalForm form, std::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const auto bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, std::free);
  SLUICE_CHECK(DataError, bytes >= 0, "a text of {} bytes cannot be normalised: {}", text.size(),
               utf8proc_errmsg(bytes));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(bytes)};
}

}  // namespace

void to_normal_form(NormalForm form, std::string& text) {
  const unsigned char first = first_that_may_change(form);
  if (std::ranges::all_of(text, [&](unsigned char byte) { return byte < first; })) return;
  std::string result;
  for (std::string_view rest = text;;) {
    const size_t base = rest.find(kHangulBase);
    result += normal_form(form, rest.substr(0, base));
    if (base == std::string_view::npos) break;
    result += kHangulBase;
    rest.remove_prefix(base + kHangulBase.size());
  }
  text = std::move(result);
}

}  // namespace sluice
