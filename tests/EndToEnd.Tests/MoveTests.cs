using Godwit.Lab.Network;
using Godwit.Lab.Scenarios;

namespace Godwit.EndToEnd.Tests;

// A real guest, two real daemons, a client outside. Every scenario judges itself: memory, disk, connections, and where
// the guest runs; a test adds only what is particular to it.
public class MoveTests
{
    [Fact]
    public void A_guest_under_load_moves_there_and_back()
    {
        LabResult result = LabForTests.Play("demo");

        Assert.Empty(result.Failures);
        Assert.Equal(["b", "a"], result.Moves.Select(move => move.To));
        Assert.All(result.Moves, move =>
        {
            Assert.NotEmpty(move.Rounds);
            Assert.True(move.WireBytes > 0);
            Assert.True(move.BlackoutMs > 0);
            Assert.NotEmpty(move.BlackoutParts);
        });
    }

    [Theory]
    [InlineData("idle")]
    [InlineData("counters")]
    [InlineData("incompressible")]
    [InlineData("carried")]
    [InlineData("adaptive")]
    [InlineData("qemu72")]
    [InlineData("redis")]
    [InlineData("cancel")]
    [InlineData("stall")]
    [InlineData("cut")]
    public void Nothing_is_lost(string scenario) => Assert.Empty(LabForTests.Play(scenario).Failures);

    [Fact]
    public void A_server_whose_base_image_is_there_brings_little_else()
    {
        LabResult result = LabForTests.Play("server", new LinkShape(400_000_000, TimeSpan.Zero));

        Assert.Empty(result.Failures);
        MoveResult move = Assert.Single(result.Moves);
        Assert.InRange(move.WireBytes, 1, move.SavedBytes["knownDisk"] / 2);
    }

    [Fact]
    public void A_server_that_comes_back_brings_what_it_has_changed()
    {
        LabResult result = LabForTests.Play("return-soon", new LinkShape(400_000_000, TimeSpan.Zero));

        Assert.Empty(result.Failures);
        MoveResult back = Assert.Single(result.Moves);
        Assert.InRange(back.WireBytes, 1, back.SavedBytes["knownOwnMemory"] / 10);
    }

    [Fact]
    public void A_link_with_delay_carries_a_move_too() =>
        Assert.Empty(LabForTests.Play("text", new LinkShape(300_000_000, TimeSpan.FromMilliseconds(10))).Failures);
}
