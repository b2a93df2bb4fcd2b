using CsCheck;

namespace Godwit.Pages.Tests;

public class PageDeltaTests
{
    private static readonly Gen<(byte[] Old, byte[] Now)> _versions = Gen.Select(
        Gen.UInt, Gen.Select(Gen.Int[0, 4095], Gen.Int[1, 300], Gen.Byte).Array[0, 30]).Select(
        (seed, changes) =>
        {
            byte[] old = PageBatchVersion1Tests.Content(4, seed);
            byte[] now = [.. old];
            foreach ((int at, int length, byte value) in changes)
            {
                now.AsSpan(at, Math.Min(seed % 3 == 0 ? length : 1 + (length % 9), Page.Size - at)).Fill(value);
            }

            return (old, now);
        });

    [Fact]
    public void Applying_a_delta_gives_the_new_version() => _versions.Sample(
        pair =>
        {
            byte[] delta = new byte[PageDelta.BytesMax];
            int length = PageDelta.Encode(pair.Old, pair.Now, delta);
            Assert.Equal(length == 0, pair.Old.AsSpan().SequenceEqual(pair.Now));
            if (length >= 0)
            {
                byte[] page = [.. pair.Old];
                Assert.True(PageDelta.TryApply(delta.AsSpan(0, length), page));
                Assert.Equal(pair.Now, page);
            }
        },
        iter: 2000);

    [Fact]
    public void Vector_paths_equal_their_scalar_twin() => _versions.Sample(
        pair =>
        {
            ulong[] scalar = new ulong[64];
            ulong[] vector = new ulong[64];
            PageDelta.CompareScalar(pair.Old, pair.Now, scalar);
            PageDelta.Compare128(pair.Old, pair.Now, vector);
            Assert.Equal(scalar, vector);
            PageDelta.Compare256(pair.Old, pair.Now, vector);
            Assert.Equal(scalar, vector);
            PageDelta.Compare512(pair.Old, pair.Now, vector);
            Assert.Equal(scalar, vector);
        },
        iter: 500);

    [Fact]
    public void A_counter_costs_five_bytes_and_a_page_of_changes_is_given_up()
    {
        byte[] old = new byte[Page.Size];
        byte[] now = new byte[Page.Size];
        now[2000] = 1;
        byte[] delta = new byte[PageDelta.BytesMax];
        Assert.Equal(4, PageDelta.Encode(old, now, delta));
        Assert.Equal(0, PageDelta.Encode(old, old, delta));
        now.AsSpan().Fill(1);
        Assert.Equal(-1, PageDelta.Encode(old, now, delta));
        now.AsSpan(0, 50).Clear();
        Assert.Equal(-1, PageDelta.Encode(old, now, delta.AsSpan(0, 4049)));
    }

    // Goal: no delta writes past its page or is read past its end. Method: any bytes at all.
    [Fact]
    public void Any_bytes_are_applied_or_refused() => Gen.Byte.Array[0, 60].Sample(
        delta =>
        {
            byte[] room = new byte[3 * Page.Size];
            PageDelta.TryApply(delta, room.AsSpan(Page.Size, Page.Size));
            Assert.True(ZeroTest.IsZero(room.AsSpan(0, Page.Size)) && ZeroTest.IsZero(room.AsSpan(2 * Page.Size)));
        },
        iter: 5000);

    [Theory]
    [InlineData(new byte[] { 0 })]
    [InlineData(new byte[] { 0, 2, 1 })]
    [InlineData(new byte[] { 0, 0, 1 })]
    [InlineData(new byte[] { 0x80, 0x20, 1, 9 })]
    [InlineData(new byte[] { 0x80, 0x00, 1, 9 })]
    [InlineData(new byte[] { 0x80 })]
    public void A_malformed_delta_is_refused(byte[] delta) =>
        Assert.False(PageDelta.TryApply(delta, new byte[Page.Size]));
}
