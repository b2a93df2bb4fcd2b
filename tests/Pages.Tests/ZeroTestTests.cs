using System.Diagnostics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Godwit.Pages.Tests;

public class ZeroTestTests
{
    private delegate bool Path(ReadOnlySpan<byte> bytes);

    // Goal: no path misses a bit. Method: each single bit of a page, through every path; a path whose vectors the CPU
    // lacks runs in software and must agree all the same.
    [Fact]
    public void Every_single_bit_of_a_page_is_seen_by_every_path()
    {
        Path[] paths =
        [
            ZeroTest.IsZero, ZeroTest.IsZero512, ZeroTest.IsZero256, ZeroTest.IsZero128, ZeroTest.IsZeroScalar,
        ];
        byte[] page = new byte[Page.Size];
        foreach (Path path in paths)
        {
            Assert.True(path(page));
            for (int bit = 0; bit < page.Length * 8; bit++)
            {
                page[bit / 8] = (byte)(1 << (bit % 8));
                Assert.False(path(page), $"{path.Method.Name} missed bit {bit}");
                page[bit / 8] = 0;
            }
        }
    }

    [Fact]
    public void Any_length_and_alignment_agrees_with_the_scalar_twin()
    {
        byte[] memory = new byte[1500];
        for (int length = 0; length < 1100; length++)
        {
            for (int start = 0; start < 3; start++)
            {
                // What lies just outside the span must not be looked at.
                Array.Fill(memory, (byte)0xFF);
                Span<byte> span = memory.AsSpan(start, length);
                span.Clear();
                Assert.True(ZeroTest.IsZero(span), $"{length} zero bytes");
                foreach (int at in new[] { 0, length / 2, length - 1 })
                {
                    if (at >= 0 && at < length)
                    {
                        span[at] = 0x80;
                        Assert.False(ZeroTest.IsZero(span), $"byte {at} of {length}");
                        span[at] = 0;
                    }
                }
            }
        }
    }

    // Goal: hosts without AVX-512, without AVX2 and without any vectors give the same answers. Method: this program
    // runs itself again with the runtime told that the CPU lacks them, and the child proves that it was told.
    [Theory]
    [InlineData("DOTNET_EnableAVX512", "512")]
    [InlineData("DOTNET_EnableAVX2", "256")]
    [InlineData("DOTNET_EnableHWIntrinsic", "128")]
    public async Task Smaller_CPUs_agree(string variable, string vectorsGone)
    {
        if (Environment.GetEnvironmentVariable("GODWIT_TEST_VECTORS_GONE") is not null)
        {
            return;
        }

        var start = new ProcessStartInfo(Environment.ProcessPath!)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { [variable] = "0", ["GODWIT_TEST_VECTORS_GONE"] = vectorsGone },
        };
        if (System.IO.Path.GetFileNameWithoutExtension(start.FileName) == "dotnet")
        {
            start.ArgumentList.Add(typeof(ZeroTestTests).Assembly.Location);
        }

        foreach (string argument in new[] { "-class", "*.ZeroTestTests", "-class", "*.PageBatchTests" })
        {
            start.ArgumentList.Add(argument);
        }

        using Process child = Process.Start(start)!;
        Task<string> errors = child.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        string output = await child.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await child.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(child.ExitCode == 0, $"with {variable}=0:\n{output}\n{await errors}");
    }

    [Fact]
    public void A_relaunched_run_lacks_the_vectors_it_is_to_lack()
    {
        switch (Environment.GetEnvironmentVariable("GODWIT_TEST_VECTORS_GONE"))
        {
            case "512":
                Assert.False(Avx512F.IsSupported);
                break;
            case "256":
                Assert.False(Avx2.IsSupported);
                Assert.False(Vector256.IsHardwareAccelerated);
                break;
            case "128":
                Assert.False(Vector128.IsHardwareAccelerated);
                break;
        }
    }
}
