using Godwit.Migration.HandOver;

namespace Godwit.Migration.Tests.HandOver;

public class GuestOwnershipTests
{
    // A fence names the epoch after the hand-over's: a guest that died there must not have counted as far.
    [Fact]
    public void A_guest_that_dies_without_its_memory_has_one_owner_more_and_not_two()
    {
        var arriving = GuestOwnership.Arriving("a", 4);
        GuestOwnership ran = arriving.Arrived("b");

        Assert.Equal(new GuestOwnership("b", 5, GuestIntent.Stopped), arriving.DiedOnArrival("b"));
        Assert.Equal(new GuestOwnership("b", 5, GuestIntent.Stopped), ran.DiedOnArrival("b"));
    }

    [Fact]
    public void A_guest_that_was_fenced_before_its_death_was_noted_stays_with_its_owner()
    {
        var fenced = GuestOwnership.Fenced("a", 6);
        Assert.Equal(fenced, fenced.DiedOnArrival("b"));
    }
}
