#pragma once
// What a call complains about.

#include <string>
#include <utility>

namespace sluice::testing {

/// The message of the ErrorType that `body` throws, "no error" where it throws nothing. An error of
/// another type passes through and fails the test.
template <class ErrorType, class Body>
[[nodiscard]] std::string error_of(Body&& body) {
  try {
    std::forward<Body>(body)();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace sluice::testing
