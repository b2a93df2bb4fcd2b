namespace Godwit.Pages.Tests;

public class PageFingerprintsTests
{
    private static readonly PageNumber _page = new(3);

    [Fact]
    public void A_page_never_sent_matches_nothing() =>
        Assert.False(new PageFingerprints(4, seed: 1).Matches(_page, []));

    [Fact]
    public void Empty_content_stands_for_zeros()
    {
        PageFingerprints sent = new(4, seed: 1);
        sent.Set(_page, []);
        Assert.True(sent.Matches(_page, new byte[Page.Size]));
        sent.Set(_page, new byte[Page.Size]);
        Assert.True(sent.Matches(_page, []));
    }

    [Fact]
    public void One_flipped_bit_anywhere_is_seen()
    {
        PageFingerprints sent = new(4, seed: 1);
        byte[] content = new byte[Page.Size];
        new Random(7).NextBytes(content);
        sent.Set(_page, content);
        Assert.True(sent.Matches(_page, content));
        for (int i = 0; i < content.Length; i++)
        {
            content[i] ^= 0x10;
            Assert.False(sent.Matches(_page, content));
            content[i] ^= 0x10;
        }
    }

    [Fact]
    public void Only_the_newest_content_counts()
    {
        PageFingerprints sent = new(4, seed: 1);
        byte[] older = [.. Enumerable.Repeat((byte)1, Page.Size)];
        sent.Set(_page, older);
        sent.Set(_page, []);
        Assert.False(sent.Matches(_page, older));
    }

    [Fact]
    public void What_was_forgotten_was_never_sent()
    {
        PageFingerprints sent = new(4, seed: 1);
        Assert.True(sent.Set(_page, []));
        Assert.False(sent.Set(_page, []));
        sent.Forget(_page);
        Assert.False(sent.Has(_page));
        Assert.True(sent.Set(_page, []));
    }
}
