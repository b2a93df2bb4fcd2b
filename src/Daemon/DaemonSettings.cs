using System.Text.Json;
using System.Text.Json.Serialization;

namespace Godwit.Daemon;

/// <summary>How this daemon is set up; read once at start. <see cref="SettingsReader"/> fills it.</summary>
public sealed record DaemonSettings
{
    /// <summary>This host's name in the cluster; its certificate binds it.</summary>
    public required string HostName { get; init; }

    /// <summary>Name or IP address at which peers reach this host, without a port.</summary>
    public required string Address { get; init; }

    /// <summary>IP address to listen on; 0.0.0.0 for all.</summary>
    public string Listen { get; init; } = "0.0.0.0";
    public int PeerPort { get; init; } = 7843;
    public int LanePort { get; init; } = 7844;
    public string PkiDirectory { get; init; } = "/etc/godwit/pki";
    public string StateDirectory { get; init; } = "/var/lib/godwit";
    public string RuntimeDirectory { get; init; } = "/run/godwit";

    /// <summary>Group that may use the control socket besides root; empty for the daemon's own.</summary>
    public string ControlGroup { get; init; } = "";

    /// <summary>Group that may look at everything over a socket of its own; empty for none.</summary>
    public string ViewerGroup { get; init; } = "";

    /// <summary>Path of QEMU's executable; empty to look in the usual places.</summary>
    public string Qemu { get; init; } = "";

    /// <summary>auto, kvm or tcg: what new guests get. auto is kvm where it really runs guests.</summary>
    public string Accelerator { get; init; } = "auto";

    /// <summary>text, json or systemd; text becomes systemd where the journal reads standard output.</summary>
    public string LogFormat { get; init; } = "text";

    /// <summary>Trace, Debug, Information, Warning or Error.</summary>
    public string LogLevel { get; init; } = "Information";

    /// <summary>Page lanes of an outgoing migration.</summary>
    public int Lanes { get; init; } = 2;

    /// <summary>Seconds that a store may say nothing before a suspend is given up and its guest runs on.</summary>
    public int StoreSilenceSeconds { get; init; } = 30;

    /// <summary>Seconds an incoming guest waits for its first lane before its reservation lapses.</summary>
    public int ReservationSeconds { get; init; } = 30;

    /// <summary>Memory that guests may never take, for the host itself.</summary>
    public int MemoryReserveMebibytes { get; init; } = 256;

    /// <summary>
    /// What memory that guests left behind, and indexes of disk images, may take on disk; 0 keeps none.
    /// </summary>
    public int InventoryMebibytes { get; init; } = 16384;

    /// <summary>
    /// Disk images, or directories of them, that pages of any guest may be rebuilt from; separated by colons.
    /// </summary>
    public string InventoryImages { get; init; } = "";

    /// <summary>
    /// What this host fetches of its own accord for guests that are likely to be resumed here: what all of it may take
    /// in the inventory; 0 fetches nothing.
    /// </summary>
    public int HoardMebibytes { get; init; } = 4096;

    /// <summary>How fast it does so, in millions of bits a second.</summary>
    public int HoardMegabits { get; init; } = 100;

    /// <summary>Ladders and rates beside the shipped ones; need not exist.</summary>
    public string PoliciesFile { get; init; } = "/etc/godwit/policies.json";

    public string ControlSocket => Path.Combine(RuntimeDirectory, "godwitd.sock");
    public string ViewerSocket => Path.Combine(RuntimeDirectory, "viewer.sock");
    public string RegistryFile => Path.Combine(StateDirectory, "registry.db");

    public string InventoryDirectory => Path.Combine(StateDirectory, "inventory");
    public string StoresFile => Path.Combine(StateDirectory, "stores.json");
    public string HandOverJournal => Path.Combine(StateDirectory, "handover.journal");

    /// <summary>Address and port of this host's Peer service.</summary>
    public string PeerAddress => Address.Contains(':') ? $"[{Address}]:{PeerPort}" : $"{Address}:{PeerPort}";

    /// <summary>Every key in force, as a JSON object that could be a configuration file.</summary>
    public string Describe() => JsonSerializer.Serialize(this, SettingsJson.Default.DaemonSettings);
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true, IgnoreReadOnlyProperties = true)]
[JsonSerializable(typeof(DaemonSettings))]
internal sealed partial class SettingsJson : JsonSerializerContext;
