#pragma once
// Which source the next sequence comes from.

#include <cstdint>
#include <vector>

namespace sluice {

/// Chooses, each time, the source whose count of draws lags furthest behind its share (the first of
/// equals): after n draws every source has had its share of n to within the number of sources. With
/// a `run` above 1 a source that was chosen is drawn from `run` times in a row. No randomness: the
/// counts are the whole state.
class Mixture {
 public:
  /// `weights` are not negative and not all zero; shares are weights divided by their sum.
  explicit Mixture(const std::vector<double>& weights, int64_t run = 1);

  [[nodiscard]] int64_t next();
  /// Draws so far per source.
  [[nodiscard]] const std::vector<int64_t>& drawn() const { return drawn_; }
  /// Goes on from the counts of an earlier mixture of as many sources.
  void restore(std::vector<int64_t> drawn);

 private:
  [[nodiscard]] size_t choose() const;

  std::vector<double> shares_;
  int64_t run_;
  std::vector<int64_t> drawn_;
  int64_t total_ = 0;
};

}  // namespace sluice
