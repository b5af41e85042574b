#pragma once
// Which source the next sequence comes from.

#include <cstdint>
#include <vector>

namespace sluice {

/// Chooses, each time, the source whose count of draws lags furthest behind its share (the first of
/// equals): after n draws every source has had its share of n to within the number of sources. No
/// randomness: the counts are the whole state.
class Mixture {
 public:
  /// `weights` are not negative and not all zero; shares are weights divided by their sum.
  explicit Mixture(const std::vector<double>& weights);

  [[nodiscard]] int64_t next();
  /// Draws so far per source.
  [[nodiscard]] const std::vector<int64_t>& drawn() const { return drawn_; }
  /// Goes on from the counts of an earlier mixture of as many sources.
  void restore(std::vector<int64_t> drawn);

 private:
  std::vector<double> shares_;
  std::vector<int64_t> drawn_;
  int64_t total_ = 0;
};

}  // namespace sluice
