using CsCheck;
using Godwit.Migration.Postcopy;

namespace Godwit.Migration.Tests.Postcopy;

public class PostcopyPackageTests
{
    private static readonly byte[] _listen = [8, 0, 4, 0, 0];
    private static readonly byte[] _pingAndRun = [8, 0, 2, 0, 4, 0, 0, 0, 3, 8, 0, 5, 0, 0];

    // Goal: whatever device state holds, and however it is cut, its end is found and no byte of it is lost.
    [Fact]
    public void The_end_of_any_device_state_is_found_when_it_has_come_whole() =>
        Gen.Select(Gen.Byte.Array[0, 400], Gen.Char['a', 'z'].Array[0, 60], Gen.Int[1, 70]).Sample((
            state, text, piece) =>
        {
            byte[] description = [(byte)'{', .. text.Select(letter => (byte)letter), (byte)'}'];
            byte[] tail = [.. state, 0, 6, 0, 0, 0, (byte)description.Length, .. description];
            var package = new PostcopyPackage();
            byte[] built = [];
            bool whole = false;
            foreach (byte[] some in tail.Chunk(piece))
            {
                Assert.False(whole);
                package.Add(some);
                whole = package.TryBuild(out built);
            }

            byte[] inside = [.. _listen, .. state, .. _pingAndRun];
            return whole && built.AsSpan(9).SequenceEqual(inside)
                && built.AsSpan(0, 9).SequenceEqual((byte[])[8, 0, 7, 0, 4, 0, 0, (byte)(inside.Length >> 8),
                    (byte)inside.Length]);
        });

    [Fact]
    public void What_only_looks_like_the_end_is_not_taken_for_it()
    {
        var package = new PostcopyPackage();
        package.Add([4, 1, 0, 6, 0, 0, 0, 9, (byte)'{', (byte)'}']);
        Assert.False(package.TryBuild(out _));
        package.Add([0, 6, 0, 0, 0, 2, (byte)'{', (byte)'}']);
        Assert.True(package.TryBuild(out byte[] built));
        Assert.Equal(9 + 5 + 10 + 14, built.Length);
    }
}
