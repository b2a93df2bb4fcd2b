using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Godwit.Cli.Tests;

/// <summary>The real executable, run as a shell would run it.</summary>
internal sealed partial class Child : IDisposable
{
    public const int Interrupt = 2;
    public const int Terminate = 15;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly Task<string> _output;
    private readonly Task<string> _error;

    public Child(string program, IEnumerable<string> arguments, IEnumerable<(string, string)>? environment = null)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment.Remove("GODWIT_SOCKET");
        start.Environment["TERM"] = "dumb";
        foreach (var (name, value) in environment ?? [])
        {
            start.Environment[name] = value;
        }

        _process = Process.Start(start)!;
        _output = _process.StandardOutput.ReadToEndAsync();
        _error = _process.StandardError.ReadToEndAsync();
    }

    /// <summary>
    /// The executable of the same build; beside the tests it would lack what ASP.NET brings along here.
    /// </summary>
    public static string GodwitPath { get; } = Path.GetFullPath(Path.Combine(
        AppContext.BaseDirectory, "../../Cli", Path.GetFileName(
            Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory)),
        "godwit"));

    public StreamWriter Input => _process.StandardInput;

    public static Child Godwit(string socket, params string[] arguments) =>
        new(GodwitPath, ["--socket", socket, .. arguments]);

    public void Signal(int signal) => Assert.Equal(0, Kill(_process.Id, signal));

    public async Task<(int Code, string Output, string Error)> EndAsync()
    {
        try
        {
            using var limit = new CancellationTokenSource(Patience);
            await _process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            _process.Kill(entireProcessTree: true);
            throw new TimeoutException($"still running; standard error so far: {await _error}");
        }

        return (_process.ExitCode, await _output, await _error);
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
        }

        _process.Dispose();
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
