#include "data/token_cache.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "autograd/support/hdf5.h"

namespace sluice {
namespace {

constexpr std::string_view kChecksum = "checksum";

std::string checksum_of(const Corpus& corpus) {
  Fingerprint fingerprint;
  corpus.add_to(fingerprint);
  fingerprint.add(corpus.document_bytes);
  return fingerprint.hex();
}

std::string tokenizer_line(std::string_view kind, std::string_view serialized) {
  Fingerprint fingerprint;
  fingerprint.add(serialized);
  return fmt::format("{} {}", kind, fingerprint.hex());
}

TokenStore read_tokens(const hdf5::File& file) {
  if (file.info("/tokens").type == ElementType::u16) {
    return TokenStore(file.read<uint16_t>("/tokens"));
  }
  return TokenStore(file.read<uint32_t>("/tokens"));
}

}  // namespace

void write_token_shard(const std::filesystem::path& path, const Corpus& corpus) {
  auto file = hdf5::File::create_image(
      path.string(), raise_as<DataError>,
      {.expected_bytes = std::max<int64_t>(int64_t{1} << 20, 4 * corpus.num_tokens())});
  std::visit(
      [&]<class T>(const std::vector<T>& ids) {
        file.write<T>("/tokens", {static_cast<int64_t>(ids.size())}, ids);
      },
      corpus.tokens.array());
  const auto write = [&](const char* name, const std::vector<int64_t>& values) {
    file.write<int64_t>(name, {static_cast<int64_t>(values.size())}, values);
  };
  write("/document_offsets", corpus.document_offsets);
  write("/document_bytes", corpus.document_bytes);
  write("/loss_begin", corpus.loss_begin);
  file.set_attribute("/", std::string(kChecksum), checksum_of(corpus));
  write_file_atomically(real_file_system(), path, file.image(), raise_as<DataError>);
}

Corpus read_token_shard(const std::filesystem::path& path) {
  const auto file = hdf5::File::open(path, raise_as<DataError>);
  Corpus corpus(0);
  corpus.tokens = read_tokens(file);
  corpus.document_offsets = file.read<int64_t>("/document_offsets");
  corpus.document_bytes = file.read<int64_t>("/document_bytes");
  corpus.loss_begin = file.read<int64_t>("/loss_begin");
  SLUICE_CHECK(DataError, file.text_attribute("/", std::string(kChecksum)) == checksum_of(corpus),
               "{}: its content does not match its checksum", path.string());
  return corpus;
}

std::filesystem::path TokenCache::file(const std::string& name) const {
  return std::filesystem::path(*folder_) / name;
}

std::optional<Corpus> TokenCache::find_corpus(const std::string& key) const {
  if (!is_enabled() || !std::filesystem::exists(file("tokens-" + key + ".h5"))) return std::nullopt;
  try {
    return read_token_shard(file("tokens-" + key + ".h5"));
  } catch (const DataError&) {
    return std::nullopt;
  }
}

void TokenCache::store_corpus(const std::string& key, const Corpus& corpus) const {
  if (!is_enabled()) return;
  create_folders(real_file_system(), *folder_, raise_as<DataError>);
  write_token_shard(file("tokens-" + key + ".h5"), corpus);
}

// A stored tokenizer is a line of its kind and the hash of its bytes, then its bytes.
std::unique_ptr<Tokenizer> TokenCache::find_tokenizer(const std::string& key) const {
  if (!is_enabled() || !std::filesystem::exists(file("tokenizer-" + key))) return nullptr;
  const std::string content = read_file(file("tokenizer-" + key), raise_as<DataError>);
  const size_t line_end = std::min(content.find('\n'), content.size() - 1);
  const std::string_view line = std::string_view(content).substr(0, line_end);
  const std::string serialized = content.substr(line_end + 1);
  const std::string_view kind = line.substr(0, line.find(' '));
  if (line != tokenizer_line(kind, serialized)) return nullptr;
  return deserialize_tokenizer(kind, serialized);
}

void TokenCache::store_tokenizer(const std::string& key, const Tokenizer& tokenizer) const {
  if (!is_enabled()) return;
  create_folders(real_file_system(), *folder_, raise_as<DataError>);
  const std::string serialized = tokenizer.serialize();
  const std::string content = tokenizer_line(tokenizer.kind(), serialized) + "\n" + serialized;
  write_file_atomically(real_file_system(), file("tokenizer-" + key), bytes_of(content),
                        raise_as<DataError>);
}

}  // namespace sluice
