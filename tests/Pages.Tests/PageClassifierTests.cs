using System.Buffers.Binary;
using System.Text;
using CsCheck;

namespace Godwit.Pages.Tests;

public class PageClassifierTests
{
    private static readonly Gen<byte[]> _pages = Gen.Select(Gen.Int[0, 6], Gen.UInt, Gen.Int[0, 4095]).Select(
        (kind, seed, at) =>
        {
            byte[] page = kind switch
            {
                5 => Pointers(seed),
                6 => Words(seed),
                _ => PageBatchVersion1Tests.Content(kind, seed),
            };
            page[at] ^= (byte)(seed % 3 == 0 ? 1 : 0);
            return page;
        });

    private static byte[] Pointers(uint seed)
    {
        byte[] page = new byte[Page.Size];
        var random = new Random((int)seed);
        for (int i = 0; i < page.Length; i += 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(page.AsSpan(i), 0xFFFF_8880_0000_0000 | (uint)random.Next());
        }

        return page;
    }

    private static byte[] Words(uint seed)
    {
        byte[] page = new byte[Page.Size];
        for (int i = 0; i < page.Length; i += 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(page.AsSpan(i), seed * 0x9E37_79B9_7F4A_7C15);
        }

        return page;
    }

    [Fact]
    public void Vector_paths_equal_their_scalar_twin() => _pages.Sample(
        page =>
        {
            ulong first = BinaryPrimitives.ReadUInt64LittleEndian(page);
            int[] scalarBits = new int[8];
            bool scalar = PageClassifier.LookScalar(page, first, scalarBits, out int scalarRepeats);
            Check(PageClassifier.Look128);
            Check(PageClassifier.Look256);
            Check(PageClassifier.Look512);

            void Check(Looks look)
            {
                int[] bits = new int[8];
                Assert.Equal(scalar, look(page, first, bits, out int repeats));
                Assert.Equal((scalarRepeats, string.Join(' ', scalarBits)), (repeats, string.Join(' ', bits)));
            }
        },
        iter: 1000);

    private delegate bool Looks(ReadOnlySpan<byte> page, ulong first, Span<int> bits, out int repeats);

    [Fact]
    public void Each_class_is_told()
    {
        Assert.Equal(PageClass.Zero, PageClassifier.Classify(new byte[Page.Size]));
        Assert.Equal(PageClass.Word, PageClassifier.Classify(Words(7)));
        Assert.Equal(PageClass.WordRegular, PageClassifier.Classify(Pointers(7)));
        byte[] text = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Range(0, 1500).Select(i => $"{i * 7919} ")));
        Assert.Equal(PageClass.ByteRegular, PageClassifier.Classify(text.AsSpan(0, Page.Size)));
    }

    // Goal: noise is told from all that can be coded. Method: a thousand pages of noise; and every page of noise whose
    // bytes have lost one bit, which any coder of bytes makes smaller.
    [Fact]
    public void Noise_is_told_from_what_can_be_coded()
    {
        int told = 0;
        for (uint seed = 0; seed < 1000; seed++)
        {
            byte[] page = PageBatchVersion1Tests.Content(4, seed);
            told += PageClassifier.Classify(page) == PageClass.Incompressible ? 1 : 0;
            for (int i = 0; i < page.Length; i++)
            {
                page[i] &= (byte)~(1 << (int)(seed % 8));
            }

            Assert.Equal(PageClass.ByteRegular, PageClassifier.Classify(page));
        }

        Assert.Equal(1000, told);
    }

    [Fact]
    public void It_takes_whole_pages_and_allocates_nothing()
    {
        Assert.Throws<ArgumentException>(() => PageClassifier.Classify(new byte[4095]));
        byte[] page = Pointers(3);
        Assert.Equal(0, Allocations.Least(() => PageClassifier.Classify(page)));
    }
}
