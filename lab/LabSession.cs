using System.Text.Json;
using System.Text.Json.Serialization;
using Godwit.Lab.Network;

namespace Godwit.Lab;

/// <summary>What <c>status</c> shows of a lab that is up.</summary>
internal sealed record LabRecord(string Link, double DelayMilliseconds, DateTimeOffset Since)
{
    internal LinkShape Shape => new(LinkShape.ParseRate(Link), TimeSpan.FromMilliseconds(DelayMilliseconds));
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(LabRecord))]
internal sealed partial class LabRecordContext : JsonSerializerContext;

/// <summary>The lab's life: up, down, and who may use it now.</summary>
internal static class LabSession
{
    private static string RecordPath => LabDirectory.InRun("lab.json");

    /// <summary>The lab that is up, or null.</summary>
    internal static LabRecord? Current =>
        File.Exists(RecordPath)
            ? JsonSerializer.Deserialize(File.ReadAllText(RecordPath), LabRecordContext.Default.LabRecord)
            : null;

    /// <summary>Holds the lab for this process: two scenarios in one lab would judge each other's packets.</summary>
    /// <remarks>The lock goes with the process, however it ends.</remarks>
    /// <exception cref="LabException">Another process holds it.</exception>
    internal static IDisposable Hold()
    {
        LabDirectory.Create();
        string path = LabDirectory.Run + ".lock";
        try
        {
            FileStream file = new(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            file.SetLength(0);
            file.Write(System.Text.Encoding.ASCII.GetBytes($"{Environment.ProcessId}\n"));
            file.Flush();
            return file;
        }
        catch (IOException)
        {
            throw new LabException(
                $"The lab \"{LabDirectory.Name}\" is in use by another process (lock {path}). Wait for it, "
                + "or set GODWIT_LAB to another name for a lab of your own.");
        }
    }

    /// <summary>Brings the network up, from whatever state an earlier run left.</summary>
    internal static LabRecord Up(LinkShape shape)
    {
        Down();
        LabDirectory.Create();
        LabNetwork.Up(shape);
        LabRecord record = new(
            new LinkShape(shape.BitsPerSecond, TimeSpan.Zero).ToString(), shape.Delay.TotalMilliseconds,
            DateTimeOffset.UtcNow);
        string temporary = RecordPath + ".new";
        File.WriteAllText(temporary, JsonSerializer.Serialize(record, LabRecordContext.Default.LabRecord));
        File.Move(temporary, RecordPath, overwrite: true);
        return record;
    }

    /// <summary>Ends the lab's processes and removes its namespaces, sockets, records and disks. Idempotent.</summary>
    internal static void Down()
    {
        LabProcesses.EndAll();
        foreach (string space in LabNetwork.Namespaces())
        {
            Tool.Run("ip", "netns", "del", space);
        }

        foreach (string folder in new[] { LabDirectory.Run, LabDirectory.Disks })
        {
            if (Directory.Exists(folder))
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }
}
