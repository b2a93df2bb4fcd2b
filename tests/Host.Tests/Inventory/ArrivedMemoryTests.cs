using Godwit.Host.Inventory;
using Godwit.Pages;
using Microsoft.Extensions.Logging.Abstractions;

namespace Godwit.Host.Tests.Inventory;

public sealed class ArrivedMemoryTests : IAsyncLifetime
{
    private const long MemoryBytes = 64 * Page.Size;
    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-arrived-").FullName;
    private readonly Guid _guest = Guid.NewGuid();

    private string Sums => Path.Combine(_directory, $"memory-{_guest:N}.sums");

    public ValueTask InitializeAsync() => ValueTask.CompletedTask;

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_directory, recursive: true);
        return ValueTask.CompletedTask;
    }

    [Fact]
    public async Task What_came_is_known_for_the_way_back_and_for_no_other()
    {
        await using HostInventory inventory = New();
        Arrive(inventory);
        byte[] sums = new byte[PageLines.SumsBytes];
        byte[] expected = new byte[PageLines.SumsBytes];
        PageLines.Sum(PageOf(2), expected);
        using (ArrivedMemory memory = inventory.OpenArrival(_guest, "a", MemoryBytes)!)
        {
            Assert.True(memory.TryRead(new PageNumber(2), sums));
            Assert.Equal(expected, sums);
            Assert.True(memory.TryRead(new PageNumber(3), sums));
            Assert.All(sums, sum => Assert.Equal(0, sum));
            Assert.False(memory.TryRead(new PageNumber(64), sums));
        }

        Assert.Null(inventory.OpenArrival(_guest, "c", MemoryBytes));
        Assert.Null(inventory.OpenArrival(_guest, "a", MemoryBytes * 2));
        Assert.Null(inventory.OpenArrival(Guid.NewGuid(), "a", MemoryBytes));
        InventoryEntry entry = Assert.Single(inventory.List());
        Assert.Equal((InventoryKind.Arrival, "web1", _guest), (entry.Kind, entry.Label, entry.Guest));
        Assert.InRange(entry.DiskBytes, 1, 3 * 4096);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Sums));
    }

    [Fact]
    public async Task A_move_that_did_not_end_here_leaves_nothing()
    {
        await using HostInventory inventory = New();
        using (ArrivedMemory begun = inventory.BeginArrival(_guest, "web1", "a", MemoryBytes)!)
        {
            begun.Note(new PageNumber(1), PageOf(1));
            Assert.Empty(inventory.List());
        }

        using (ArrivedMemory begun = inventory.BeginArrival(_guest, "web1", "a", MemoryBytes)!)
        {
            begun.GiveUp();
            inventory.Arrived(_guest, begun);
        }

        Assert.Empty(Directory.GetFiles(_directory));
    }

    // What the guest came with is what it was then: once it has left, or has come another way, it means nothing.
    [Theory]
    [InlineData("forgotten")]
    [InlineData("arrived otherwise")]
    [InlineData("trimmed")]
    public async Task What_came_goes_when_it_means_nothing_any_more(string how)
    {
        await using HostInventory inventory = New();
        Arrive(inventory);
        switch (how)
        {
            case "forgotten": inventory.Forget(_guest); break;
            case "arrived otherwise": inventory.Arrived(_guest, null); break;
            case "trimmed": Assert.InRange(inventory.Trim(0), 1, 3 * 4096); break;
        }

        Assert.Null(inventory.OpenArrival(_guest, "a", MemoryBytes));
        Assert.Empty(Directory.GetFiles(_directory));
    }

    [Theory]
    [InlineData("another version")]
    [InlineData("cut short")]
    [InlineData("empty")]
    [InlineData("long words")]
    public async Task A_damaged_file_is_thrown_away(string damage)
    {
        await using HostInventory inventory = New();
        Arrive(inventory);
        byte[] bytes = await File.ReadAllBytesAsync(Sums, TestContext.Current.CancellationToken);
        bytes[damage == "another version" ? 4 : damage == "long words" ? 17 : 100] ^= 0x10;
        await File.WriteAllBytesAsync(
            Sums, damage == "empty" ? [] : damage == "cut short" ? bytes[..^1] : bytes,
            TestContext.Current.CancellationToken);
        Assert.Null(inventory.OpenArrival(_guest, "a", MemoryBytes));
        Assert.False(File.Exists(Sums));
        Assert.Empty(inventory.List());
    }

    [Fact]
    public async Task A_host_without_room_for_it_keeps_nothing()
    {
        await using var none = new HostInventory(_directory, 0, NullLogger.Instance);
        Assert.Null(none.BeginArrival(_guest, "web1", "a", MemoryBytes));
    }

    private HostInventory New() => new(_directory, 1 << 20, NullLogger.Instance);

    private void Arrive(HostInventory inventory)
    {
        using ArrivedMemory memory = inventory.BeginArrival(_guest, "web1", "a", MemoryBytes)!;
        memory.Note(new PageNumber(1), (byte[])[.. PageOf(1), .. PageOf(2), .. PageOf(3)]);
        memory.NoteZeros(new PageNumber(3), 1);
        inventory.Arrived(_guest, memory);
    }

    private static byte[] PageOf(int seed)
    {
        byte[] page = new byte[Page.Size];
        new Random(seed).NextBytes(page);
        return page;
    }
}
