#include "autograd/support/error.h"

#include <string_view>

namespace sluice::detail {

void throw_internal_error(const char* file, int line, const char* condition,
                          const std::string& message) {
  std::string_view path(file);
  if (const auto slash = path.rfind('/'); slash != std::string_view::npos) {
    path.remove_prefix(slash + 1);
  }
  throw InternalError(fmt::format("bug in Sluice ({}:{}, `{}` is false): {}; please report it",
                                  path, line, condition, message));
}

}  // namespace sluice::detail
