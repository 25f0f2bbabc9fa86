#include "services/edge/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "libs/base/error.h"
#include "libs/testing/fake_clock.h"
#include "libs/testing/seed.h"
#include "libs/testing/temp_dir.h"
#include "services/edge/crc32c.h"

namespace tollhouse::edge {
namespace {

using ledger::v1::Entry;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kOrg = 7;

Entry Intent(const Uuid& id, int64_t epoch = 1) {
  Entry entry;
  entry.set_hold_id(std::string(id.raw()));
  entry.set_kind(ledger::v1::ENTRY_KIND_SUSPEND);
  entry.add_account_ids(kOrg);
  entry.add_account_ids(8);
  entry.set_epoch(epoch);
  entry.set_hold_nanousd(1000);
  entry.add_budgets()->set_amount_nanousd(1000);
  entry.set_model("gpt-5");
  return entry;
}

Entry ResultOf(const Uuid& id, int64_t cost) {
  Entry entry;
  entry.set_hold_id(std::string(id.raw()));
  entry.set_kind(ledger::v1::ENTRY_KIND_SETTLE);
  entry.set_cost_nanousd(cost);
  entry.set_status("ok");
  entry.add_usage()->set_model("gpt-5");
  return entry;
}

class JournalTest : public ::testing::Test {
 protected:
  JournalOptions Options() {
    JournalOptions options;
    options.dir = dir_.File("journal");
    options.segment_bytes = 64 << 10;
    options.clock = &clock_;
    return options;
  }
  std::unique_ptr<Journal> Open() {
    auto journal = Journal::Open(Options());
    EXPECT_TRUE(journal.ok()) << journal.status();
    return journal.ok() ? *std::move(journal) : nullptr;
  }
  Uuid Id() { return NewUuid(clock_.Wall()); }
  std::string Segment(int number = 1) {
    char name[64];
    std::snprintf(name, sizeof name, "/%016x.journal", number);
    return Options().dir + name;
  }
  static std::string Read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  static void Overwrite(const std::string& path, const std::string& data) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << data;
  }

  testing::TempDir dir_;
  testing::FakeClock clock_;
};

TEST(Crc32cTest, KnownVectors) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
}

TEST_F(JournalTest, EdgeIdStays) {
  const std::string id = Open()->edge_id();
  EXPECT_EQ(Open()->edge_id(), id);
}

TEST_F(JournalTest, SecondWriterIsRefused) {
  const auto first = Open();
  const auto second = Journal::Open(Options());
  EXPECT_EQ(ReasonOf(second.status()), "JOURNAL_LOCKED");
}

TEST_F(JournalTest, ReplayTellsResultsIntentsAndPostedApart) {
  const Uuid settled = Id(), open = Id(), posted = Id();
  {
    const auto journal = Open();
    for (const Uuid& id : {settled, open, posted}) ASSERT_TRUE(journal->AppendIntent(Intent(id)).ok());
    const auto result = journal->AppendResult(ResultOf(settled, 42));
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->written);
    EXPECT_EQ(result->entry->cost_nanousd(), 42);
    EXPECT_EQ(result->entry->model(), "gpt-5");
    ASSERT_TRUE(journal->AppendResult(ResultOf(posted, 5)).ok());
    journal->AppendPosted({std::string(posted.raw())});
    EXPECT_EQ(journal->unposted(), 2);
  }
  const auto journal = Open();
  std::map<std::string, Entry> replayed;
  for (Entry& entry : journal->TakeReplayed()) replayed[entry.hold_id()] = entry;
  ASSERT_THAT(replayed, SizeIs(2));
  EXPECT_EQ(replayed[std::string(settled.raw())].kind(), ledger::v1::ENTRY_KIND_SETTLE);
  EXPECT_EQ(replayed[std::string(settled.raw())].cost_nanousd(), 42);
  EXPECT_THAT(replayed[std::string(settled.raw())].usage(), SizeIs(1));
  EXPECT_EQ(replayed[std::string(open.raw())].kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  EXPECT_EQ(replayed[std::string(open.raw())].status(), "unknown");
  EXPECT_EQ(replayed[std::string(open.raw())].hold_nanousd(), 1000);
  EXPECT_THAT(journal->TakeReplayed(), IsEmpty());
}

TEST_F(JournalTest, AResultComesOnceAndOnlyAfterItsIntent) {
  const auto journal = Open();
  const Uuid id = Id();
  EXPECT_EQ(ReasonOf(journal->AppendResult(ResultOf(id, 1)).status()), "HOLD_UNKNOWN");
  ASSERT_TRUE(journal->AppendIntent(Intent(id)).ok());
  EXPECT_EQ(ReasonOf(journal->AppendIntent(Intent(id))), "HOLD_EXISTS");
  ASSERT_TRUE(journal->AppendResult(ResultOf(id, 1)).ok());
  EXPECT_EQ(ReasonOf(journal->AppendResult(ResultOf(id, 2)).status()), "HOLD_EXISTS");
}

TEST_F(JournalTest, TailTornAtEveryByteLosesOnlyTheTornFrame) {
  std::vector<size_t> ends;  // file size after each of the three records
  const Uuid a = Id(), b = Id();
  {
    const auto journal = Open();
    ends.push_back(std::filesystem::file_size(Segment()));
    ASSERT_TRUE(journal->AppendIntent(Intent(a)).ok());
    ends.push_back(std::filesystem::file_size(Segment()));
    ASSERT_TRUE(journal->AppendIntent(Intent(b)).ok());
    ends.push_back(std::filesystem::file_size(Segment()));
    ASSERT_TRUE(journal->AppendResult(ResultOf(a, 9)).ok());
    ends.push_back(std::filesystem::file_size(Segment()));
  }
  const std::string whole = Read(Segment());
  ASSERT_EQ(whole.size(), ends.back());
  for (size_t size = 0; size <= whole.size(); ++size) {
    Overwrite(Segment(), whole.substr(0, size));
    {
      const auto journal = Open();
      ASSERT_NE(journal, nullptr) << "cut at " << size;
      const auto replayed = journal->TakeReplayed();
      const size_t holds = size >= ends[2] ? 2 : size >= ends[1] ? 1 : 0;
      ASSERT_THAT(replayed, SizeIs(holds)) << "cut at " << size;
      const bool settled = std::any_of(replayed.begin(), replayed.end(), [](const Entry& entry) {
        return entry.kind() == ledger::v1::ENTRY_KIND_SETTLE;
      });
      EXPECT_EQ(settled, size >= ends[3]) << "cut at " << size;
      // What comes after a torn tail is found again.
      ASSERT_TRUE(journal->AppendIntent(Intent(Id())).ok());
    }
    const auto journal = Open();
    ASSERT_NE(journal, nullptr) << "appended after a cut at " << size;
    EXPECT_THAT(journal->TakeReplayed(), SizeIs((size >= ends[2] ? 2 : size >= ends[1] ? 1 : 0) + 1));
  }
}

TEST_F(JournalTest, DamageBeforeTheEndIsRefusedNamingTheFile) {
  std::vector<size_t> ends;
  {
    const auto journal = Open();
    ends.push_back(std::filesystem::file_size(Segment()));
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(journal->AppendIntent(Intent(Id())).ok());
      ends.push_back(std::filesystem::file_size(Segment()));
    }
  }
  const std::string whole = Read(Segment());
  for (size_t at = ends[0]; at < ends[2]; ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    Overwrite(Segment(), damaged);
    const auto journal = Journal::Open(Options());
    ASSERT_EQ(ReasonOf(journal.status()), "JOURNAL_CORRUPT") << "byte " << at;
    EXPECT_THAT(std::string(journal.status().message()), ::testing::HasSubstr(Segment()));
  }
  // In the last frame damage and a torn write cannot be told apart.
  std::string damaged = whole;
  damaged[ends[2] + 20] ^= 1;
  Overwrite(Segment(), damaged);
  EXPECT_THAT(Open()->TakeReplayed(), SizeIs(2));
}

TEST_F(JournalTest, FullJournalRefusesIntentsButTakesEveryResultAndRecovers) {
  JournalOptions options = Options();
  options.max_bytes = 2 * options.segment_bytes;
  auto opened = Journal::Open(options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto journal = *std::move(opened);
  std::vector<Uuid> holds;
  absl::Status status;
  for (int i = 0; i < 10000 && status.ok(); ++i) {
    const Uuid id = Id();
    status = journal->AppendIntent(Intent(id));
    if (status.ok()) holds.push_back(id);
  }
  EXPECT_EQ(ReasonOf(status), "JOURNAL_FULL");
  EXPECT_TRUE(journal->Full());
  EXPECT_GT(holds.size(), 10u);
  std::vector<std::string> ids;
  for (const Uuid& id : holds) {
    const auto result = journal->AppendResult(ResultOf(id, 3));
    ASSERT_TRUE(result.ok() && result->written);
    ids.emplace_back(id.raw());
  }
  EXPECT_LE(journal->bytes(), options.max_bytes);
  journal->AppendPosted(ids);
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(journal->Full());
  EXPECT_TRUE(journal->AppendIntent(Intent(Id())).ok());
}

TEST_F(JournalTest, LongRunStaysBelowItsBoundAndKeepsWhatIsOpen) {
  JournalOptions options = Options();
  options.max_bytes = 4 * options.segment_bytes;
  auto opened = Journal::Open(options);
  ASSERT_TRUE(opened.ok());
  auto journal = *std::move(opened);
  const Uuid early = Id();  // pins the first segment, must be carried along
  ASSERT_TRUE(journal->AppendIntent(Intent(early)).ok());
  for (int i = 0; i < 5000; ++i) {
    const Uuid id = Id();
    ASSERT_TRUE(journal->AppendIntent(Intent(id)).ok()) << i;
    ASSERT_TRUE(journal->AppendResult(ResultOf(id, i)).ok());
    journal->AppendPosted({std::string(id.raw())});
    ASSERT_LE(journal->bytes(), options.max_bytes);
  }
  journal.reset();
  opened = Journal::Open(options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto replayed = (*opened)->TakeReplayed();
  ASSERT_THAT(replayed, SizeIs(1));
  EXPECT_EQ(replayed[0].hold_id(), early.raw());
}

// What the ledger has answered for, in the order of its answers, as it was posted.
std::vector<Entry> AllRetained(const Journal& journal, size_t at_once) {
  Journal::Retained retained = journal.ReadRetained();
  std::vector<Entry> all;
  for (;;) {
    auto next = retained.Next(at_once);
    EXPECT_TRUE(next.ok()) << next.status();
    if (!next.ok() || next->empty()) return all;
    all.insert(all.end(), next->begin(), next->end());
  }
}

TEST_F(JournalTest, WhatWasAcknowledgedCanBeReadAgainAsItWasPosted) {
  auto journal = Open();
  std::vector<Uuid> ids;
  std::vector<std::string> posted;
  std::set<std::string> ended;
  for (int i = 0; i < 2000; ++i) {  // several segments
    ids.push_back(Id());
    ASSERT_TRUE(journal->AppendIntent(Intent(ids.back())).ok());
    if (i % 10 != 9) {
      ASSERT_TRUE(journal->AppendResult(ResultOf(ids.back(), i)).ok());
    }
    if (i % 10 == 8) {  // its answer may be on the way
      ended.insert(std::string(ids.back().raw()));
      continue;
    }
    posted.push_back(std::string(ids.back().raw()));
    journal->AppendPosted({posted.back()});
  }
  for (const bool reopened : {false, true}) {
    if (reopened) {
      journal.reset();
      journal = Open();
    }
    const std::vector<Entry> all = AllRetained(*journal, 100);
    ASSERT_EQ(all.size(), posted.size() + ended.size());
    for (size_t i = posted.size(); i < all.size(); ++i) EXPECT_TRUE(ended.contains(all[i].hold_id()));
    for (size_t i = 0; i < posted.size(); ++i) {
      EXPECT_EQ(all[i].hold_id(), posted[i]);
      EXPECT_EQ(all[i].account_ids_size(), 2);
      const bool result = all[i].kind() == ledger::v1::ENTRY_KIND_SETTLE;
      EXPECT_EQ(all[i].status(), result ? "ok" : "");
      EXPECT_NE(result, i % 9 == 8);
    }
  }
  // What is dropped meanwhile is left out.
  Journal::Retained retained = journal->ReadRetained();
  ASSERT_TRUE(retained.Next(1).ok());
  for (const auto& file : std::filesystem::directory_iterator(Options().dir)) {
    if (file.path().extension() == ".journal") std::filesystem::remove(file.path());
  }
  size_t rest = 0;
  for (auto next = retained.Next(100); next.ok() && !next->empty(); next = retained.Next(100)) {
    rest += next->size();
  }
  EXPECT_LT(rest, posted.size() + ended.size());
}

TEST_F(JournalTest, TheReplayGenerationIsKept) {
  auto journal = Open();
  EXPECT_EQ(journal->replayed_generation(), 0);
  ASSERT_TRUE(journal->SetReplayedGeneration(3).ok());
  EXPECT_EQ(journal->replayed_generation(), 3);
  journal.reset();
  EXPECT_EQ(Open()->replayed_generation(), 3);
}

TEST_F(JournalTest, AcknowledgedHoldsAreKeptForTheirRetention) {
  const auto journal = Open();
  for (int i = 0; i < 600; ++i) {
    const Uuid id = Id();
    ASSERT_TRUE(journal->AppendIntent(Intent(id)).ok());
    ASSERT_TRUE(journal->AppendResult(ResultOf(id, i)).ok());
    journal->AppendPosted({std::string(id.raw())});
  }
  clock_.Advance(absl::Hours(23));
  journal->Maintain();
  EXPECT_TRUE(std::filesystem::exists(Segment(1)));
  clock_.Advance(absl::Hours(2));
  journal->Maintain();
  EXPECT_FALSE(std::filesystem::exists(Segment(1)));
}

TEST_F(JournalTest, WriteErrorStopsAdmissionLosesNothingAndHeals) {
  const auto journal = Open();
  const Uuid before = Id();
  ASSERT_TRUE(journal->AppendIntent(Intent(before)).ok());
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit limit = old;
  limit.rlim_cur = std::filesystem::file_size(Segment()) + 10;  // the next frame is torn
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status refused = journal->AppendIntent(Intent(Id()));
  const auto result = journal->AppendResult(ResultOf(before, 11));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(ReasonOf(refused), "JOURNAL_FULL");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->entry->cost_nanousd(), 11);

  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(journal->Full());
  const Uuid after = Id();
  ASSERT_TRUE(journal->AppendIntent(Intent(after)).ok());

  JournalOptions copy = Options();
  copy.dir = dir_.File("copy");
  std::filesystem::copy(Options().dir, copy.dir);
  auto reopened = Journal::Open(copy);
  ASSERT_TRUE(reopened.ok()) << reopened.status();
  std::map<std::string, Entry> replayed;
  for (Entry& entry : (*reopened)->TakeReplayed()) replayed[entry.hold_id()] = entry;
  ASSERT_THAT(replayed, SizeIs(2));
  EXPECT_EQ(replayed[std::string(before.raw())].cost_nanousd(), 11);
}

TEST_F(JournalTest, ClosedEpochIsFencedAndItsHoldsReported) {
  const auto journal = Open();
  const Uuid open = Id(), settled = Id(), posted = Id(), later = Id(), voided = Id();
  ASSERT_TRUE(journal->AppendIntent(Intent(open, 1)).ok());
  ASSERT_TRUE(journal->AppendIntent(Intent(voided, 1)).ok());
  Entry end = ResultOf(voided, 0);
  end.set_kind(ledger::v1::ENTRY_KIND_VOID);
  ASSERT_TRUE(journal->AppendResult(end).ok());
  ASSERT_TRUE(journal->AppendIntent(Intent(settled, 2)).ok());
  ASSERT_TRUE(journal->AppendIntent(Intent(posted, 2)).ok());
  ASSERT_TRUE(journal->AppendIntent(Intent(later, 3)).ok());
  ASSERT_TRUE(journal->AppendResult(ResultOf(settled, 4)).ok());
  ASSERT_TRUE(journal->AppendResult(ResultOf(posted, 4)).ok());
  journal->AppendPosted({std::string(posted.raw())});

  const auto holds = journal->CloseEpoch(kOrg, 2);
  ASSERT_THAT(holds, SizeIs(2));
  for (const Entry& hold : holds) EXPECT_EQ(hold.kind(), ledger::v1::ENTRY_KIND_SUSPEND);
  // What a hold did not use may have been held by another one since.
  EXPECT_EQ(holds[0].budgets(0).amount_nanousd(), 1000);
  EXPECT_EQ(holds[1].budgets(0).amount_nanousd(), 4);
  EXPECT_EQ(ReasonOf(journal->AppendIntent(Intent(Id(), 2))), "EPOCH_CLOSED");
  EXPECT_EQ(ReasonOf(journal->AppendIntent(Intent(Id(), 1))), "EPOCH_CLOSED");
  EXPECT_TRUE(journal->AppendIntent(Intent(Id(), 3)).ok());
  EXPECT_THAT(journal->CloseEpoch(kOrg + 1, 9), IsEmpty());
}

TEST_F(JournalTest, ADisownedHoldIsNeverForwarded) {
  JournalOptions options = Options();
  options.machine = "boot-1";
  auto journal = *Journal::Open(options);
  const Uuid known = Id(), unknown = Id();
  ASSERT_TRUE(journal->AppendIntent(Intent(known)).ok());
  EXPECT_FALSE(journal->Disown(std::string(known.raw())));
  EXPECT_TRUE(journal->Disown(std::string(unknown.raw())));
  EXPECT_TRUE(journal->Disown(std::string(unknown.raw())));
  EXPECT_EQ(ReasonOf(journal->AppendIntent(Intent(unknown))), "HOLD_DISOWNED");
  // Of what a process before this one did, the journal knows everything.
  journal.reset();
  journal = *Journal::Open(options);
  EXPECT_FALSE(journal->Disown(std::string(known.raw())));
  EXPECT_TRUE(journal->Disown(std::string(unknown.raw())));
  // Not for ever: by then no token of it is alive.
  clock_.Advance(absl::Hours(1));
  journal->Maintain();
  EXPECT_TRUE(journal->AppendIntent(Intent(unknown)).ok());
  // Where nobody can say whether the tail is complete, nothing is disowned.
  journal.reset();
  options.machine = "";
  journal = *Journal::Open(options);
  EXPECT_FALSE(journal->Disown(std::string(Id().raw())));
}

// A machine whose power fails may lose what was written last: the name it had must not vouch for it.
TEST_F(JournalTest, LossOfPowerChangesTheName) {
  JournalOptions options = Options();
  options.machine = "boot-1";
  auto journal = *Journal::Open(options);
  const std::string name = journal->edge_id();
  journal.reset();
  journal = *Journal::Open(options);  // only the process died
  EXPECT_EQ(journal->edge_id(), name);
  journal.reset();
  options.machine = "boot-2";
  journal = *Journal::Open(options);
  EXPECT_NE(journal->edge_id(), name);
}

TEST_F(JournalTest, OrderlyRestartOfTheMachineKeepsTheName) {
  JournalOptions options = Options();
  options.machine = "boot-1";
  auto journal = *Journal::Open(options);
  const std::string name = journal->edge_id();
  ASSERT_TRUE(journal->AppendIntent(Intent(Id())).ok());
  journal->Close();
  journal.reset();
  options.machine = "boot-2";
  journal = *Journal::Open(options);
  EXPECT_EQ(journal->edge_id(), name);
  EXPECT_THAT(journal->TakeReplayed(), SizeIs(1));
}

TEST_F(JournalTest, IntentsFromBeforeALossOfPowerWaitUntilTheirHoldsAreGone) {
  JournalOptions options = Options();
  options.machine = "boot-1";
  auto journal = *Journal::Open(options);
  Entry unknown = Intent(Id()), settled = Intent(Id());
  for (Entry* const entry : {&unknown, &settled}) {
    entry->set_edge_id(journal->edge_id());
    ASSERT_TRUE(journal->AppendIntent(*entry).ok());
  }
  ASSERT_TRUE(journal->AppendResult(ResultOf(*UuidFromRaw(settled.hold_id()), 4)).ok());
  journal.reset();
  options.machine = "boot-2";
  for (int start = 0; start < 2; ++start) {  // a restart changes nothing
    journal.reset();
    journal = *Journal::Open(options);
    const std::vector<Entry> replayed = journal->TakeReplayed();
    ASSERT_THAT(replayed, SizeIs(1));
    EXPECT_EQ(replayed[0].hold_id(), settled.hold_id());
    EXPECT_THAT(journal->TakeDoubtful(), IsEmpty());
  }
  EXPECT_THAT(journal->CloseEpoch(kOrg, 1), SizeIs(2));
  clock_.Advance(options.doubt_time);
  ASSERT_THAT(journal->TakeDoubtful(), SizeIs(1));
  EXPECT_THAT(journal->TakeDoubtful(), IsEmpty());
}

TEST_F(JournalTest, RandomHistoriesReplayToWhatWasWritten) {
  std::mt19937_64 random(testing::TestSeed());
  auto journal = Open();
  std::map<std::string, int64_t> expected;  // hold -> cost, -1: intent only
  for (int step = 0; step < 3000; ++step) {
    const int dice = static_cast<int>(random() % 100);
    if (dice < 45) {
      const Uuid id = Id();
      ASSERT_TRUE(journal->AppendIntent(Intent(id)).ok());
      expected[std::string(id.raw())] = -1;
    } else if (dice < 98 && !expected.empty()) {
      auto it = expected.begin();
      std::advance(it, random() % std::min<size_t>(expected.size(), 20));
      if (it->second < 0) {
        it->second = static_cast<int64_t>(random() % 1000);
        ASSERT_TRUE(journal->AppendResult(ResultOf(*UuidFromRaw(it->first), it->second)).ok());
      } else {
        journal->AppendPosted({it->first});
        expected.erase(it);
      }
    } else if (dice >= 98) {
      journal.reset();
      journal = Open();
      std::map<std::string, int64_t> replayed;
      for (const Entry& entry : journal->TakeReplayed()) {
        replayed[entry.hold_id()] =
            entry.kind() == ledger::v1::ENTRY_KIND_SETTLE ? entry.cost_nanousd() : -1;
      }
      ASSERT_EQ(replayed, expected) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace tollhouse::edge
