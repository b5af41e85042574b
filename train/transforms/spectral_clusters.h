#pragma once
// Spectral clustering of a few things by how alike they are (Ng, Jordan, Weiss 2001):
//
//   L = I - D^-1/2 A D^-1/2,   D the row sums of the affinity A
//
// The eigenvectors of the smallest eigenvalues of L, one row per thing, scaled to length 1, are clustered
// by k-means, which starts from rows far apart. Distances between rows do not know the eigenvectors'
// signs, nor the basis of an eigenspace that is taken whole.

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// `affinity` is [n, n], symmetric, 0 or more. Returns exactly `count` clusters, none empty, each in
/// ascending order, by their first members.
[[nodiscard]] std::vector<std::vector<int32_t>> spectral_clusters(std::span<const double> affinity,
                                                                  int64_t n, int64_t count);

}  // namespace sluice
