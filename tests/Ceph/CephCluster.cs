using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Godwit.Host.Storage;

namespace Godwit.Tests.Ceph;

/// <summary>A Ceph of one node in memory, for all tests of an assembly that want one.</summary>
[CollectionDefinition(nameof(CephCluster))]
public sealed class CephCluster : IAsyncLifetime, ICollectionFixture<CephCluster>
{
    private const string AccessKey = "GODWITTESTACCESSKEY0";
    private const string SecretKey = "secret/of+the+test/that+nobody+else+has00";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);
    private static int _ports;
    private readonly List<(string Path, Process Process)> _mounts = [];
    private string _files = "";
    private string _place = "";
    private Process? _cluster;
    private int _buckets;

    public string Folder { get; } = Directory.CreateTempSubdirectory("gw-ceph-").FullName;

    /// <summary>Of its object gateway.</summary>
    public string Endpoint { get; private set; } = "";

    /// <summary>Keys for it.</summary>
    public string CredentialsFile => Path.Combine(Folder, "credentials");

    /// <summary>A port below those that the kernel gives to connections: one could take it before it is used.</summary>
    public static int FreePort()
    {
        const int First = 30_000;
        const int Count = 2_700;
        while (true)
        {
            int port = First + (((Environment.ProcessId * 60) + Interlocked.Increment(ref _ports)) % Count);
            using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
                return port;
            }
            catch (SocketException)
            {
                // Taken: the next one.
            }
        }
    }

    public static void WriteCredentials(string path, string accessKey, string secretKey)
    {
        File.Delete(path);
        using var file = new FileStream(path, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        file.Write(System.Text.Encoding.ASCII.GetBytes(
            $"[default]\naws_access_key_id = {accessKey}\naws_secret_access_key = {secretKey}\n"));
    }

    public async ValueTask InitializeAsync()
    {
        _files = await FetchAsync();
        WriteCredentials(CredentialsFile, AccessKey, SecretKey);
        // Its daemons find each other by what they ask of the monitor, and not every order of that is to their liking:
        // one that did not come up is started once more.
        if (!await StartAsync("first"))
        {
            TestContext.Current.SendDiagnosticMessage("Ceph did not come up and is started again: {0}", Log);
            Assert.True(await StartAsync("second"), $"Ceph did not come up twice: {Log}");
        }
    }

    /// <summary>A new bucket.</summary>
    public async Task<string> MakeBucketAsync()
    {
        string bucket = $"godwit-{Interlocked.Increment(ref _buckets)}";
        using var client = new Amazon.S3.AmazonS3Client(
            new Amazon.Runtime.BasicAWSCredentials(AccessKey, SecretKey),
            new Amazon.S3.AmazonS3Config { ServiceURL = Endpoint, ForcePathStyle = true });
        await client.PutBucketAsync(bucket);
        return bucket;
    }

    /// <summary>Mounts its file system once more, as another host does.</summary>
    public (string Path, Process Client) Mount()
    {
        string path = Directory.CreateDirectory(Path.Combine(Folder, $"mount{_mounts.Count}")).FullName;
        string libraries = Path.Combine(_files, "usr/lib/x86_64-linux-gnu");
        var start = new ProcessStartInfo(Path.Combine(_files, "usr/bin/ceph-fuse"), [
            "-f", "-c", Path.Combine(_place, "ceph.conf"), "-n", $"client.m{_mounts.Count}", path])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        };
        start.Environment["LD_LIBRARY_PATH"] =
            $"{libraries}:{libraries}/ceph:{Path.Combine(_files, "lib/x86_64-linux-gnu")}";
        Process client = Process.Start(start)!;
        _mounts.Add((path, client));
        client.OutputDataReceived += (_, _) => { };
        client.BeginOutputReadLine();
        client.ErrorDataReceived += (_, _) => { };
        client.BeginErrorReadLine();
        long began = Stopwatch.GetTimestamp();
        while (!File.ReadAllText("/proc/mounts").Contains($" {path} fuse", StringComparison.Ordinal))
        {
            Assert.False(client.HasExited, $"ceph-fuse has ended: {Log}");
            Assert.True(Stopwatch.GetElapsedTime(began) < Patience, $"ceph-fuse does not mount: {Log}");
            Thread.Sleep(50);
        }

        return (path, client);
    }

    public async ValueTask DisposeAsync()
    {
        foreach ((string path, Process client) in _mounts)
        {
            using Process unmount = Process.Start("umount", ["-l", path]);
            await unmount.WaitForExitAsync();
            client.Kill();
            await client.WaitForExitAsync();
            client.Dispose();
        }

        await EndAsync();
        Directory.Delete(Folder, recursive: true);
    }

    private async Task<bool> StartAsync(string name)
    {
        _place = Directory.CreateDirectory(Path.Combine(Folder, name)).FullName;
        int gateway = FreePort();
        Endpoint = $"http://127.0.0.1:{gateway}";
        var start = new ProcessStartInfo("bash", [
            Path.Combine(AppContext.BaseDirectory, "cluster.sh"), _place, $"{FreePort()}", $"{gateway}",
            $"{AccessKey}:{SecretKey}", _files])
        {
            // It ends with its input: also when this process is killed.
            RedirectStandardInput = true, RedirectStandardOutput = true,
        };
        _cluster = Process.Start(start)!;
        Task<string?> said = _cluster.StandardOutput.ReadLineAsync();
        if (await Task.WhenAny(said, Task.Delay(Patience)) == said && await said == "ready")
        {
            return true;
        }

        await EndAsync();
        return false;
    }

    // A script that waits for one of Ceph's tools does not see that its input has ended.
    private async Task EndAsync()
    {
        if (_cluster is null)
        {
            return;
        }

        _cluster.StandardInput.Close();
        try
        {
            await _cluster.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(10));
        }
        catch (TimeoutException)
        {
            _cluster.Kill(entireProcessTree: true);
            await _cluster.WaitForExitAsync();
        }

        _cluster.Dispose();
        _cluster = null;
    }

    // Once on a machine.
    private static async Task<string> FetchAsync()
    {
        string lab = Path.Combine(AppContext.BaseDirectory, "..", "..", "Lab", "release", "godwit-lab");
        using Process fetch = Process.Start(new ProcessStartInfo(lab, ["ceph"])
        {
            RedirectStandardOutput = true, RedirectStandardError = true,
        })!;
        Task<string> words = fetch.StandardError.ReadToEndAsync();
        string folder = (await fetch.StandardOutput.ReadToEndAsync()).Trim();
        await fetch.WaitForExitAsync();
        Assert.True(fetch.ExitCode == 0, $"no Ceph here: {await words}");
        return folder;
    }

    private string Log
    {
        get
        {
            string path = Path.Combine(_place, "processes.log");
            return File.Exists(path) ? File.ReadAllText(path) : "it has said nothing";
        }
    }
}
