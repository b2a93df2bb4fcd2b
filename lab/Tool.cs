using System.Diagnostics;
using System.Text;

namespace Godwit.Lab;

/// <summary>Runs the programs of the machine (ip, tc, apt-get, mke2fs) to their end; returns what they print.</summary>
internal static class Tool
{
    // Only what hangs is ended: on a machine that is busy a file system of a gigabyte takes minutes to make.
    private static readonly TimeSpan _limit = TimeSpan.FromMinutes(10);

    /// <summary>Runs a program; its standard output is the result.</summary>
    /// <exception cref="LabException">It is missing, ended with another status than 0, or took too long.</exception>
    internal static string Run(string program, params string[] arguments) =>
        Run(program, arguments, null, _limit, null);

    internal static string Run(
        string program, IEnumerable<string> arguments, string? directory, TimeSpan limit,
        IReadOnlyDictionary<string, string>? environment)
    {
        (int status, string output, string errors) = Try(program, arguments, directory, limit, environment);
        return status == 0
            ? output
            : throw new LabException(
                $"{program} {string.Join(' ', arguments)} ended with status {status}: {(errors + output).Trim()}");
    }

    /// <summary>Runs a program whose failure is an answer too.</summary>
    internal static (int Status, string Output, string Errors) Try(string program, params string[] arguments) =>
        Try(program, arguments, null, _limit, null);

    internal static bool Exists(string program) =>
        program.StartsWith('/')
            ? File.Exists(program)
            : SearchPath.Any(directory => File.Exists(Path.Combine(directory, program)));

    // Root's shells on Debian often lack the sbin folders.
    internal static IReadOnlyList<string> SearchPath { get; } =
    [
        .. (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Concat(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]).Distinct(),
    ];

    internal static (int Status, string Output, string Errors) Try(
        string program, IEnumerable<string> arguments, string? directory, TimeSpan limit,
        IReadOnlyDictionary<string, string>? environment)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = directory ?? "/",
        };
        start.Environment["PATH"] = string.Join(':', SearchPath);
        start.Environment["LC_ALL"] = "C";
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }

        using Process process = Start(start);
        process.StandardInput.Close();
        StringBuilder errors = new();
        process.ErrorDataReceived += (_, line) => errors.AppendLine(line.Data);
        process.BeginErrorReadLine();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(limit))
        {
            process.Kill(entireProcessTree: true);
            throw new LabException(
                $"{program} {string.Join(' ', arguments)} did not end within {limit.TotalSeconds:0} s.");
        }

        process.WaitForExit();
        return (process.ExitCode, output.Result, errors.ToString());
    }

    private static Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new LabException($"{start.FileName} cannot be started: {e.Message}. Is its package installed?", e);
        }
    }
}
