namespace Godwit.EndToEnd.Tests;

// Guests that rounds alone would not bring over, and postcopy through every break that it survives.
public class ConvergenceTests
{
    [Theory]
    [InlineData("writer")]
    [InlineData("postcopy")]
    [InlineData("postcopy-cut")]
    [InlineData("postcopy-source-killed")]
    [InlineData("postcopy-destination-killed")]
    public void It_ends_and_nothing_is_lost(string scenario) => Assert.Empty(LabForTests.Play(scenario).Failures);
}
