using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Tests.Qemu;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Extensions.Logging.Abstractions;

namespace Godwit.Host.Tests;

// What the destination can rebuild by itself, with real QEMU at both ends.
public sealed partial class TransferTests
{
    // Every byte is what is tested here; on a busy machine a pause of 300 ms, or of a few seconds, would be too short.
    private static readonly MigrationPolicy _patient = new() { DowntimeMax = TimeSpan.FromSeconds(15) };

    // What the destination has is waited for, but not for ever: should it come later than that, the less has gone whole
    // by then the slower pages go.
    private static readonly MigrationPolicy _paced = _patient with { BandwidthBitsPerSecond = 8_000_000 };

    // Goal: a guest that comes back costs what it changed, and arrives with every byte.
    // Method: the destination keeps the source's memory; then some of it changes; then the guest moves.
    [Fact]
    public async Task A_guest_that_returns_brings_only_what_has_changed()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, _patient, cancel);
        await pair.StampAsync(cancel);
        await using HostInventory inventory = NewInventory();
        await KeepAsync(inventory, pair);
        ChangeEvery(100, pair.Source);
        byte[] before = await pair.ReadStampAsync(pair.Source, cancel);

        pair.Inventory = inventory;
        await pair.RenewDestinationAsync(_paced, cancel);
        (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
        Assert.InRange(source.SavedBytes["knownOwnMemory"], Pair.StampBytes * 45 / 100, 128 << 20);
        Assert.InRange(source.WireBytes, 1, Pair.StampBytes / 10);
    }

    // Goal: a destination whose copy is not what it says cannot corrupt the guest.
    // Method: behind the index's back a third of the kept image becomes noise and a third is cut off; both are offered.
    [Fact]
    public async Task A_kept_image_that_lies_costs_time_and_no_byte()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, _patient, cancel);
        byte[] before = await pair.StampAsync(cancel);
        await using HostInventory inventory = NewInventory();
        await KeepAsync(inventory, pair);
        string image = Assert.Single(Directory.GetFiles(Path.Combine(_directory, "inventory"), "*.image"));
        using (FileStream file = File.OpenWrite(image))
        {
            file.Position = Pair.StampOffset;
            byte[] noise = new byte[Pair.StampBytes / 3];
            new Random(7).NextBytes(noise);
            file.Write(noise);
            file.SetLength(Pair.StampOffset + (Pair.StampBytes * 2 / 3));
        }

        pair.Inventory = inventory;
        await pair.RenewDestinationAsync(_patient with { BandwidthBitsPerSecond = 30_000_000 }, cancel);
        (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
        Assert.True(source.SavedBytes.ContainsKey("knownOwnMemory"), "nothing was sent by its name");
    }

    // Goal: of a page that has changed a little since the guest left, only what changed comes back.
    // Method: the destination keeps the source's memory; then eight bytes of every other page of noise change. In the
    // second run the sums are those of something else in part, and what they do not see is asked for.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_page_that_has_changed_a_little_since_costs_what_has_changed(bool sumsLie)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, _patient, cancel);
        await pair.StampAsync(cancel);
        await using HostInventory inventory = NewInventory();
        await KeepAsync(inventory, pair);
        await using var source = new HostInventory(
            Path.Combine(_directory, "source-inventory"), 1L << 30, NullLogger.Instance);
        using ArrivedMemory came = Note(source, pair.Source);
        int changed = 0;
        using (GuestMemory memory = pair.Source.OpenMemory().Single())
        {
            byte[] page = new byte[Page.Size];
            for (int i = 0; i < Pair.StampBytes / Page.Size; i += 4)
            {
                var number = new PageNumber((Pair.StampOffset / Page.Size) + i);
                memory.Read(number, page);
                page.AsSpan(i % 4000, 8).Fill(0x5A);
                memory.Write(number, page);
                changed++;
                if (sumsLie && i % 16 == 0)
                {
                    // As if what is there now had come: but for one line that has always been another.
                    page[(i + 2000) % Page.Size]++;
                    came.Note(number, page);
                }
            }
        }

        byte[] before = await pair.ReadStampAsync(pair.Source, cancel);
        pair.Inventory = inventory;
        pair.Came = came;
        await pair.RenewDestinationAsync(_paced, cancel);
        (MigrationSnapshot moved, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (moved.Error, moved.Outcome));
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
        Assert.InRange(moved.SavedBytes["delta"], changed * (sumsLie ? 2700L : 3700L), 128 << 20);
        Assert.InRange(moved.WireBytes, 1, changed * (sumsLie ? 1500L : 500L));
    }

    // Goal: what a destination notes is what the guest came with, whatever way each page came.
    [Fact]
    public async Task What_comes_is_noted_as_it_is_in_the_end()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, _patient, cancel);
        await pair.StampAsync(cancel);
        await using HostInventory inventory = NewInventory();
        await KeepAsync(inventory, pair);
        ChangeEvery(10, pair.Source);
        byte[] stamp = await pair.ReadStampAsync(pair.Source, cancel);
        Guid guest = pair.Source.Contract.Uuid;
        pair.Inventory = inventory;
        long memoryBytes = pair.Source.Contract.MemoryBytes;
        using (ArrivedMemory comes = inventory.BeginArrival(guest, "web1", "a", memoryBytes)!)
        {
            pair.Comes = comes;
            await pair.RenewDestinationAsync(_patient, cancel);
            (MigrationSnapshot moved, _) = await pair.MoveAsync(cancel);
            Assert.Equal(("", MigrationOutcome.Completed), (moved.Error, moved.Outcome));
            inventory.Arrived(guest, comes);
        }

        using ArrivedMemory came = inventory.OpenArrival(guest, "a", memoryBytes)!;
        byte[] noted = new byte[PageLines.SumsBytes];
        byte[] expected = new byte[PageLines.SumsBytes];
        for (int i = 0; i < Pair.StampBytes / Page.Size; i++)
        {
            Assert.True(came.TryRead(new PageNumber((Pair.StampOffset / Page.Size) + i), noted));
            PageLines.Sum(stamp.AsSpan(i * Page.Size, Page.Size), expected);
            Assert.Equal(expected, noted);
        }
    }

    // Goal: a page that is the copy of a disk's block is rebuilt from the disk, also when no index of it is ready.
    // Method: the guest's memory is written to a file that the destination takes for its disk.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Pages_that_are_blocks_of_a_disk_are_read_there(bool indexed)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        // Slow enough that an index made during the move still finds pages that wait: it is made when nobody else wants
        // the processors, and once it is there the rest goes by name.
        MigrationPolicy policy = indexed ? _paced : _patient with { BandwidthBitsPerSecond = 4_000_000 };
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, policy, cancel);
        byte[] before = await pair.StampAsync(cancel);
        string disk = Path.Combine(_directory, "disk.raw");
        await File.WriteAllBytesAsync(disk, before, cancel);
        await using HostInventory inventory = NewInventory();
        if (indexed)
        {
            inventory.Watch(disk);
            await inventory.IndexedAsync();
            Assert.Equal(disk, Assert.Single(inventory.List()).Label);
        }

        pair.Inventory = inventory;
        pair.Images = [disk];
        await pair.RenewDestinationAsync(policy, cancel);
        (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
        Assert.InRange(source.SavedBytes["knownDisk"], Pair.StampBytes * (indexed ? 45 : 5) / 100, 128 << 20);
    }

    // Goal: what a guest of that host holds at this moment is rebuilt from its memory, if the user allows it.
    // Method: the destination's sibling is the source's own memory, read by another name.
    [Fact]
    public async Task Pages_that_a_running_sibling_holds_are_read_there()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        MigrationPolicy policy = _paced with { Share = ContentSharing.Host };
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, policy, cancel);
        byte[] before = await pair.StampAsync(cancel);
        await using HostInventory inventory = NewInventory();
        pair.Inventory = inventory;
        pair.Running = [pair.Source.OpenMemory().Single()];
        await pair.RenewDestinationAsync(policy, cancel);
        (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.Equal(before, await pair.ReadStampAsync(pair.Destination, cancel));
        Assert.InRange(source.SavedBytes["knownSibling"], Pair.StampBytes * 5 / 100, 128 << 20);
    }

    // Goal: a user who wants nothing shared gets nothing shared, whatever the destination offers.
    [Fact]
    public async Task Nothing_is_sent_by_its_name_if_the_user_forbids_it()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        MigrationPolicy policy = _patient with { Share = ContentSharing.None };
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await using Pair pair = await Pair.StartAsync(this, qemu.Installation, true, true, policy, cancel);
        await pair.StampAsync(cancel);
        (MigrationSnapshot source, _) = await pair.MoveAsync(cancel);
        Assert.Equal(("", MigrationOutcome.Completed), (source.Error, source.Outcome));
        Assert.False(source.SavedBytes.ContainsKey("knownOwnMemory"), "pages were sent by their names");
    }

    private HostInventory NewInventory() =>
        new(Path.Combine(_directory, "inventory"), 1L << 30, NullLogger.Instance);

    private static Task KeepAsync(HostInventory inventory, Pair pair) =>
        inventory.Keep(pair.Source.Contract.Uuid, "web1", pair.Source.OpenMemory().Single());

    private static ArrivedMemory Note(HostInventory inventory, QemuMachine machine)
    {
        using GuestMemory memory = machine.OpenMemory().Single();
        ArrivedMemory came = inventory.BeginArrival(machine.Contract.Uuid, "web1", "b", memory.Length)!;
        byte[] page = new byte[Page.Size];
        for (long i = 0; i < memory.Length / Page.Size; i++)
        {
            if (memory.IsAllocated(new PageNumber(i)))
            {
                memory.Read(new PageNumber(i), page);
                came.Note(new PageNumber(i), page);
            }
        }

        return came;
    }

    private static void ChangeEvery(int pages, QemuMachine machine)
    {
        using GuestMemory memory = machine.OpenMemory().Single();
        byte[] page = new byte[Page.Size];
        var random = new Random(2);
        for (int i = 0; i < Pair.StampBytes / Page.Size; i += pages)
        {
            random.NextBytes(page);
            memory.Write(new PageNumber((Pair.StampOffset / Page.Size) + i), page);
        }
    }
}
