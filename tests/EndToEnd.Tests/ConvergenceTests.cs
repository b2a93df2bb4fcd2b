namespace Godwit.EndToEnd.Tests;

// Guests that rounds alone would not bring over, and guests that run before their memory has come. Each scenario judges
// itself: how the move ended and by which method, that nothing is lost, and where the guest runs.
public class ConvergenceTests
{
    [Theory]
    [InlineData("postcopy")]
    [InlineData("hybrid")]
    [InlineData("writer")]
    [InlineData("throttle")]
    [InlineData("postcopy-cut")]
    [InlineData("postcopy-source-killed")]
    [InlineData("postcopy-destination-killed")]
    public void The_move_ends_and_nothing_is_lost(string scenario) =>
        Assert.Empty(LabForTests.Play(scenario).Failures);
}
