// Files of ready tokens: see data/token_file.h for the formats.

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/source.h"
#include "data/token_file.h"

namespace sluice {
namespace {

struct TokenOptions final : Configurable {
  std::string raw_type = "u16";
  std::optional<int64_t> separator_id;

  void fields(FieldVisitor& v) override {
    static constexpr std::array<std::string_view, 2> kRawTypes = {"u16", "u32"};
    v.word({"raw_type", "how the numbers of a .bin file are stored"}, raw_type, kRawTypes);
    v.optional_integer({"separator_id",
                        "token between documents; none: a file is one document, or "
                        "says so itself (HDF5)"},
                       separator_id, {.min = 0, .max = std::numeric_limits<int32_t>::max()},
                       "none");
  }
};

class TokenSource final : public Source {
 public:
  TokenSource(const std::string& path, TokenOptions options)
      : files_(files_at(path, {"bin", "npy", "h5", "hdf5"})), options_(std::move(options)) {}

  bool holds_tokens() const override { return true; }

  void read(FunctionRef<void(const DocumentView&)> visit) const override {
    for (const std::string& path : files_) {
      const TokenFile file = read_token_file(path, options_.raw_type);
      const std::span<const int32_t> tokens = file.tokens;
      if (file.document_offsets.empty()) {
        read_separated(tokens, visit);
        continue;
      }
      for (size_t i = 0; i + 1 < file.document_offsets.size(); ++i) {
        const auto begin = static_cast<size_t>(file.document_offsets[i]);
        const auto end = static_cast<size_t>(file.document_offsets[i + 1]);
        read_separated(tokens.subspan(begin, end - begin), visit);
      }
    }
  }

  void add_to(Fingerprint& fingerprint) const override {
    fingerprint.add(options_.raw_type);
    fingerprint.add(options_.separator_id.value_or(-1));
    for (const std::string& path : files_) fingerprint.add(read_input_file(path));
  }

 private:
  void read_separated(std::span<const int32_t> tokens,
                      FunctionRef<void(const DocumentView&)> visit) const {
    while (options_.separator_id) {
      const auto end = std::find(tokens.begin(), tokens.end(), *options_.separator_id);
      if (end == tokens.end()) break;
      const auto length = static_cast<size_t>(end - tokens.begin());
      visit({.tokens = tokens.first(length)});
      tokens = tokens.subspan(length + 1);
    }
    visit({.tokens = tokens});
  }

  std::vector<std::string> files_;
  TokenOptions options_;
};

}  // namespace

extern const SourceType k_source_tokens;
const SourceType k_source_tokens = {
    .name = "tokens",
    .doc = "ready tokens: raw .bin, .npy or HDF5",
    .make_options = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TokenOptions>();
    },
    .make = [](const std::string& path, const Configurable& options) -> std::unique_ptr<Source> {
      return std::make_unique<TokenSource>(path, dynamic_cast<const TokenOptions&>(options));
    },
};

}  // namespace sluice
