using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;

namespace Godwit.Cli.Tests;

/// <summary>The real executable, run as a shell would run it.</summary>
internal sealed partial class Child : IDisposable
{
    public const int Interrupt = 2;
    public const int Terminate = 15;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    private readonly Process _process;
    private readonly StringBuilder _outputSoFar = new();
    private readonly StringBuilder _errorSoFar = new();
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
        _output = ReadAsync(_process.StandardOutput, _outputSoFar);
        _error = ReadAsync(_process.StandardError, _errorSoFar);
    }

    /// <summary>
    /// The executable of the same build; beside the tests it would lack what ASP.NET brings along here.
    /// </summary>
    public static string GodwitPath { get; } = Path.GetFullPath(Path.Combine(
        AppContext.BaseDirectory, "../../Cli", Path.GetFileName(
            Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory)),
        "godwit"));

    public StreamWriter Input => _process.StandardInput;

    /// <summary>What it has written to standard output until now.</summary>
    public string OutputSoFar => TextOf(_outputSoFar);

    /// <summary>What it has written to standard error until now.</summary>
    public string ErrorSoFar => TextOf(_errorSoFar);

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

    private static async Task<string> ReadAsync(StreamReader from, StringBuilder soFar)
    {
        char[] buffer = new char[4096];
        while (await from.ReadAsync(buffer.AsMemory()) is > 0 and var count)
        {
            lock (soFar)
            {
                soFar.Append(buffer, 0, count);
            }
        }

        return TextOf(soFar);
    }

    private static string TextOf(StringBuilder soFar)
    {
        lock (soFar)
        {
            return soFar.ToString();
        }
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
