#pragma once
// Typed errors and the two checks of the project.
//
//   SLUICE_CHECK(ShapeError, a.size() == b.size(), "add: a is {} but b is {}", a.size(), b.size());
//   SLUICE_INTERNAL_CHECK(offset >= 0, "offset {} of block {}", offset, block);
//
// SLUICE_CHECK is for what a user, a recipe or a file can cause: the message is one sentence that
// says where, what was found and what is allowed. SLUICE_INTERNAL_CHECK is for a bug of our own and
// says so. Both stay on in release builds; hot loops check before they start. Libraries throw and
// never print, exit or abort; only the command line turns an error into a message and an exit
// status.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sluice {

/// Base of every error that Sluice throws. `what()` is the message, outer context first:
/// "step 12: layers.3.experts: grouped_matmul: x is [512, 256] but ...".
class Error : public std::exception {
 public:
  explicit Error(std::string message) : message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }

  /// Puts `context` (a layer path, a step, a rank, a file) in front of the message while unwinding:
  ///   catch (Error& e) { e.add_context("step 12"); throw; }
  void add_context(const std::string& context) { message_ = context + ": " + message_; }

 private:
  std::string message_;
};

/// Operands of an op whose shapes do not fit.
class ShapeError : public Error {
  using Error::Error;
};
/// Operands of an op whose element types do not fit.
class DTypeError : public Error {
  using Error::Error;
};
/// A recipe, flag or file named by them that cannot be used (exit status 2).
class ConfigError : public Error {
  using Error::Error;
};
/// Training or evaluation data that cannot be read (exit status 1).
class DataError : public Error {
  using Error::Error;
};
/// A checkpoint that cannot be written or read (exit status 1).
class CheckpointError : public Error {
  using Error::Error;
};
/// Communication between ranks failed (exit status 1).
class CommError : public Error {
  using Error::Error;
};
/// The numbers diverged (exit status 3).
class NumericError : public Error {
  using Error::Error;
};
/// A bug in Sluice.
class InternalError : public Error {
  using Error::Error;
};

namespace detail {
[[noreturn]] void throw_internal_error(const char* file, int line, const char* condition,
                                       const std::string& message);
}  // namespace detail

/// Runs `body`; an Error that passes through gets `describe()` as context.
template <class Describe, class Body>
decltype(auto) with_context(Describe&& describe, Body&& body) {
  try {
    return body();
  } catch (Error& error) {
    error.add_context(describe());
    throw;
  }
}

}  // namespace sluice

#define SLUICE_CHECK(ErrorType, condition, ...)              \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      throw ::sluice::ErrorType(::fmt::format(__VA_ARGS__)); \
  } while (false)

#define SLUICE_INTERNAL_CHECK(condition, ...)                                \
  do {                                                                       \
    if (!(condition)) [[unlikely]]                                           \
      ::sluice::detail::throw_internal_error(__FILE__, __LINE__, #condition, \
                                             ::fmt::format(__VA_ARGS__));    \
  } while (false)
