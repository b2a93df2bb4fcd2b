using System.Buffers.Binary;
using Godwit.ChunkStore;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Migration.Tests;

/// <summary>Offers of the destination, pages that are sent by names, and those that are asked for again.</summary>
public class InventoryTests
{
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(5);

    [Fact]
    public void Pages_the_destination_has_cost_their_names()
    {
        var plain = new SourceRig(pages: 4096);
        MigrationSnapshot without = plain.Run(Long);
        var rig = new SourceRig(pages: 4096) { Known = _ => true };
        MigrationSnapshot with = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, with.Outcome);
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
        Assert.InRange(with.Rounds.Sum(r => r.WireBytes), 1, without.Rounds.Sum(r => r.WireBytes) / 50);
        Assert.Equal(4096L * (Page.Size - ContentName.Size), with.SavedBytes["knownOwnMemory"]);
        Assert.False(without.SavedBytes.ContainsKey("knownOwnMemory"));
    }

    // Goal: a destination that cannot rebuild what it offered gets every page all the same, whenever it asks.
    // Method: names fail for a third of the pages, of a guest that writes and one that does not.
    [Theory]
    [InlineData(0)]
    [InlineData(3000)]
    public void A_name_that_fails_is_answered_with_the_content(int dirtyPagesPerSecond)
    {
        var rig = new SourceRig(pages: 2048, dirtyPagesPerSecond: dirtyPagesPerSecond, dirtyRange: 500)
        {
            Known = _ => true, Fails = page => page % 3 == 0,
        };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
        Assert.InRange(rig.Refused, 500, 2048);
    }

    // Goal: the destination may not take a barrier for the last word that was sent before its wish was heard.
    // Method: wishes reach the source 50 ms late, long after it has sent the barriers of a small guest.
    [Fact]
    public void A_wish_that_crosses_the_barrier_is_answered_by_another_barrier()
    {
        var rig = new SourceRig(pages: 64)
        {
            Known = _ => true, Fails = page => page % 2 == 0, WishesTake = TimeSpan.FromMilliseconds(50),
        };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.True(rig.BarriersInVain > 0, "no barrier crossed a wish");
        Assert.Equal(rig.Pages, rig.Destination.AsSpan(0, rig.Pages.Length).ToArray());
    }

    [Fact]
    public void A_destination_whose_names_mostly_fail_is_not_believed_on()
    {
        // Slow, so that the first wishes are heard before the last name is sent.
        var slow = new MigrationPolicy { BandwidthBitsPerSecond = 4_000_000 };
        var rig = new SourceRig(slow, pages: 4096) { Known = _ => true, Fails = _ => true };
        MigrationSnapshot end = rig.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.InRange(rig.Refused, 256, 1024);
        Assert.Equal(0, end.SavedBytes["knownOwnMemory"]);
    }

    [Fact]
    public void The_first_round_waits_for_the_offers_but_not_for_ever()
    {
        var rig = new SourceRig(pages: 256) { Known = _ => true, OffersReadyAfter = TimeSpan.FromSeconds(1) };
        rig.Run(TimeSpan.FromMilliseconds(900));
        Assert.Empty(rig.Engine.Snapshot(rig.Now).Rounds);
        Assert.Equal(0, rig.MostPagesTakenAtOnce);
        Assert.Equal(MigrationOutcome.Completed, rig.Run(Long).Outcome);

        var silent = new SourceRig(pages: 256) { Known = _ => true, OffersReadyAfter = TimeSpan.FromHours(1) };
        MigrationSnapshot end = silent.Run(Long);
        Assert.Equal(MigrationOutcome.Completed, end.Outcome);
        Assert.InRange(end.Elapsed, TimeSpan.FromSeconds(2), TimeSpan.FromSeconds(4));
    }

    [Fact]
    public void What_was_not_sent_by_its_name_cannot_be_asked_for()
    {
        var rig = new SourceRig(pages: 256);
        rig.Run(TimeSpan.FromMilliseconds(1));
        byte[] bits = new byte[ControlMessage.PagesWanted.BitsBytes];
        bits[0] = 1;
        Assert.Throws<StreamFormatException>(
            () => rig.Engine.Receive(new ControlMessage.PagesWanted(0, 0, bits), rig.Now));
        Assert.Throws<StreamFormatException>(
            () => rig.Engine.Receive(new ControlMessage.PagesWanted(7, 0, bits), rig.Now));
        Assert.Throws<StreamFormatException>(
            () => rig.Engine.Receive(new ControlMessage.PagesWanted(0, 900, bits), rig.Now));
    }

    [Fact]
    public void Offers_that_nobody_wants_are_passed_over()
    {
        var rig = new SourceRig(pages: 256);
        rig.Run(TimeSpan.FromMilliseconds(1));
        byte[] offered = BitConverter.GetBytes(4096UL);
        rig.Engine.Receive(new ControlMessage.InventoryOffer(ContentOrigin.Disk, offered), rig.Now);
        Assert.Equal(-1, rig.Engine.OriginOf(4096));
    }

    [Fact]
    public void More_than_was_agreed_is_not_remembered()
    {
        var rig = new SourceRig(pages: 256) { Known = _ => true };
        rig.Run(TimeSpan.FromMilliseconds(1));
        byte[] many = new byte[ControlMessage.InventoryOffer.CountMax * Fingerprint.Size];
        for (ulong i = 0; i < 2 * SourceRig.OffersMax;)
        {
            for (int at = 0; at < many.Length; at += Fingerprint.Size, i++)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(many.AsSpan(at), (i + 1) << 8);
            }

            rig.Engine.Receive(new ControlMessage.InventoryOffer(ContentOrigin.Disk, many), rig.Now);
        }

        Assert.Equal((int)ContentOrigin.Disk, rig.Engine.OriginOf(2 << 8));
        Assert.Equal(-1, rig.Engine.OriginOf(2 * SourceRig.OffersMax << 8));
    }
}
