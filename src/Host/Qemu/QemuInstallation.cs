using System.Diagnostics;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>A QEMU binary of this host and what it can do.</summary>
public sealed partial class QemuInstallation
{
    /// <summary>The oldest version Godwit drives.</summary>
    public static readonly Version VersionMin = new(7, 2);
    private static readonly Version TracksEmulatedWritesSince = new(9, 0);
    private static readonly Version HoldsSwitchoverSince = new(8, 1);

    private static readonly string[] Names = ["qemu-system-x86_64", "qemu-kvm"];
    private static readonly string[] Directories =
        ["/usr/bin", "/usr/local/bin", "/usr/libexec", "/bin", "/opt/qemu/bin"];

    private QemuInstallation(string path, Version version, IReadOnlyList<string> machines)
    {
        Path = path;
        Version = version;
        Machines = machines;
    }

    public string Path { get; }

    public Version Version { get; }

    /// <summary>Every machine type by its full name, aliases left out.</summary>
    public IReadOnlyList<string> Machines { get; }

    /// <summary>Finds QEMU and asks for its version and machine types.</summary>
    /// <param name="path">The binary, or null to look in the usual places.</param>
    /// <exception cref="GodwitException"><c>qemu-missing</c>, <c>qemu-too-old</c> or <c>qemu-start</c>.</exception>
    public static async Task<QemuInstallation> FindAsync(string? path, CancellationToken cancellationToken)
    {
        string binary = path is not null
            ? File.Exists(path) ? path : throw Missing($"There is no QEMU at {path}.")
            : Candidates().FirstOrDefault(File.Exists) ?? throw Missing(
                $"No {Names[0]} in {string.Join(", ", Directories)} or the search path.");
        string versionText = await RunAsync(binary, ["--version"], cancellationToken);
        Match match = VersionPattern().Match(versionText);
        if (!match.Success || !Version.TryParse(match.Groups[1].Value, out Version? version))
        {
            throw new GodwitException("qemu-start", $"{binary} does not tell its version: {FirstLine(versionText)}",
                "Configure the path of a QEMU 7.2 or later for x86-64.");
        }
        if (version < VersionMin)
        {
            throw new GodwitException("qemu-too-old",
                $"{binary} is QEMU {version}; Godwit needs {VersionMin} or later.",
                "Install a newer one, on Debian 12 from bookworm-backports.");
        }
        string machines = await RunAsync(binary, ["-machine", "help"], cancellationToken);
        return new QemuInstallation(binary, version, [.. machines.Split('\n')
            .Skip(1)
            .Where(line => !line.Contains("(alias of", StringComparison.Ordinal))
            .Select(line => line.Split(' ', 2)[0])
            .Where(name => name.Length > 0)]);
    }

    /// <summary>The newest versioned machine type of a family, for example <c>pc-i440fx</c>, or null.</summary>
    public string? NewestMachine(string family) => Machines
        .Where(name => MachineVersion(name, family) is not null)
        .MaxBy(name => MachineVersion(name, family));

    /// <summary>
    /// True if this QEMU's dirty bitmap misses writes: before 9.0 an emulated processor went on writing, unseen, to
    /// pages just taken off the bitmap. Stock migration loses them (QEMU commit "physmem: Fix migration dirty bitmap
    /// coherency with TCG memory access", March 2024).
    /// </summary>
    public static bool MissesWrites(Version version, string accelerator) =>
        accelerator == "tcg" && version < TracksEmulatedWritesSince;

    /// <summary>True if this QEMU waits for the other side's word before it stops the guest (switchover-ack).</summary>
    public static bool HoldsSwitchover(Version version) => version >= HoldsSwitchoverSince;

    /// <summary>Why this QEMU on this host cannot run the contract; empty if it can.</summary>
    /// <param name="contract">What is to run here.</param>
    /// <param name="featuresMissing">
    /// What a guest that runs already does without (<see cref="QemuMachine.FeaturesMissingAsync"/>): it must not lose
    /// any more. Null for a guest that has never run.
    /// </param>
    /// <param name="cancellationToken">Ends the questions to QEMU.</param>
    public async Task<IReadOnlyList<ContractRefusal>> CheckAsync(
        MachineContract contract, IReadOnlyCollection<string>? featuresMissing, CancellationToken cancellationToken)
    {
        List<ContractRefusal> refusals = [];
        // An alias is refused as such; that this QEMU does not list it would be a second reason for the same thing.
        if (!Machines.Contains(contract.Machine) && MachineContractRules.HasVersion(contract.Machine))
        {
            refusals.Add(new("machine-unknown",
                $"QEMU {Version} of this host has no machine type {contract.Machine}; its newest of the family is " +
                $"{NewestMachine(Family(contract.Machine)) ?? "none"}.",
                "Upgrade QEMU on this host, or create the guest with a machine type that all its hosts have."));
        }
        if (!contract.SharedMemory && MissesWrites(Version, contract.Accelerator))
        {
            refusals.Add(new("emulated-writes",
                $"QEMU {Version} misses writes of emulated processors (accelerator tcg) when it migrates, and private "
                + $"memory cannot be compared afterwards: {contract.Name} could not be moved without damage.",
                $"Use KVM, QEMU {TracksEmulatedWritesSince} or later, or shared memory."));
        }
        if (await CheckProcessorAsync(contract, featuresMissing, cancellationToken) is { } processor)
        {
            refusals.Add(processor);
        }
        return refusals;
    }

    internal static async Task<string> RunAsync(
        string binary, IEnumerable<string> arguments, CancellationToken cancellationToken)
    {
        using Process process = Start(binary, arguments);
        process.StandardInput.Close();
        using CancellationTokenSource deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(TimeSpan.FromSeconds(20));
        try
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(deadline.Token);
            Task<string> error = process.StandardError.ReadToEndAsync(deadline.Token);
            await process.WaitForExitAsync(deadline.Token);
            return process.ExitCode == 0 ? await output : throw new GodwitException("qemu-start",
                $"{binary} {string.Join(' ', arguments)} ends with status {process.ExitCode}: {FirstLine(await error)}",
                "Run it by hand to see what it lacks.");
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw new GodwitException("qemu-start", $"{binary} {string.Join(' ', arguments)} takes more than 20 s.",
                "Look at the load of the host.");
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill();
            }
        }
    }

    private static Process Start(string binary, IEnumerable<string> arguments)
    {
        ProcessStartInfo start = new(binary, arguments)
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        };
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new GodwitException("qemu-start", $"{binary} cannot be run: {e.Message}.",
                "Configure the path of QEMU.", e);
        }
    }

    private static IEnumerable<string> Candidates() =>
        from directory in Directories.Concat((Environment.GetEnvironmentVariable("PATH") ?? "").Split(':'))
        where directory.Length > 0
        from name in Names
        select System.IO.Path.Combine(directory, name);

    private static GodwitException Missing(string message) =>
        new("qemu-missing", message, "Install it (Debian: apt install qemu-system-x86), or configure its path.");

    private static string FirstLine(string text) => text.Trim().Split('\n')[0];

    private static string Family(string machine) =>
        machine.LastIndexOf('-') is > 0 and int dash ? machine[..dash] : machine;

    private static Version? MachineVersion(string name, string family) =>
        name.StartsWith(family + "-", StringComparison.Ordinal)
        && Version.TryParse(name[(family.Length + 1)..], out Version? version) ? version : null;

    [GeneratedRegex(@"version (\d+\.\d+(?:\.\d+)?)")]
    private static partial Regex VersionPattern();

    /// <summary>A child's standard output and input as one stream; the child ends with it.</summary>
    private sealed class StandardStreams(Process process) : Stream
    {
        private readonly Stream _input = process.StandardOutput.BaseStream;
        private readonly Stream _output = process.StandardInput.BaseStream;

        public override bool CanRead => true;
        public override bool CanWrite => true;
        public override bool CanSeek => false;
        public override long Length => throw new NotSupportedException();
        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override int Read(byte[] buffer, int offset, int count) => _input.Read(buffer, offset, count);
        public override void Write(byte[] buffer, int offset, int count) => _output.Write(buffer, offset, count);
        public override async ValueTask WriteAsync(
            ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            await _output.WriteAsync(buffer, cancellationToken);
            await _output.FlushAsync(cancellationToken);
        }
        public override void Flush() => _output.Flush();
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                // A pipe that another thread reads closes only when its writer has gone.
                process.Kill();
                _output.Dispose();
                _input.Dispose();
            }
            base.Dispose(disposing);
        }
    }
}
