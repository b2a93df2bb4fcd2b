using System.Collections;
using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using System.Text.RegularExpressions;
using Godwit.Migration;

namespace Godwit.Daemon;

/// <summary>
/// Reads the settings: defaults, then the file, conf.d, the environment and the command line, the last one wins.
/// </summary>
internal static partial class SettingsReader
{
    public const string DefaultConfig = "/etc/godwit";
    private const string EnvironmentPrefix = "GODWIT_";

    // The lab and the CLI are told other things by the environment under the same prefix.
    private static readonly string[] ForeignVariables =
        ["SOCKET", "OUTPUT", "LAB", "BIN", "KEEP", "DEBUG", "COMPLETION"];

    private static readonly string[] Keys =
    [
        "hostName", "address", "listen", "peerPort", "lanePort", "pkiDirectory", "stateDirectory", "runtimeDirectory",
        "controlGroup", "viewerGroup", "qemu", "accelerator", "logFormat", "logLevel", "lanes", "reservationSeconds",
        "storeSilenceSeconds",
        "memoryReserveMebibytes", "inventoryMebibytes", "inventoryImages", "hoardMebibytes", "hoardMegabits",
        "policiesFile",
    ];

    private static readonly Dictionary<string, string> Options = new(StringComparer.Ordinal)
    {
        ["--state-dir"] = "stateDirectory",
        ["--runtime-dir"] = "runtimeDirectory",
        ["--host-name"] = "hostName",
        ["--address"] = "address",
        ["--log-format"] = "logFormat",
    };

    /// <exception cref="GodwitException">
    /// <c>config-invalid</c>, naming the key, its origin and what is accepted.
    /// </exception>
    public static DaemonSettings Read(IReadOnlyList<string> arguments, IDictionary environment)
    {
        var values = new Dictionary<string, (string Value, string Origin)>(StringComparer.OrdinalIgnoreCase);
        var config = DefaultConfig;
        var fromCommandLine = new List<(string Key, string Value, string Origin)>();
        for (var index = 0; index < arguments.Count; index++)
        {
            var (option, value) = arguments[index].Split('=', 2) is [var name, var given]
                ? (name, given)
                : (arguments[index], index + 1 < arguments.Count ? arguments[++index] : null);
            if (option != "--config" && !Options.ContainsKey(option))
            {
                throw Invalid($"Unknown option '{option}'", "'godwitd --help' lists the options.");
            }

            if (string.IsNullOrEmpty(value))
            {
                throw Invalid($"The option {option} lacks its value", "'godwitd --help' lists the options.");
            }

            if (option == "--config")
            {
                config = value;
            }
            else
            {
                fromCommandLine.Add((Options[option], value, option));
            }
        }

        var directory = config;
        if (File.Exists(config))
        {
            ReadFile(config, values);
            directory = Path.GetDirectoryName(Path.GetFullPath(config))!;
        }
        else if (Directory.Exists(config))
        {
            ReadDirectory(config, values);
        }
        else if (config != DefaultConfig)
        {
            throw Invalid($"{config} is neither a file nor a directory", "Give --config an existing one.");
        }

        foreach (DictionaryEntry variable in environment)
        {
            var name = (string)variable.Key;
            if (name.StartsWith(EnvironmentPrefix, StringComparison.Ordinal)
                && !ForeignVariables.Any(name[EnvironmentPrefix.Length..].StartsWith))
            {
                Take(values, name[EnvironmentPrefix.Length..], (string?)variable.Value ?? "", $"${name}");
            }
        }

        fromCommandLine.ForEach(option => Take(values, option.Key, option.Value, option.Origin));
        return Build(values, directory);
    }

    /// <summary>True for a name a member of a cluster may have.</summary>
    public static bool IsHostName(string name) => HostNamePattern().IsMatch(name);

    private static void ReadDirectory(string config, Dictionary<string, (string, string)> values)
    {
        var main = Path.Combine(config, "godwitd.json");
        if (File.Exists(main))
        {
            ReadFile(main, values);
        }

        var parts = Path.Combine(config, "conf.d");
        if (Directory.Exists(parts))
        {
            foreach (var part in Directory.EnumerateFiles(parts, "*.json").Order(StringComparer.Ordinal))
            {
                ReadFile(part, values);
            }
        }
    }

    private static void ReadFile(string path, Dictionary<string, (string, string)> values)
    {
        IConfigurationRoot file;
        try
        {
            file = new ConfigurationBuilder().AddJsonFile(Path.GetFullPath(path)).Build();
        }
        catch (Exception exception) when (exception is InvalidDataException or FormatException or IOException
            or UnauthorizedAccessException)
        {
            throw Invalid($"{path} cannot be read: {(exception.InnerException ?? exception).Message}",
                "It holds one JSON object; see godwitd.example.json.");
        }

        foreach (var (key, value) in file.AsEnumerable())
        {
            if (value is not null)
            {
                Take(values, key, value, path);
            }
        }
    }

    private static void Take(
        Dictionary<string, (string, string)> values, string key, string value, string origin)
    {
        var known = Keys.FirstOrDefault(name => name.Equals(key, StringComparison.OrdinalIgnoreCase))
            ?? throw Invalid($"{origin} sets the unknown key '{key}'", $"Known keys: {string.Join(", ", Keys)}.");
        values[known] = (value, origin);
    }

    private static DaemonSettings Build(Dictionary<string, (string Value, string Origin)> values, string directory)
    {
        string Text(string key, string fallback) => values.TryGetValue(key, out var entry) ? entry.Value : fallback;
        GodwitException Reject(string key, string limit) => Invalid(
            $"{values[key].Origin} sets {key} to '{values[key].Value}'; {limit}", "Correct it and start again.");
        int Number(string key, int fallback, int min, int max)
        {
            if (!values.TryGetValue(key, out var entry))
            {
                return fallback;
            }

            return int.TryParse(entry.Value, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
                && number >= min && number <= max
                ? number
                : throw Reject(key, $"it is a whole number from {min} to {max}");
        }

        string OneOf(string key, string fallback, params string[] choices) => Text(key, fallback) is var text
            && choices.FirstOrDefault(choice => choice.Equals(text, StringComparison.OrdinalIgnoreCase)) is { } choice
                ? choice
                : throw Reject(key, $"it is one of {string.Join(", ", choices)}");
        string FullPath(string key, string fallback) => Text(key, fallback) is var path && Path.IsPathRooted(path)
            ? Path.TrimEndingDirectorySeparator(path)
            : throw Reject(key, "it is an absolute path");

        // Members are told apart by the first label: two hosts with the same one could not join the same cluster.
        var hostName = Text("hostName", Dns.GetHostName().Split('.')[0].ToLowerInvariant());
        if (!IsHostName(hostName))
        {
            throw values.ContainsKey("hostName")
                ? Reject("hostName",
                    "it has 1 to 63 lower-case letters, digits and hyphens, a letter or digit at each end")
                : Invalid($"This machine's name '{hostName}' cannot be a host name", "Set hostName.");
        }

        var address = Text("address", OwnAddress());
        if (!IPAddress.TryParse(address, out _) && Uri.CheckHostName(address) != UriHostNameType.Dns)
        {
            throw Reject("address", "it is an IP address or a DNS name, without a port (see peerPort)");
        }

        if (!IPAddress.TryParse(Text("listen", "0.0.0.0"), out var listen))
        {
            throw Reject("listen", "it is an IP address of this host, or 0.0.0.0 for all");
        }

        var peerPort = Number("peerPort", 7843, 1, 65535);
        var lanePort = Number("lanePort", 7844, 1, 65535);
        if (peerPort == lanePort)
        {
            throw Invalid($"peerPort and lanePort are both {peerPort}", "Give each a port of its own.");
        }

        return new DaemonSettings
        {
            HostName = hostName,
            Address = address,
            Listen = listen.ToString(),
            PeerPort = peerPort,
            LanePort = lanePort,
            PkiDirectory = FullPath("pkiDirectory", Path.Combine(Path.GetFullPath(directory), "pki")),
            StateDirectory = FullPath("stateDirectory", "/var/lib/godwit"),
            RuntimeDirectory = FullPath("runtimeDirectory", "/run/godwit"),
            ControlGroup = Text("controlGroup", ""),
            ViewerGroup = Text("viewerGroup", ""),
            Qemu = Text("qemu", "") is { Length: > 0 } ? FullPath("qemu", "") : "",
            Accelerator = OneOf("accelerator", "auto", "auto", "kvm", "tcg"),
            LogFormat = OneOf("logFormat", "text", "text", "json", "systemd"),
            LogLevel = OneOf("logLevel", "Information", "Trace", "Debug", "Information", "Warning", "Error"),
            Lanes = Number("lanes", 2, 1, 16),
            ReservationSeconds = Number("reservationSeconds", 30, 1, 3600),
            StoreSilenceSeconds = Number("storeSilenceSeconds", 30, 1, 3600),
            MemoryReserveMebibytes = Number("memoryReserveMebibytes", 256, 0, 1 << 20),
            InventoryMebibytes = Number("inventoryMebibytes", 16384, 0, 1 << 30),
            HoardMebibytes = Number("hoardMebibytes", 4096, 0, 1 << 30),
            HoardMegabits = Number("hoardMegabits", 100, 1, 1 << 20),
            PoliciesFile = FullPath("policiesFile", Path.Combine(Path.GetFullPath(directory), "policies.json")),
            InventoryImages = Text("inventoryImages", "").Split(':', StringSplitOptions.RemoveEmptyEntries)
                .All(Path.IsPathRooted)
                    ? Text("inventoryImages", "") : throw Reject("inventoryImages", "its parts are absolute paths"),
        };
    }

    /// <summary>This machine's first address that is not loopback; peers elsewhere could not use that one.</summary>
    private static string OwnAddress() => NetworkInterface.GetAllNetworkInterfaces()
        .Where(card => card.OperationalStatus == OperationalStatus.Up
            && card.NetworkInterfaceType != NetworkInterfaceType.Loopback)
        .SelectMany(card => card.GetIPProperties().UnicastAddresses)
        .Select(unicast => unicast.Address)
        .FirstOrDefault(address => address.AddressFamily == AddressFamily.InterNetwork)?.ToString() ?? "127.0.0.1";

    private static GodwitException Invalid(string message, string remedy) =>
        new("config-invalid", message + ".", remedy);

    [GeneratedRegex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    private static partial Regex HostNamePattern();
}
