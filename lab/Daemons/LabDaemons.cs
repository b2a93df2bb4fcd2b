using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.Api.V1;
using Godwit.Lab.Network;
using Grpc.Core;
using Grpc.Net.Client;

namespace Godwit.Lab.Daemons;

/// <summary>A <c>godwitd</c> in each host of the lab, joined to one cluster, spoken to over its Unix socket.</summary>
internal sealed class LabDaemons : IDisposable
{
    // A daemon that has ended is noticed at once; one that comes up slowly is no failure.
    private static readonly TimeSpan _patience = TimeSpan.FromMinutes(3);

    private readonly Dictionary<string, GrpcChannel> _channels = [];
    private readonly Dictionary<string, Control.ControlClient> _clients = [];

    private LabDaemons()
    {
    }

    internal Control.ControlClient this[string host] => _clients[host];

    /// <summary>Where a host's daemon takes orders; also what <c>exec</c> tells the CLI.</summary>
    internal static string SocketOf(string host) => Path.Combine(FolderOf(host), "run", "godwitd.sock");

    /// <summary>Starts both daemons and has b join a with a one-time token.</summary>
    /// <param name="settings">Further keys of the daemons' configuration.</param>
    /// <exception cref="LabException">A daemon did not come up; its log says why.</exception>
    internal static LabDaemons Start(IReadOnlyDictionary<string, string>? settings = null)
    {
        foreach (string host in LabNetwork.Hosts)
        {
            StartOne(host, settings ?? new Dictionary<string, string>());
        }

        LabDaemons daemons = Attach();
        JoinToken token = daemons["a"].CreateJoinToken(new CreateJoinTokenRequest { Host = "b", ValidSeconds = 120 });
        daemons["b"].JoinCluster(
            new JoinClusterRequest { Token = token.Token, Address = $"{LabNetwork.AddressOf("a")}:7843" });
        Wait.Until(
            () => LabNetwork.Hosts.All(host =>
                daemons[host].ListHosts(new ListHostsRequest()).Hosts
                    .Count(known => known.Reachable || known.Self) >= 2),
            _patience, "both daemons to see each other");
        return daemons;
    }

    /// <summary>Speaks to daemons that run already.</summary>
    internal static LabDaemons Attach()
    {
        LabDaemons daemons = new();
        foreach (string host in LabNetwork.Hosts)
        {
            GrpcChannel channel = Open(SocketOf(host));
            Control.ControlClient client = new(channel);
            daemons._channels[host] = channel;
            daemons._clients[host] = client;
            try
            {
                Wait.Until(() => Answers(client, host), _patience, $"the daemon of host {host}");
            }
            catch (LabException e)
            {
                daemons.Dispose();
                throw new LabException($"{e.Message}\n{TailOfLog(host)}", e);
            }
        }

        return daemons;
    }

    public void Dispose()
    {
        foreach (GrpcChannel channel in _channels.Values)
        {
            channel.Dispose();
        }
    }

    /// <summary>Starts a host's daemon again, after its end.</summary>
    internal void Restart(string host)
    {
        // A signal has been sent, which is not yet the end: till then the old one holds what the new one needs.
        Wait.Until(
            () => !LabProcesses.IsAlive(ProcessOf(host)), _patience, $"the end of the daemon of host {host}");
        Launch(host);
        Wait.Until(() => Answers(this[host], host), _patience, $"the daemon of host {host}");
    }

    /// <summary>Where a host's daemon keeps a directory for each guest's QEMU.</summary>
    internal static string GuestsOf(string host) => Path.Combine(FolderOf(host), "run", "guests");

    /// <summary>What a host's daemon writes.</summary>
    internal static string LogOf(string host) => LabDirectory.InRun($"godwitd-{host}.log");

    /// <summary>The last lines a host's daemon wrote.</summary>
    internal static string TailOfLog(string host)
    {
        string log = LogOf(host);
        return File.Exists(log) ? string.Join('\n', File.ReadLines(log).TakeLast(15)) : "(it wrote no log)";
    }

    /// <summary>The id of a host's daemon process.</summary>
    internal static int ProcessOf(string host) =>
        int.Parse(
            File.ReadAllText(Path.Combine(FolderOf(host), "pid")), System.Globalization.CultureInfo.InvariantCulture);

    private static string FolderOf(string host) => LabDirectory.InRun(host);

    private static void StartOne(string host, IReadOnlyDictionary<string, string> settings)
    {
        string folder = FolderOf(host);
        string state = Path.Combine(LabDirectory.Disks, host);
        foreach (string path in new[] { folder, Path.Combine(folder, "config"), Path.Combine(folder, "run"), state })
        {
            Directory.CreateDirectory(path);
        }

        JsonObject config = new()
        {
            ["hostName"] = host,
            ["address"] = LabNetwork.AddressOf(host),
            ["pkiDirectory"] = Path.Combine(folder, "pki"),
            ["stateDirectory"] = state,
            ["runtimeDirectory"] = Path.Combine(folder, "run"),
        };
        foreach ((string key, string value) in settings)
        {
            config[key] = value;
        }

        File.WriteAllText(Path.Combine(folder, "config", "godwitd.json"), config.ToJsonString());
        Launch(host);
    }

    private static void Launch(string host)
    {
        string folder = FolderOf(host);
        int id = LabProcesses.Start(
            host, $"godwitd-{host}", [Program("Daemon", "godwitd"), "--config", Path.Combine(folder, "config")]);
        File.WriteAllText(Path.Combine(folder, "pid"), $"{id}");
    }

    /// <summary>A program of this build: beside the lab's own, or where <c>GODWIT_BIN</c> says.</summary>
    internal static string Program(string project, string name)
    {
        DirectoryInfo own = new(AppContext.BaseDirectory.TrimEnd('/'));
        string[] candidates =
        [
            Path.Combine(Environment.GetEnvironmentVariable("GODWIT_BIN") ?? "/nonexistent", name),
            Path.Combine(own.Parent!.Parent!.FullName, project, own.Name, name),
            Path.Combine(own.FullName, name),
        ];
        return candidates.FirstOrDefault(File.Exists)
            ?? throw new LabException(
                $"There is no {name} beside this build ({candidates[1]}): build the whole solution.");
    }

    private static bool Answers(Control.ControlClient client, string host)
    {
        if (!LabProcesses.IsAlive(ProcessOf(host)))
        {
            throw new LabException($"The daemon of host {host} ended.");
        }

        try
        {
            client.GetVersion(new GetVersionRequest());
            return true;
        }
        catch (RpcException e) when (e.StatusCode is StatusCode.Unavailable or StatusCode.Internal)
        {
            return false;
        }
    }

    private static GrpcChannel Open(string path)
    {
        SocketsHttpHandler handler = new()
        {
            ConnectCallback = async (_, token) =>
            {
                Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), token);
                    return new NetworkStream(socket, ownsSocket: true);
                }
                catch
                {
                    socket.Dispose();
                    throw;
                }
            },
        };
        return GrpcChannel.ForAddress(
            "http://localhost", new GrpcChannelOptions { HttpHandler = handler, DisposeHttpClient = true });
    }
}
