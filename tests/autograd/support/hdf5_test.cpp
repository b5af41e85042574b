#include "autograd/support/hdf5.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/scratch_folder.h"

namespace sluice::hdf5 {
namespace {

using sluice::testing::error_of;
using sluice::testing::ScratchFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr RaiseError kRaise = raise_as<DataError>;

std::vector<std::byte> image_of(const std::function<void(File&)>& fill, ImageOptions options = {}) {
  File file = File::create_image("test", kRaise, options);
  fill(file);
  const auto image = file.image();
  return {image.begin(), image.end()};
}

template <class T>
class Hdf5Elements : public ::testing::Test {};
using Types =
    ::testing::Types<float, double, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t>;
TYPED_TEST_SUITE(Hdf5Elements, Types);

TYPED_TEST(Hdf5Elements, RoundTripBitForBit) {
  const std::vector<TypeParam> values{
      0, 1, 2, std::numeric_limits<TypeParam>::max(), std::numeric_limits<TypeParam>::lowest(), 5};
  const auto image = image_of([&](File& f) {
    f.write<TypeParam>("/deep/group/x", {2, 3}, values);
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_EQ(file.info("/deep/group/x").type, element_type_of<TypeParam>);
  EXPECT_THAT(file.info("/deep/group/x").dims, ElementsAre(2, 3));
  EXPECT_EQ(file.read<TypeParam>("/deep/group/x"), values);
}

TEST(Hdf5, AnOutlineIsTheFileButForTheElements) {
  constexpr int64_t kUserBlock = 512;
  const std::vector<float> large(100'000, 1.25f);
  const std::vector<double> small{1.5, -2.5};
  File outline = File::create_outline("test", kRaise, kUserBlock);
  outline.set_attribute("/", "step", int64_t{7});
  const std::array<int64_t, 2> dims{1000, 100};
  const std::array<int64_t, 1> two{2};
  const std::array<int64_t, 1> none{0};
  const int64_t at_large = outline.reserve("/deep/large", ElementType::f32, dims);
  outline.write_text("/text", "what it is");
  const int64_t at_small = outline.reserve("/small", ElementType::f64, two);
  const int64_t at_scalar = outline.reserve("/scalar", ElementType::f64, {});
  EXPECT_EQ(outline.reserve("/empty", ElementType::f32, none), -1);
  EXPECT_EQ(outline.reserve("/large_too", ElementType::f32, dims) % 64, 0);
  EXPECT_EQ(at_large % 64, 0);

  std::vector<std::byte> image(static_cast<size_t>(outline.finish()));
  EXPECT_LT(image.size(), 2 * large.size() * 4 + 20'000);
  outline.copy_to(image);
  std::memcpy(image.data() + at_large, large.data(), large.size() * sizeof(float));
  std::memcpy(image.data() + at_small, small.data(), 2 * sizeof(double));
  std::memcpy(image.data() + at_scalar, small.data(), sizeof(double));

  const File file = File::open_image(image, "test", kRaise);
  EXPECT_EQ(file.integer_attribute("/", "step"), 7);
  EXPECT_EQ(file.read_text("/text"), "what it is");
  EXPECT_EQ(file.read<float>("/deep/large"), large);
  EXPECT_THAT(file.info("/deep/large").dims, ElementsAre(1000, 100));
  EXPECT_EQ(file.read<double>("/small"), small);
  EXPECT_THAT(file.read<double>("/scalar"), ElementsAre(1.5));
  EXPECT_THAT(file.read<float>("/empty"), IsEmpty());
}

TEST(Hdf5, KeepsScalarsAndEmptyArrays) {
  const std::vector<double> one{2.5};
  const auto image = image_of([&](File& f) {
    f.write<double>("/scalar", {}, one);
    f.write<float>("/empty", {0, 4}, {});
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_THAT(file.info("/scalar").dims, IsEmpty());
  EXPECT_THAT(file.read<double>("/scalar"), ElementsAre(2.5));
  EXPECT_THAT(file.info("/empty").dims, ElementsAre(0, 4));
  EXPECT_THAT(file.read<float>("/empty"), IsEmpty());
}

TEST(Hdf5, KeepsTextsOfEveryLength) {
  const std::string long_text(100'000, 'y');
  const auto image = image_of([&](File& f) {
    f.write_text("/a", "seed: 1\nname: \"caf\xc3\xa9\"\n");
    f.write_text("/b", "");
    f.write_text("/c", long_text);
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_EQ(file.read_text("/a"), "seed: 1\nname: \"caf\xc3\xa9\"\n");
  EXPECT_EQ(file.read_text("/b"), "");
  EXPECT_EQ(file.read_text("/c"), long_text);
  EXPECT_TRUE(file.is_text("/a"));
}

TEST(Hdf5, KeepsAttributesAndReplacesThem) {
  const auto image = image_of([&](File& f) {
    f.set_attribute("/", "step", int64_t{1});
    f.set_attribute("/", "step", int64_t{1} << 40);
    f.set_attribute("/", "loss", 0.1);
    f.set_attribute("/", "kind", "bytes");
    f.set_attribute("/", "nothing", "");
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_EQ(file.integer_attribute("/", "step"), int64_t{1} << 40);
  EXPECT_EQ(file.number_attribute("/", "loss"), 0.1);
  EXPECT_EQ(file.text_attribute("/", "kind"), "bytes");
  EXPECT_EQ(file.text_attribute("/", "nothing"), "");
  EXPECT_FALSE(file.has_attribute("/", "absent"));
  EXPECT_EQ(error_of<DataError>([&] { (void)file.integer_attribute("/", "kind"); }),
            "test: / attribute kind has an unexpected type");
}

TEST(Hdf5, ListsGroupsAndDatasetsInOrder) {
  const std::vector<int32_t> one{1};
  const auto image = image_of([&](File& f) {
    for (const char* path : {"/b/z", "/b/a", "/a", "/b/sub.name/x"})
      f.write<int32_t>(path, {1}, one);
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_THAT(file.children("/"), ElementsAre("a", "b"));
  EXPECT_THAT(file.children("/b"), ElementsAre("a", "sub.name", "z"));
  EXPECT_THAT(file.datasets(), ElementsAre("/a", "/b/a", "/b/sub.name/x", "/b/z"));
  EXPECT_THAT(file.datasets("/b"), ElementsAre("/b/a", "/b/sub.name/x", "/b/z"));
  EXPECT_TRUE(file.exists("/b/sub.name/x"));
  EXPECT_FALSE(file.exists("/absent/x"));
}

TEST(Hdf5, GivesTheSameBytesForTheSameContents) {
  const std::vector<int32_t> values{1, 2, 3};
  const auto fill = [&](File& f) {
    f.write<int32_t>("/g/x", {3}, values);
    f.set_attribute("/g", "name", "value");
  };
  EXPECT_EQ(image_of(fill), image_of(fill));
}

TEST(Hdf5, StoresNoTimes) {
  const std::vector<int32_t> values{1, 2, 3};
  const auto image = image_of([&](File& f) { f.write<int32_t>("/a/b/x", {3}, values); });
  // Bit 5 of the flags behind an object header's signature and version says that times follow.
  const std::string_view bytes(reinterpret_cast<const char*>(image.data()), image.size());
  int headers = 0;
  for (size_t at = bytes.find("OHDR"); at != bytes.npos; at = bytes.find("OHDR", at + 1)) {
    EXPECT_EQ(bytes[at + 5] & 0x20, 0) << "object header at byte " << at;
    ++headers;
  }
  EXPECT_EQ(headers, 4);  // the root, two groups, the dataset
}

TEST(Hdf5, LeavesTheUserBlockFreeAndPutsItsSignatureBehindIt) {
  const std::vector<int32_t> values{1, 2, 3};
  const auto image =
      image_of([&](File& f) { f.write<int32_t>("/x", {3}, values); }, {.user_block_bytes = 512});
  for (size_t i = 0; i < 512; ++i) ASSERT_EQ(image[i], std::byte{0}) << i;
  EXPECT_EQ(image[513], std::byte{'H'});
  const ScratchFolder folder;
  write_file_atomically(real_file_system(), folder / "x.h5", image, kRaise);
  EXPECT_THAT(File::open(folder / "x.h5", kRaise).read<int32_t>("/x"), ElementsAre(1, 2, 3));
}

TEST(Hdf5, ReadsAndWritesRowsOfAFileOnDisk) {
  const ScratchFolder folder;
  {
    File file = File::create(folder / "x.h5", kRaise);
    const std::vector<int64_t> dims{4, 2};
    file.create_dataset("/x", ElementType::u16, dims);
    const std::vector<uint16_t> tail{5, 6, 7, 8};
    const std::vector<uint16_t> head{1, 2, 3, 4};
    file.write_rows<uint16_t>("/x", 2, tail);
    file.write_rows<uint16_t>("/x", 0, head);
    file.write_rows<uint16_t>("/x", 4, {});
    file.close();
  }
  const File file = File::open(folder / "x.h5", kRaise);
  std::vector<uint16_t> middle(4);
  file.read_rows<uint16_t>("/x", 1, middle);
  EXPECT_THAT(middle, ElementsAre(3, 4, 5, 6));
  EXPECT_THAT(error_of<DataError>([&] { file.read_rows<uint16_t>("/x", 3, middle); }),
              HasSubstr("/x is [4, 2]: 4 elements from row 3 are no range of its rows"));
}

TEST(Hdf5, NamesFilePathFoundAndExpected) {
  const std::vector<int32_t> values{1, 2, 3};
  const auto image = image_of([&](File& f) {
    f.write<int32_t>("/x", {3}, values);
    f.write_text("/t", "text");
  });
  const File file = File::open_image(image, "a.h5", kRaise);
  EXPECT_EQ(error_of<DataError>([&] { (void)file.read<float>("/x"); }),
            "a.h5: /x is i32, expected f32");
  EXPECT_EQ(error_of<DataError>([&] { (void)file.info("/y/z"); }), "a.h5: /y/z is missing");
  EXPECT_EQ(error_of<DataError>([&] { (void)file.read_text("/x"); }), "a.h5: /x holds no text");
  EXPECT_EQ(error_of<DataError>([&] { (void)file.info("/t"); }),
            "a.h5: /t holds neither f32, f64, i32, i64, u8, u16, u32 nor u64");
}

TEST(Hdf5, RefusesWhatIsNoHdf5File) {
  const ScratchFolder folder;
  std::ofstream(folder / "text.h5") << "hello";
  std::ofstream(folder / "empty.h5") << "";
  EXPECT_EQ(error_of<DataError>([&] { (void)File::open(folder / "text.h5", kRaise); }),
            (folder / "text.h5").string() + ": not an HDF5 file");
  EXPECT_EQ(error_of<DataError>([&] { (void)File::open(folder / "empty.h5", kRaise); }),
            (folder / "empty.h5").string() + ": not an HDF5 file");
  EXPECT_EQ(error_of<DataError>([&] { (void)File::open(folder / "none.h5", kRaise); }),
            (folder / "none.h5").string() + ": no such file");
  EXPECT_THAT(error_of<DataError>([&] { (void)File::open_image(bytes_of("hello"), "x", kRaise); }),
              StartsWith("x: not an HDF5 file"));
}

TEST(Hdf5, TablesGrowAndWiden) {
  const auto image = image_of([&](File& f) {
    f.create_table("/t/list", ElementType::i64, 0, 2);
    f.create_table("/t/table", ElementType::u8, 2, 2, 255);
    f.append_rows<int64_t>("/t/list", 0, std::vector<int64_t>{1, 2, 3});
    f.append_rows<int64_t>("/t/list", 0, std::vector<int64_t>{});
    f.append_rows<int64_t>("/t/list", 0, std::vector<int64_t>{4});
    f.append_rows<uint8_t>("/t/table", 2, std::vector<uint8_t>{1, 2, 3, 4, 5, 6});
    f.append_rows<uint8_t>("/t/table", 3, std::vector<uint8_t>{7, 8, 9});
    f.append_rows<uint8_t>("/t/table", 1, std::vector<uint8_t>{10});
  });
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_THAT(file.read<int64_t>("/t/list"), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(file.info("/t/table").dims, ElementsAre(5, 3));
  EXPECT_THAT(file.read<uint8_t>("/t/table"),
              ElementsAre(1, 2, 255, 3, 4, 255, 5, 6, 255, 7, 8, 9, 10, 255, 255));
  std::vector<uint8_t> rows(6);
  file.read_rows<uint8_t>("/t/table", 2, rows);
  EXPECT_THAT(rows, ElementsAre(5, 6, 255, 7, 8, 9));
}

TEST(Hdf5, TablesNoticeAFlippedBit) {
  auto image = image_of([&](File& f) {
    f.create_table("/x", ElementType::u8, 0, 8);
    f.append_rows<uint8_t>("/x", 0, std::vector<uint8_t>{11, 22, 33, 44, 55, 66, 77, 88});
  });
  const std::vector<std::byte> sought = {std::byte{11}, std::byte{22}, std::byte{33}};
  const auto at = std::ranges::search(image, sought).begin();
  ASSERT_NE(at, image.end());
  *at = std::byte{12};
  const File file = File::open_image(image, "test", kRaise);
  EXPECT_THAT(error_of<DataError>([&] { (void)file.read<uint8_t>("/x"); }),
              StartsWith("test: /x cannot be read"));
}

TEST(Hdf5, AFullDiskIsTheReasonWhateverCallFindsIt) {
  const ScratchFolder folder;
  const auto fill = [&] {
    File file = File::create(folder / "x.tmp", kRaise, "x.h5");
    // Far beyond what the library keeps in memory, so that any kind of call comes to write.
    const std::vector<int64_t> rows(100, 7);
    const auto path = [](int table) { return fmt::format("/deep/{}/x", table); };
    for (int table = 0; table < 400; ++table) {
      file.create_table(path(table), ElementType::i64, 0, 4);
      file.append_rows<int64_t>(path(table), 0, rows);
      for (int other = 0; other < table; other += 37) {
        file.append_rows<int64_t>(path(other), 0, rows);
      }
    }
    file.close();
  };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  {
    const sluice::testing::FileSizeLimit limit(1024);
    EXPECT_THAT(error_of<DataError>(fill),
                AllOf(StartsWith("x.h5: "), HasSubstr("File too large")));
  }
  std::signal(SIGXFSZ, handler);
}

TEST(Hdf5, MayBeUsedFromSeveralThreads) {
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([thread, &good] {
      for (int round = 0; round < 10; ++round) {
        const std::vector<int32_t> values(100, thread);
        const auto image = image_of([&](File& f) { f.write<int32_t>("/x", {100}, values); });
        const File file = File::open_image(image, "test", kRaise);
        good[static_cast<size_t>(thread)] += file.read<int32_t>("/x") == values;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(good, ElementsAre(10, 10, 10, 10));
}

}  // namespace
}  // namespace sluice::hdf5
