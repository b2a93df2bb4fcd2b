using Godwit.ChunkStore.Parcels;
using Godwit.Host.Parcels;
using Godwit.Host.Qemu;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>What becomes of a parcel on this host.</summary>
/// <param name="Contract">Of the guest that is to run.</param>
/// <param name="Epoch">Of its owner, this host.</param>
/// <param name="MustClaim">False for a guest that begins with it.</param>
internal sealed record ResumePlan(MachineContract Contract, long Epoch, bool MustClaim)
{
    private readonly Dictionary<string, string> _moved = [];

    /// <summary>Another guest, with the state that the parcel has and disks of its own.</summary>
    /// <remarks>
    /// Its memory remembers the first guest's addresses, so its interfaces are connected to no bridge.
    /// </remarks>
    public static ResumePlan Fork(ParcelManifest manifest, string name)
    {
        var contract = ContractJson.Read(manifest);
        if (name.Length == 0 || name == contract.Name)
        {
            throw new GodwitException("guest-name", $"A fork of guest '{contract.Name}' takes another name.",
                "Give it with --name.");
        }

        Dictionary<string, string> moved = [];
        var disks = contract.Disks.Select((disk, number) =>
        {
            if (disk.ReadOnly)
            {
                return disk;
            }

            var path = Path.GetFullPath(disk.Path);
            var suffix = number == 0 ? "" : $"-{number}";
            moved[path] = Path.Combine(Path.GetDirectoryName(path)!, $"{name}{suffix}{Path.GetExtension(path)}");
            if (File.Exists(moved[path]))
            {
                throw new GodwitException("parcel-disk", $"The fork's disk {moved[path]} is there already.",
                    "Choose another name, or remove the file.");
            }

            return disk with { Path = moved[path] };
        }).ToList();
        var plan = new ResumePlan(
            contract with
            {
                Name = name,
                Uuid = Guid.NewGuid(),
                Disks = disks,
                Interfaces = [.. contract.Interfaces.Select(card => card with { Bridge = "", Addresses = [] })],
            },
            1, MustClaim: false);
        foreach (var (from, to) in moved)
        {
            plan._moved[from] = to;
        }

        return plan;
    }

    /// <summary>Where an image of the parcel belongs.</summary>
    public string PathOf(string path) => _moved.GetValueOrDefault(path, path);

    /// <summary>Whether an image of the parcel is the guest's alone; others may be based on the rest.</summary>
    public bool IsOwnDisk(string path) =>
        Contract.Disks.Any(disk => !disk.ReadOnly && Path.GetFullPath(disk.Path) == PathOf(path));
}
