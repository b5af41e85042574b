#include "data/batch.h"

#include <algorithm>

#include "autograd/support/error.h"

namespace sluice {
namespace {

template <class T>
void slice(const std::vector<T>& values, int64_t begin, int64_t end, std::vector<T>& result) {
  result.assign(values.begin() + begin, values.begin() + end);
}

void slice_rebased(const std::vector<int64_t>& offsets, int64_t begin, int64_t end,
                   std::vector<int64_t>& result) {
  slice(offsets, begin, end, result);
  const int64_t base = result.front();
  for (int64_t& offset : result) offset -= base;
}

int64_t index_of(const std::vector<int64_t>& offsets, int64_t offset) {
  return std::lower_bound(offsets.begin(), offsets.end(), offset) - offsets.begin();
}

}  // namespace

int64_t Batch::valid_targets() const {
  return num_tokens() - std::count(targets.begin(), targets.end(), kIgnoredTarget);
}

std::vector<int32_t> Batch::document_of_token() const {
  std::vector<int32_t> result(tokens.size());
  for (int64_t document = 0; document < num_documents(); ++document) {
    std::fill(result.begin() + document_offsets[document],
              result.begin() + document_offsets[document + 1], static_cast<int32_t>(document));
  }
  return result;
}

Batch Batch::slice_sequences(int64_t begin, int64_t end) const {
  Batch result;
  slice_sequences(begin, end, result);
  return result;
}

void Batch::slice_sequences(int64_t begin, int64_t end, Batch& result) const {
  SLUICE_INTERNAL_CHECK(0 <= begin && begin <= end && end <= num_sequences(),
                        "sequences [{}, {}) of {}", begin, end, num_sequences());
  const int64_t first = sequence_offsets[begin];
  const int64_t last = sequence_offsets[end];
  // A sequence of no tokens cannot occur, so offsets are strictly increasing and the search is
  // exact.
  const int64_t first_document = index_of(document_offsets, first);
  const int64_t last_document = index_of(document_offsets, last);
  slice(tokens, first, last, result.tokens);
  slice(targets, first, last, result.targets);
  slice(positions, first, last, result.positions);
  slice_rebased(sequence_offsets, begin, end + 1, result.sequence_offsets);
  slice_rebased(document_offsets, first_document, last_document + 1, result.document_offsets);
  slice(document_domain, first_document, last_document, result.document_domain);
  slice(global_sample, begin, end, result.global_sample);
}

void Batch::append(const Batch& other) {
  const int64_t base = num_tokens();
  const auto extend = [](auto& values, const auto& more) {
    values.insert(values.end(), more.begin(), more.end());
  };
  const auto extend_offsets = [base](std::vector<int64_t>& offsets,
                                     const std::vector<int64_t>& more) {
    for (size_t i = 1; i < more.size(); ++i) offsets.push_back(base + more[i]);
  };
  extend(tokens, other.tokens);
  extend(targets, other.targets);
  extend(positions, other.positions);
  extend_offsets(sequence_offsets, other.sequence_offsets);
  extend_offsets(document_offsets, other.document_offsets);
  extend(document_domain, other.document_domain);
  extend(global_sample, other.global_sample);
}

void Batch::end_sequence(uint64_t sample) {
  SLUICE_INTERNAL_CHECK(num_tokens() > sequence_offsets.back(), "sequence {} has no tokens",
                        sample);
  sequence_offsets.push_back(num_tokens());
  global_sample.push_back(sample);
}

void Batch::check() const {
  const auto increasing = [](const std::vector<int64_t>& offsets) {
    return offsets.front() == 0 && std::adjacent_find(offsets.begin(), offsets.end(),
                                                      std::greater_equal<>()) == offsets.end();
  };
  SLUICE_INTERNAL_CHECK(targets.size() == tokens.size() && positions.size() == tokens.size(),
                        "{} tokens, {} targets, {} positions", tokens.size(), targets.size(),
                        positions.size());
  SLUICE_INTERNAL_CHECK(increasing(sequence_offsets) && sequence_offsets.back() == num_tokens() &&
                            sequence_offsets.size() == global_sample.size() + 1,
                        "sequence offsets do not cut the {} tokens", num_tokens());
  SLUICE_INTERNAL_CHECK(increasing(document_offsets) && document_offsets.back() == num_tokens() &&
                            document_offsets.size() == document_domain.size() + 1,
                        "document offsets do not cut the {} tokens", num_tokens());
  SLUICE_INTERNAL_CHECK(std::includes(document_offsets.begin(), document_offsets.end(),
                                      sequence_offsets.begin(), sequence_offsets.end()),
                        "a document piece crosses a sequence");
  for (int64_t document = 0; document < num_documents(); ++document) {
    for (int64_t i = document_offsets[document]; i < document_offsets[document + 1]; ++i) {
      SLUICE_INTERNAL_CHECK(positions[i] == i - document_offsets[document],
                            "token {} has position {}", i, positions[i]);
    }
  }
}

}  // namespace sluice
