using CsCheck;
using Godwit.Migration.HandOver;

namespace Godwit.Migration.Tests.HandOver;

public class HandOverJournalTests
{
    private static readonly Guid _identity = new("0a1b2c3d-0000-4000-8000-000000000001");
    private static readonly Guid _guest = new("0a1b2c3d-0000-4000-8000-000000000002");

    [Fact]
    public void What_was_recorded_is_there_after_a_restart()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        HandOverRecord committed = Record("m1", HandOverState.Committed);
        HandOverRecord resuming = Record("m2", HandOverState.Resuming) with { Peer = "grünbär", Epoch = long.MaxValue };
        journal.Record(committed);
        journal.Record(resuming);

        HandOverJournal again = HandOverJournal.Open(file, Guid.Empty);
        Assert.Equal(_identity, again.Identity);
        Assert.Equal(committed, again.Find("m1"));
        Assert.Equal(resuming, again.Find("m2"));
        Assert.Null(again.Find("m3"));
    }

    // Goal: a crash in the middle of an append loses that record alone. Method: cut the file at every byte.
    [Fact]
    public void A_torn_end_is_cut_off_and_the_journal_goes_on()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        journal.Record(Record("m1", HandOverState.Committed));
        int first = file.Content.Length;
        journal.Record(Record("m1", HandOverState.Left));
        byte[] whole = file.Content;
        for (int cut = first; cut < whole.Length; cut++)
        {
            var torn = new MemoryJournalFile(whole[..cut]);
            HandOverJournal again = HandOverJournal.Open(torn, Guid.Empty);
            Assert.Equal(HandOverState.Committed, again.Find("m1")!.State);
            again.Record(Record("m1", HandOverState.Reclaimed));
            Assert.Equal(HandOverState.Reclaimed, HandOverJournal.Open(torn, Guid.Empty).Find("m1")!.State);
        }
    }

    // Goal: damage that a crash cannot have made is not taken for a torn end. Method: flip every bit of every record
    // that has another one behind it.
    [Fact]
    public void Damage_before_good_records_is_refused()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        int begin = file.Content.Length;
        journal.Record(Record("m1", HandOverState.Committed));
        int end = file.Content.Length;
        journal.Record(Record("m2", HandOverState.Committed));
        byte[] whole = file.Content;
        for (int bit = 0; bit < whole.Length * 8; bit++)
        {
            byte[] damaged = [.. whole];
            damaged[bit / 8] ^= (byte)(1 << (bit % 8));
            bool isIdentity = bit / 8 is >= 8 and < 24;
            bool isLast = bit / 8 >= end;
            if (isIdentity || isLast)
            {
                HandOverJournal again = HandOverJournal.Open(new MemoryJournalFile(damaged), Guid.Empty);
                Assert.Equal(isLast, again.Find("m2") is null);
                continue;
            }

            GodwitException e = Assert.Throws<GodwitException>(
                () => HandOverJournal.Open(new MemoryJournalFile(damaged), Guid.Empty));
            Assert.Equal("journal-broken", e.Code);
        }

        Assert.True(begin < end);
    }

    // All of it may have reached the disk before the failure. Were it found by a restart, a destination that has told
    // the source that it refuses would run the guest.
    [Fact]
    public void A_failed_write_promises_nothing_and_leaves_nothing_behind()
    {
        int whole = BytesOfARecord();
        for (int torn = 0; torn <= whole; torn++)
        {
            var file = new MemoryJournalFile();
            HandOverJournal journal = HandOverJournal.Open(file, _identity);
            journal.Record(Record("m0", HandOverState.Committed));
            file.TearNextAppendAt = torn;
            GodwitException e = Assert.Throws<GodwitException>(
                () => journal.Record(Record("m1", HandOverState.Resuming)));
            Assert.Equal("journal-unwritable", e.Code);
            Assert.Null(HandOverJournal.Open(file, Guid.Empty).Find("m1"));
            Assert.True(journal.IsReliable);
            journal.Record(Record("m1", HandOverState.Refused));
            HandOverJournal after = HandOverJournal.Open(file, Guid.Empty);
            Assert.Equal((HandOverState.Committed, HandOverState.Refused),
                (after.Find("m0")!.State, after.Find("m1")!.State));
        }
    }

    [Fact]
    public void A_journal_that_cannot_be_put_back_says_nothing_until_it_can()
    {
        int whole = BytesOfARecord();
        for (int torn = 0; torn <= whole; torn++)
        {
            var file = new MemoryJournalFile();
            HandOverJournal journal = HandOverJournal.Open(file, _identity);
            file.TearNextAppendAt = torn;
            file.ReplaceFails = true;
            Assert.Throws<GodwitException>(() => journal.Record(Record("m1", HandOverState.Resuming)));
            Assert.False(journal.IsReliable);
            Assert.Throws<GodwitException>(() => journal.Record(Record("m2", HandOverState.Committed)));
            // A restart may find it, so until then the answer about it is none.
            Assert.Equal(HandOverAnswer.None, HandOverRules.Answer(
                "b", null, hasDied: false, GuestCopy.Gone, journal, "m1", epoch: 7));
            file.ReplaceFails = false;
            HandOverRecord? after = HandOverJournal.Open(file.Copy(), Guid.Empty).Find("m1");
            Assert.Equal(torn >= whole, after is not null);
            // Or until there is room again.
            Assert.True(journal.TryPutBack());
            journal.Record(Record("m2", HandOverState.Committed));
            Assert.Equal("m2", HandOverJournal.Open(file, Guid.Empty).Records.Single().Migration);
        }
    }

    // A guest whose move was refused and who then came has two records of one epoch. Were the older one taken for the
    // newest, a daemon that starts would end a guest that was handed over to it.
    [Fact]
    public void The_newest_record_of_a_guest_decides()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        journal.Record(Record("m1", HandOverState.Resuming));
        journal.Record(Record("m1", HandOverState.Refused));
        journal.Record(Record("m2", HandOverState.Resuming));
        Assert.Equal("m2", journal.OfGuest(_guest)!.Migration);
        journal = HandOverJournal.Open(file, _identity);
        Assert.Equal("m2", journal.OfGuest(_guest)!.Migration);
        journal.Record(Record("m3", HandOverState.Committed));
        journal.Record(Record("m2", HandOverState.Closed));
        Assert.Equal("m3", journal.OfGuest(_guest)!.Migration);
        Assert.Null(journal.OfGuest(Guid.Empty));
    }

    [Fact]
    public void Compaction_keeps_what_is_needed_and_nothing_else()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        HandOverRecord committed = Record("open", HandOverState.Committed);
        HandOverRecord resuming = Record("here", HandOverState.Resuming);
        journal.Record(committed);
        journal.Record(resuming);
        for (int i = 0; i < 50; i++)
        {
            journal.Record(Record($"m{i}", HandOverState.Committed));
            journal.Record(Record($"m{i}", HandOverState.Left));
        }

        long before = file.Content.Length;
        journal.Compact();
        Assert.InRange(file.Content.Length, 1, before / 20);
        HandOverJournal again = HandOverJournal.Open(file, Guid.Empty);
        Assert.Equal(_identity, again.Identity);
        Assert.Equal([committed, resuming], again.Records.OrderBy(record => record.State));
        again.Record(Record("open", HandOverState.Left));
        Assert.Equal(HandOverState.Left, HandOverJournal.Open(file, Guid.Empty).Find("open")!.State);
    }

    [Fact]
    public void A_record_that_contradicts_the_last_one_is_refused()
    {
        HandOverState[] states = Enum.GetValues<HandOverState>();
        foreach (HandOverState first in states.Where(state => HandOverRecord.MayFollow(null, state)))
        {
            foreach (HandOverState second in states)
            {
                HandOverJournal journal = HandOverJournal.Open(new MemoryJournalFile(), _identity);
                journal.Record(Record("m", first));
                if (HandOverRecord.MayFollow(first, second))
                {
                    journal.Record(Record("m", second));
                }
                else
                {
                    Assert.Throws<InvalidOperationException>(() => journal.Record(Record("m", second)));
                }
            }
        }
    }

    [Fact]
    public void A_newer_version_and_foreign_files_are_refused()
    {
        var file = new MemoryJournalFile("not a journal, whatever it is"u8.ToArray());
        Assert.Equal("journal-broken", Assert.Throws<GodwitException>(
            () => HandOverJournal.Open(file, _identity)).Code);
    }

    // Goal: bytes of any kind are read or refused, never a crash. Method: good journals, cut and changed at random.
    [Fact]
    public void Any_bytes_are_read_or_refused()
    {
        Gen.Select(Gen.Int[0, 5], Gen.Select(Gen.Int[0, 999], Gen.Byte).Array[0, 6], Gen.Int[0, 999]).Sample(
            (records, changes, cut) =>
            {
                var file = new MemoryJournalFile();
                HandOverJournal journal = HandOverJournal.Open(file, _identity);
                for (int i = 0; i < records; i++)
                {
                    journal.Record(Record($"m{i}", HandOverState.Resuming));
                }

                byte[] bytes = file.Content;
                foreach ((int at, byte value) in changes)
                {
                    bytes[at % bytes.Length] = value;
                }

                try
                {
                    HandOverJournal.Open(new MemoryJournalFile(bytes[..(cut % (bytes.Length + 1))]), _identity);
                }
                catch (GodwitException e) when (e.Code is "journal-broken" or "journal-newer")
                {
                }
            },
            iter: 20_000);
    }

    private static int BytesOfARecord()
    {
        var file = new MemoryJournalFile();
        HandOverJournal journal = HandOverJournal.Open(file, _identity);
        int header = file.Content.Length;
        journal.Record(Record("m1", HandOverState.Committed));
        return file.Content.Length - header;
    }

    private static HandOverRecord Record(string migration, HandOverState state) =>
        new(state, migration, _guest, "b", 7, new Guid("0a1b2c3d-0000-4000-8000-000000000003"));
}
