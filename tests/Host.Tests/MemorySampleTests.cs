using Godwit.Host.Forecasts;
using Godwit.Host.Qemu;
using Godwit.Host.Tests.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Tests;

public sealed class MemorySampleTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: what changes is told also where it lies together in a few places, as what a guest writes does. Method: of
    // 64 MiB a thirty-second is written, in pieces of 128 KiB, between the sample's two looks at it.
    [Fact]
    public async Task A_sample_tells_what_changes_in_clusters()
    {
        const int Pages = 16_384;
        const int ClusterPages = 32;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        QemuMachine machine = await qemu.StartAsync(
            qemu.Contract(contract => contract with { MemoryBytes = Pages * (long)Page.Size }), incoming: true);
        using GuestMemory memory = Assert.Single(machine.OpenMemory());
        byte[] content = new byte[Page.Size];
        Random.Shared.NextBytes(content);
        for (int page = 0; page < Pages; page++)
        {
            memory.Write(new PageNumber(page), content);
        }

        int[] written = [.. Random.Shared.GetItems([.. Enumerable.Range(0, Pages / ClusterPages)], 16).Distinct()];
        bool asked = false;
        await foreach (MemorySample sample in MemorySample.TakeAsync(memory, Change, () => { }, Token))
        {
            Assert.Equal(Pages, sample.UsedPages);
            Assert.Equal(0.5, sample.KnownShare, 0.1);
            double share = written.Length * ClusterPages / (double)Pages;
            Assert.InRange(sample.LateShare, share * 0.6, share * 1.4);
        }

        Assert.True(asked);

        // The destination has every second page that it is asked for.
        Task<ReadOnlyMemory<byte>> Change(ReadOnlyMemory<byte> names)
        {
            asked = true;
            Random.Shared.NextBytes(content);
            foreach (int cluster in written)
            {
                for (int page = 0; page < ClusterPages; page++)
                {
                    memory.Write(new PageNumber((cluster * ClusterPages) + page), content);
                }
            }

            int count = names.Length / ChunkStore.ContentName.Size;
            return Task.FromResult<ReadOnlyMemory<byte>>(
                (byte[])[.. Enumerable.Range(0, count).Select(i => (byte)(i % 2))]);
        }
    }
}
