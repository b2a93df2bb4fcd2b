using System.Collections.Concurrent;
using System.Diagnostics;
using Godwit.Api.V1;
using Grpc.Core;
using Grpc.Net.Client;

namespace Godwit.Daemon.Tests;

/// <summary>A real godwitd in a process of its own, started as an operator starts it; what it prints is kept.</summary>
internal sealed class DaemonProcess : IAsyncDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);
    private readonly Process _process;
    private readonly GrpcChannel _channel;
    private readonly ConcurrentQueue<string> _output = new();
    private readonly ConcurrentQueue<string> _errors = new();

    private DaemonProcess(DaemonSettings settings, Process process)
    {
        Settings = settings;
        _process = process;
        _process.OutputDataReceived += (_, line) => Keep(_output, line.Data);
        _process.ErrorDataReceived += (_, line) => Keep(_errors, line.Data);
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        _channel = TestHost.OpenSocket(settings.ControlSocket);
        Control = new Control.ControlClient(_channel);
    }

    public static string Program { get; } = Path.GetFullPath(Path.Combine(
        AppContext.BaseDirectory, "..", "..", "Daemon",
        Path.GetFileName(Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory)), "godwitd"));

    public DaemonSettings Settings { get; }
    public Control.ControlClient Control { get; }
    public int Id => _process.Id;

    /// <summary>Standard output so far: the log.</summary>
    public string Output => string.Join('\n', _output);

    /// <summary>Standard error so far: why it did not start.</summary>
    public string Errors => string.Join('\n', _errors);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>Starts it; it may be about to fail.</summary>
    /// <param name="settings">Written to <c>godwitd.json</c> in the directory.</param>
    /// <param name="directory">Its --config.</param>
    /// <param name="prepare">
    /// Shell commands that run first, in a mount namespace of the daemon's own: what they mount is seen by nobody else
    /// and goes with it. Needs root.
    /// </param>
    /// <param name="ownNetwork">With them in a network namespace of its own.</param>
    /// <param name="environment">Set for the daemon besides what the test has.</param>
    public static DaemonProcess Spawn(
        DaemonSettings settings, string directory, string? prepare = null, bool ownNetwork = false,
        params IEnumerable<(string Name, string Value)> environment)
    {
        File.WriteAllText(Path.Combine(directory, "godwitd.json"), settings.Describe());
        return Spawn(settings, [Program, "--config", directory], prepare, ownNetwork, environment);
    }

    public static DaemonProcess Spawn(
        DaemonSettings settings, string[] command, string? prepare = null, bool ownNetwork = false,
        params IEnumerable<(string Name, string Value)> environment)
    {
        if (prepare is not null)
        {
            Assert.SkipUnless(Environment.IsPrivilegedProcess, "needs root for namespaces of its own");
            string[] namespaces = ownNetwork ? ["--mount", "--net"] : ["--mount"];
            command = ["unshare", .. namespaces, "bash", "-euc", $"{prepare}\nexec \"$@\"", "bash", .. command];
        }

        var start = new ProcessStartInfo(command[0], command[1..])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };
        foreach (var inherited in start.Environment.Keys
            .Where(name => name.StartsWith("GODWIT_", StringComparison.Ordinal)).ToList())
        {
            start.Environment.Remove(inherited);
        }

        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        return new DaemonProcess(settings, Process.Start(start)!);
    }

    /// <summary>Starts it and returns when it answers.</summary>
    public static async Task<DaemonProcess> StartAsync(
        DaemonSettings settings, string directory, string? prepare = null,
        params IEnumerable<(string Name, string Value)> environment)
    {
        var daemon = Spawn(settings, directory, prepare, environment: environment);
        try
        {
            await daemon.AnswersAsync();
            return daemon;
        }
        catch
        {
            await daemon.DisposeAsync();
            throw;
        }
    }

    /// <summary>Returns when it answers on its socket.</summary>
    public Task AnswersAsync() => Wait.UntilAsync(
        async () =>
        {
            Assert.False(_process.HasExited, $"godwitd has ended: {Errors}");
            try
            {
                await Control.GetVersionAsync(new GetVersionRequest(), cancellationToken: Token);
                return true;
            }
            catch (RpcException)
            {
                return false;
            }
        },
        "godwitd answers");

    /// <summary>Waits until the text is in its log, which it writes in its own time.</summary>
    public Task SaysAsync(string text) =>
        Wait.UntilAsync(() => Output.Contains(text, StringComparison.Ordinal), $"godwitd says '{text}'");

    /// <summary>Waits for its end and gives its exit status.</summary>
    public async Task<int> EndAsync()
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(Token);
        patience.CancelAfter(Patience);
        try
        {
            await _process.WaitForExitAsync(patience.Token);
        }
        catch (OperationCanceledException) when (!Token.IsCancellationRequested)
        {
            Assert.Fail($"godwitd has not ended within {Patience.TotalSeconds} s.\n{Output}\n{Errors}");
        }

        return _process.ExitCode;
    }

    /// <summary>Sends a signal and gives the exit status; 128 and the signal's number if that was the end.</summary>
    public Task<int> EndAsync(int signal)
    {
        Processes.Signal(Id, signal);
        return EndAsync();
    }

    /// <summary>It does not start: it ends with this status, and says why with this code and a remedy.</summary>
    /// <returns>What it said.</returns>
    public async Task<string> RefusedAsync(int status, string code)
    {
        var ended = await EndAsync();
        Assert.True(ended == status, $"exit status {ended}: {Errors}\n{Output}");
        Assert.StartsWith($"godwitd: error {code}: ", Errors, StringComparison.Ordinal);
        // The remedy is the indented line at the end.
        Assert.Contains("\n  ", Errors, StringComparison.Ordinal);
        Assert.Equal(status, Godwit.Api.ErrorCatalog.Find(code)?.ExitCode);
        return Errors;
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            await _process.WaitForExitAsync(CancellationToken.None);
        }

        _channel.Dispose();
        _process.Dispose();
    }

    private static void Keep(ConcurrentQueue<string> lines, string? line)
    {
        if (line is not null)
        {
            lines.Enqueue(line);
        }
    }
}
