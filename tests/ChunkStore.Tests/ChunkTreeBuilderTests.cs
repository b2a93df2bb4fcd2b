using CsCheck;
using Godwit.ChunkStore.Trees;

namespace Godwit.ChunkStore.Tests;

public sealed class ChunkTreeBuilderTests
{
    private static readonly ChunkId Page = ChunkId.Of("a page"u8);

    // Goal: what is built page by page is what is built of all pages, node by node, wherever zeros are.
    [Fact]
    public void It_gives_the_nodes_of_the_whole_tree() =>
        Gen.Select(Gen.Int[1, 700], Gen.Int[0, 699].HashSet[0, 40], Gen.Bool).Sample((count, some, areZeros) =>
        {
            var pages = new ChunkId[count];
            for (int i = 0; i < count; i++)
            {
                pages[i] = some.Contains(i) == areZeros ? default : ChunkId.Of([(byte)i, (byte)(i >> 8)]);
            }

            HashSet<ChunkId> expected = [];
            ChunkId root = ChunkTree.Build(pages, node => Note(expected, node));
            HashSet<ChunkId> nodes = [];
            var builder = new ChunkTreeBuilder(node => Note(nodes, node));
            for (int i = 0; i < count; i++)
            {
                if (!pages[i].IsZeros)
                {
                    builder.AddZerosTo(i);
                    builder.Add(pages[i]);
                }
            }

            builder.AddZerosTo(count);
            Assert.Equal(root, builder.Finish());
            Assert.Equal(expected, nodes);
        });

    [Theory]
    [InlineData(1)]
    [InlineData(16)]
    [InlineData(17)]
    [InlineData(256)]
    [InlineData(257)]
    [InlineData(4096)]
    public void A_tree_that_is_full_to_the_brim_ends_where_it_should(int count)
    {
        var builder = new ChunkTreeBuilder(node => ChunkId.Of(node));
        for (int i = 0; i < count; i++)
        {
            builder.Add(Page);
        }

        Assert.Equal(
            ChunkTree.Build(Enumerable.Repeat(Page, count).ToArray(), node => ChunkId.Of(node)), builder.Finish());
    }

    private static ChunkId Note(HashSet<ChunkId> nodes, ReadOnlySpan<byte> node)
    {
        var id = ChunkId.Of(node);
        nodes.Add(id);
        return id;
    }
}
