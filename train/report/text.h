#pragma once
// Text for a page: escaping, and numbers as a reader wants them.

#include <string>
#include <string_view>

namespace sluice::report {

/// Text that stands for itself in HTML and SVG, between tags and in quoted attributes. Bytes that
/// are no UTF-8, and control characters, become U+FFFD.
[[nodiscard]] std::string escaped(std::string_view text);

/// A JSON text that may stand inside a script element: `<` is written \u003c.
[[nodiscard]] std::string script_safe(std::string json);

/// The shortest decimal of about `digits` significant digits, without an exponent where it stays
/// readable: 2.7134, 0.00031, 3.1e-7, 12,345,678. A number that is not finite is an en dash.
[[nodiscard]] std::string readable(double value, int digits = 4);

/// A coordinate in a drawing: two decimals, no trailing zeros.
[[nodiscard]] std::string coordinate(double value);

/// The text as a JSON string, with its quotes; bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string json_text(std::string_view text);

/// A number of a data island: six significant digits, or null.
[[nodiscard]] std::string json_number(double value);

}  // namespace sluice::report
