using Godwit.Api.V1;

namespace Godwit.Daemon.Moves;

/// <summary>What this host itself needs for any move, whatever the guest.</summary>
internal static class HostReadiness
{
    // The registry's log grows to 4 MiB before its space is used again; a hand-over that cannot be recorded fails.
    private const long StateBytesMin = 4 << 20;

    // QEMU's log and the guest's console log, for as long as the guest stays.
    private const long RuntimeBytesMin = 16 << 20;

    public static IEnumerable<Refusal> Check(DaemonSettings settings, bool isDestination)
    {
        static Refusal Refuse(string code, string message, string remedy) =>
            new() { Code = code, Message = message, Remedy = remedy };

        var host = settings.HostName;
        if (!HostFacts.HasLz4())
        {
            yield return Refuse("lz4-missing",
                $"Host '{host}' cannot load liblz4.so.1: no guest can leave it or come to it.",
                $"On host '{host}': apt install liblz4-1.");
        }

        if (!HostFacts.HasZstd())
        {
            yield return Refuse("zstd-missing",
                $"Host '{host}' cannot load libzstd.so.1: no guest can leave it or come to it.",
                $"On host '{host}': apt install libzstd1.");
        }

        (string Directory, long BytesMin)[] needs = isDestination
            ? [(settings.StateDirectory, StateBytesMin), (settings.RuntimeDirectory, RuntimeBytesMin)]
            : [(settings.StateDirectory, StateBytesMin)];
        foreach (var (directory, bytesMin) in needs)
        {
            var free = new DriveInfo(directory).AvailableFreeSpace;
            if (free < bytesMin)
            {
                yield return Refuse("disk-full",
                    $"{directory} on host '{host}' has {free >> 20} MiB free; {bytesMin >> 20} MiB are needed.",
                    $"Free some space there; 'df {directory}' on host '{host}' shows it.");
            }
        }
    }
}
