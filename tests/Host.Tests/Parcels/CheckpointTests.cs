using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Packs;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Host.Storage;
using Godwit.Host.Tests.Qemu;
using Godwit.Pages;

namespace Godwit.Host.Tests.Parcels;

/// <summary>Disks of a real QEMU that are put into a store while it writes to them.</summary>
public sealed class CheckpointTests
{
    private const int DiskBytes = 96 << 20;
    private const int Untouched = 80 << 20;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    // Goal: the parcel has each disk as it was when the guest stood still, and only what QEMU has written since the
    // first look is read again.
    // Method: QEMU writes during the first look, after it, and after the guest has gone on. A part that QEMU does not
    // write to is changed behind its back: who reads the whole disk again finds that.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_parcel_has_the_disk_of_the_instant_at_which_the_guest_stood_still(bool keepsRunning)
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await IsRecordedAsync(qemu, keepsRunning);
    }

    [Fact]
    public async Task The_oldest_QEMU_tells_what_has_changed_too()
    {
        await using RealQemu qemu = await RealQemu.OpenOldestAsync();
        await IsRecordedAsync(qemu, keepsRunning: true);
    }

    // Goal: a format's own bookkeeping, which QEMU writes when it closes an image and not before, is in the parcel.
    // Method: clusters are allocated after the first look; the file as it is in the end is what the parcel has to have.
    [Fact]
    public async Task A_parcel_has_what_QEMU_writes_when_it_closes_an_image()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        await WithRecorderAsync(qemu, "qcow2", EmptyQcow2(), async (machine, recorder, store, disk) =>
        {
            await WriteAsync(machine, 1, 0x11, 256);
            await recorder.PrepareAsync(Token);
            await WriteAsync(machine, 9, 0x99, 256);
            await recorder.StopGuestAsync(() => 1, Token);
            await recorder.HoldAsync();
            byte[] recorded = Restore(store, Finish(recorder, store, disksStandStill: true));
            byte[] expected = await File.ReadAllBytesAsync(disk, Token);
            int different = expected.AsSpan().CommonPrefixLength(recorded);
            Assert.True(different == expected.Length, $"byte {different} of {expected.Length} is another one");
        });
    }

    // Goal: a recorder that a silent store holds is in nobody's way.
    // Method: another one begins when the first was given up, which is put away in the middle of the other's work.
    [Fact]
    public async Task A_recorder_that_was_given_up_leaves_the_next_one_alone()
    {
        await using RealQemu qemu = await RealQemu.OpenAsync();
        byte[] content = RandomNumberGenerator.GetBytes(DiskBytes);
        await WithRecorderAsync(qemu, "raw", content, async (machine, first, store, disk) =>
        {
            await first.PrepareAsync(Token);
            await first.GoOnAsync();
            using var writer = new StoreWriter(store, new StoreWriterOptions(RandomNumberGenerator.Fill));
            await using var second = new ParcelRecorder(
                machine, writer, Path.Combine(qemu.Root, "guest"), _ => false);
            await second.PrepareAsync(Token);
            await first.DisposeAsync();
            await WriteAsync(machine, 20, 0xaa, 4096);
            await second.StopGuestAsync(() => 1, Token);
            await second.HoldAsync();
            byte[] recorded = Restore(store, Finish(second, store, disksStandStill: true));
            byte[] expected = await ReadAsync(disk);
            Assert.True(expected.AsSpan().SequenceEqual(recorded), "the disk is another one");
        });
    }

    // As docs/interop/qcow2.txt of QEMU has it: header, reference counts in two levels, first level table.
    private static byte[] EmptyQcow2()
    {
        const int cluster = 1 << 16;
        byte[] image = new byte[4 * cluster];
        BinaryPrimitives.WriteUInt32BigEndian(image, 0x514649fb);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(4), 3);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(20), 16);
        BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(24), DiskBytes);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(36), 1);
        BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(40), 3 * cluster);
        BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(48), cluster);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(56), 1);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(96), 4);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(100), 104);
        BinaryPrimitives.WriteInt64BigEndian(image.AsSpan(cluster), 2 * cluster);
        for (int i = 0; i < 4; i++)
        {
            BinaryPrimitives.WriteInt16BigEndian(image.AsSpan((2 * cluster) + (2 * i)), 1);
        }

        return image;
    }

    private static Task IsRecordedAsync(RealQemu qemu, bool keepsRunning) => WithRecorderAsync(
        qemu, "raw", RandomNumberGenerator.GetBytes(DiskBytes), async (machine, recorder, store, disk) =>
        {
            Task prepared = recorder.PrepareAsync(Token);
            for (int i = 1; !prepared.IsCompleted; i++)
            {
                await WriteAsync(machine, i % 10, i, 256);
            }

            await prepared;
            await WriteAsync(machine, 20, 0xaa, 4096);
            await WriteAsync(machine, 30, 0, 64);
            await ChangeUnseenAsync(disk);

            await recorder.StopGuestAsync(() => 1, Token);
            byte[] expected = await ReadAsync(disk);
            if (keepsRunning)
            {
                recorder.RecordDisksAgain();
                await recorder.GoOnAsync();
                await WriteAsync(machine, 20, 0xbb, 4096);
                await WriteAsync(machine, 5, 0xcc, 1024);
            }
            else
            {
                await recorder.HoldAsync();
            }

            byte[] recorded = Restore(store, Finish(recorder, store, disksStandStill: !keepsRunning));
            Assert.NotEqual(expected[Untouched], recorded[Untouched]);
            expected[Untouched] = recorded[Untouched];
            int different = expected.AsSpan().CommonPrefixLength(recorded);
            Assert.True(different == DiskBytes, $"byte {different} of the disk is another one");
        });

    private static async Task WithRecorderAsync(
        RealQemu qemu, string format, byte[] content, Func<QemuMachine, ParcelRecorder, Store, string, Task> record)
    {
        // Not in the directory for temporary files, which may be memory.
        string folder = Directory.CreateDirectory(
            Path.Combine(AppContext.BaseDirectory, "disks", Guid.NewGuid().ToString("N"))).FullName;
        try
        {
            string disk = Path.Combine(folder, $"disk.{format}");
            await File.WriteAllBytesAsync(disk, content, Token);
            QemuMachine machine = await qemu.StartAsync(qemu.Contract(contract => contract with
            {
                Disks = [new DiskContract(disk, format, ReadOnly: false)],
            }));
            var storage = new DirectoryStorage(Path.Combine(folder, "store"));
            storage.Prepare();
            Store.Create(storage, Guid.NewGuid().ToString(), null);
            Store store = Store.Open(storage, null, static () => new SegmentCoder());
            using var writer = new StoreWriter(
                store, new StoreWriterOptions(RandomNumberGenerator.Fill, SegmentCoding.Lz4, 0));
            await using var recorder = new ParcelRecorder(
                machine, writer, Path.Combine(qemu.Root, "guest"), _ => false);
            await record(machine, recorder, store, disk);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static ParcelPart Finish(ParcelRecorder recorder, Store store, bool disksStandStill) =>
        Assert.Single(recorder.Finish(
            new ParcelSubject("p1", ParcelKind.Checkpoint, "a", store.Descriptor.Id, 1,
                JsonDocument.Parse("{}").RootElement, "", []), disksStandStill).Disks);

    private static async Task ChangeUnseenAsync(string disk)
    {
        await using FileStream file = new(disk, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        file.Position = Untouched;
        int old = file.ReadByte();
        file.Position = Untouched;
        file.WriteByte((byte)~old);
    }

    private static async Task<byte[]> ReadAsync(string disk)
    {
        await using FileStream file = new(disk, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        byte[] content = new byte[DiskBytes];
        await file.ReadExactlyAsync(content, Token);
        return content;
    }

    private static byte[] Restore(Store store, ParcelPart part)
    {
        store.Refresh();
        using StoreReader reader = store.OpenReader();
        byte[] content = new byte[part.Bytes];
        ChunkId[] ids = ChunkTree.Load(part.RootId, part.Pages, reader);
        List<WantedChunk> wanted = [.. ids.Select((id, page) => new WantedChunk(id, page)).Where(w => !w.Id.IsZeros)];
        reader.Read(wanted, (page, chunk) => chunk.CopyTo(content.AsSpan(page * Page.Size)));
        return content;
    }

    private static async Task WriteAsync(QemuMachine machine, int mebibyte, int pattern, int kibibytes)
    {
        JsonNode? said = await machine.ExecuteAsync("human-monitor-command", new JsonObject
        {
            ["command-line"] = $"qemu-io disk0 \"write -P {pattern & 0xff} {mebibyte}M {kibibytes}k\"",
        }, Token);
        Assert.DoesNotContain("failed", (string?)said ?? "", StringComparison.OrdinalIgnoreCase);
    }
}
