#pragma once
// Shapes: up to five dimensions, stored inline.

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace sluice {

/// Sizes of a tensor's dimensions, outermost first; rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  /// Throws ShapeError for a negative size, more than five dimensions, or a product past 2^48
  /// elements.
  Shape(std::initializer_list<int64_t> dims)
      : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);

  [[nodiscard]] int rank() const { return rank_; }
  /// Size of dimension i; negative i counts from the last.
  [[nodiscard]] int64_t operator[](int i) const {
    return dims_[static_cast<size_t>(i < 0 ? i + rank_ : i)];
  }
  [[nodiscard]] int64_t numel() const { return numel_; }
  [[nodiscard]] std::span<const int64_t> dims() const {
    return {dims_.data(), static_cast<size_t>(rank_)};
  }
  /// Product of all but the last dimension: the rows of the tensor seen as a matrix.
  [[nodiscard]] int64_t rows() const { return rank_ == 0 ? 1 : outer_; }
  /// The same shape with another size of dimension i; negative i counts from the last.
  [[nodiscard]] Shape resized(int i, int64_t size) const {
    std::array<int64_t, kMaxRank> dims = dims_;
    dims[static_cast<size_t>(i < 0 ? i + rank_ : i)] = size;
    return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank_)));
  }
  /// "[2, 128, 512]"
  [[nodiscard]] std::string to_string() const;
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.dims_ == b.dims_;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
  int64_t numel_ = 1;
  int64_t outer_ = 1;
};

}  // namespace sluice

template <>
struct fmt::formatter<sluice::Shape> : fmt::formatter<std::string> {
  auto format(const sluice::Shape& shape, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(shape.to_string(), context);
  }
};
