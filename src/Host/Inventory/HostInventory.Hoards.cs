using Godwit.ChunkStore;
using Godwit.Host.Qemu;
using Godwit.Migration.Wire;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Host.Inventory;

// What is fetched ahead of a guest's resume.
public sealed partial class HostInventory
{
    /// <summary>Begins to hoard for a guest, upon what was hoarded for it before.</summary>
    /// <param name="beside">What else this host has for the guest.</param>
    /// <exception cref="IOException">The disk cannot be written.</exception>
    public Hoard BeginHoard(Guid guest, string label, GuestInventory? beside)
    {
        string index = HoardIndexOf(guest);
        List<ContentSource> before = [];
        if (!AddIfThere(before, index, ContentOrigin.OwnMemory, isHoard: true))
        {
            Create(ImageOf(index)).Dispose();
        }

        SafeFileHandle file = File.OpenHandle(
            ImageOf(index), FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        return new Hoard(
            file, before.FirstOrDefault(), beside,
            new IndexSubject(SubjectOf(guest), 0, DateTime.UtcNow.Ticks, label),
            bytes =>
            {
                lock (_files)
                {
                    if (!File.Exists(ImageOf(index)))
                    {
                        throw new IOException($"{ImageOf(index)} has been removed meanwhile");
                    }

                    Put(index, bytes);
                }
            });
    }

    /// <summary>What may be hoarded for a guest, in bytes, if everything else gives way.</summary>
    /// <param name="images">Its disk images: what is rebuilt from stays.</param>
    public long HoardRoom(Guid guest, IReadOnlyList<string> images)
    {
        long stays = Sources(guest, images).Sum(BytesOf);
        return Math.Max(0, _quotaBytes - stays);
    }

    /// <summary>What the disk has to give, in bytes, beside what has to stay free.</summary>
    public long FreeBytes => Math.Max(0, new DriveInfo(_directory).AvailableFreeSpace - FreeBytesMin);

    /// <summary>Hoards, the oldest first: whose they are, and what they take.</summary>
    public IReadOnlyList<(Guid Guest, long Bytes)> Hoards() =>
    [
        .. Indexes().OrderBy(File.GetLastWriteTimeUtc)
            .Select(path => (Kind: KindOf(path, out Guid guest), Guest: guest, Path: path))
            .Where(one => one.Kind == InventoryKind.Hoard).Select(one => (one.Guest, BytesOf(one.Path))),
    ];

    /// <summary>Forgets what was hoarded for a guest.</summary>
    public void ForgetHoard(Guid guest)
    {
        lock (_files)
        {
            Remove(HoardIndexOf(guest));
        }
    }

    /// <summary>Removes the oldest of everything else until there is room for so many bytes more.</summary>
    public void MakeRoom(Guid guest, IReadOnlyList<string> images, long bytes) =>
        Trim(_quotaBytes - bytes, [.. Sources(guest, images), HoardIndexOf(guest)]);

    private IEnumerable<string> Sources(Guid guest, IReadOnlyList<string> images) =>
        images.SelectMany(DiskImage.Chain).Distinct().Select(IndexOf).Prepend(IndexOf(guest));
}
