using Godwit.Api.V1;

namespace Godwit.Daemon.Tests.Guests;

/// <summary>A real guest without an operating system: it counts on its console, as CountingGuest.s says.</summary>
/// <remarks>
/// It counts on only while no byte of its memory is wrong. What its consoles on all hosts printed, put together in
/// order, is therefore one unbroken count, or something was lost.
/// </remarks>
internal sealed class CountingGuest : IDisposable
{
    // Made of CountingGuest.s as its first lines say.
    private const string BootSector =
        "ea057c0000fa31c08ed88ed0bc007c0f0116de7c0f20c00c010f22c0bb08008ee324fe0f22c0fb66bf0000100066b8010000"
        + "006669c00d66190066055ff36e3c64676689076683c7046681ff0000400072e1f466bf0000100066b8010000006669c00d66"
        + "190066055ff36e3c6467663907754f6683c7046681ff0000400072df668b1eda7c646766391c9d000040007531664b79f066"
        + "ff06da7c668b1eda7c646766891c9d00004000b9080066c1c30488d8240f0461e81000e2f1b00ae80900eb90b021e80200eb"
        + "8988c4bafd03eca82074fb88e0baf803eec3000000000f00e87c00008db400000000000000000000ffff00000092cf00";

    private const int SectorBytes = 512;

    // Eight digits and the line's end.
    private const int LineLength = 9;

    // SeaBIOS boots from no disk of less than a cylinder.
    private const int DiskBytes = 1 << 20;

    public CountingGuest(string name)
    {
        Name = name;
        // Not in the directory for temporary files, which may be memory: a guest's disk is refused there.
        Folder = Directory.CreateDirectory(
            Path.Combine(AppContext.BaseDirectory, "disks", Guid.NewGuid().ToString("N"))).FullName;
        var disk = new byte[DiskBytes];
        Convert.FromHexString(BootSector).CopyTo(disk, 0);
        disk[SectorBytes - 2] = 0x55;
        disk[SectorBytes - 1] = 0xaa;
        File.WriteAllBytes(Disk, disk);
    }

    public string Name { get; }

    /// <summary>Holds nothing but the disk.</summary>
    public string Folder { get; }

    public string Disk => Path.Combine(Folder, "disk.raw");

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public GuestSpec Spec() => new()
    {
        Name = Name,
        MemoryBytes = 16 << 20,
        Disks = { new Disk { Path = Disk } },
    };

    /// <summary>Creates and starts it, and returns when it counts.</summary>
    public async Task<Guest> BootAsync(DaemonProcess host, Action<GuestSpec>? adjust = null)
    {
        var spec = Spec();
        adjust?.Invoke(spec);
        var guest = await host.Control.CreateGuestAsync(
            new CreateGuestRequest { Spec = spec, Start = true }, cancellationToken: Token);
        await CountsOnAsync(host, guest);
        return guest;
    }

    /// <summary>What it has printed on this host so far.</summary>
    public static string Console(DaemonProcess host, Guest guest)
    {
        var path = Path.Combine(host.Settings.RuntimeDirectory, "guests", guest.Spec.Uuid, "console.log");
        return File.Exists(path) ? File.ReadAllText(path) : "";
    }

    /// <summary>Waits until it has counted on a little; fails if it found a wrong byte.</summary>
    public static Task CountsOnAsync(DaemonProcess host, Guest guest)
    {
        const int Enough = 3;
        var before = Console(host, guest).Count('\n');
        return Wait.UntilAsync(
            () =>
            {
                var console = Console(host, guest);
                Assert.DoesNotContain("!", console, StringComparison.Ordinal);
                return console.Count('\n') >= before + Enough;
            },
            $"{guest.Spec.Name} counts on");
    }

    /// <summary>What was printed is one unbroken count from one.</summary>
    public static void IsUnbroken(string printed) => IsUnbroken(printed, "");

    /// <summary>
    /// What two hosts printed makes one unbroken count from one, whenever the guest went from one to the other, be it
    /// in the middle of a line.
    /// </summary>
    public static void IsUnbroken(string here, string there)
    {
        // How much of what was printed here can have been printed when the count had come so far.
        HashSet<int> reached = [0];
        for (var length = 0; length < here.Length + there.Length; length++)
        {
            var expected = At(length);
            HashSet<int> next = [];
            foreach (var used in reached)
            {
                if (used < here.Length && here[used] == expected)
                {
                    next.Add(used + 1);
                }

                var rest = length - used;
                if (rest < there.Length && there[rest] == expected)
                {
                    next.Add(used);
                }
            }

            if (next.Count == 0)
            {
                Assert.Fail($"The count is broken after {length / LineLength} lines and {length % LineLength} letters."
                    + $"\nHere:\n{here}\nThere:\n{there}");
            }

            reached = next;
        }
    }

    // What it prints at this place if nothing is lost.
    private static char At(int place)
    {
        var digits = (place / LineLength + 1).ToString("x8");
        return place % LineLength == digits.Length
            ? '\n'
            : (char)('a' + Convert.ToInt32($"{digits[place % LineLength]}", 16));
    }

    public void Dispose() => Directory.Delete(Folder, recursive: true);
}
