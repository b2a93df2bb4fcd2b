using Godwit.Api;
using Godwit.Api.V1;

namespace Godwit.Daemon.Tests;

/// <summary>What the doctor says of a host that lacks something.</summary>
public sealed class DoctorTests : IDisposable
{
    /// <summary>Shell commands that take a library away from the daemon that is started behind them.</summary>
    internal static string Hide(string library) => $$"""
        for library in $(ldconfig -p | awk '/{{library}}\.so\.1 / { print $NF }'); do
          mount --bind /dev/null "$(readlink -f "$library")"
        done
        """;

    private readonly string _directory = Directory.CreateTempSubdirectory("gw-doctor-").FullName;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private static async Task<Finding> FindAsync(DaemonProcess daemon, string subject) =>
        (await daemon.Control.DiagnoseAsync(new DiagnoseRequest(), cancellationToken: Token)).Findings
            .First(finding => finding.Subject == subject);

    [Theory]
    [InlineData("lz4", "liblz4-1")]
    [InlineData("zstd", "libzstd1")]
    public async Task A_missing_coder_is_an_error_because_nothing_moves_without_it(string coder, string package)
    {
        var settings = TestHost.SettingsFor("a", _directory);
        await using (var daemon = await DaemonProcess.StartAsync(settings, _directory, Hide($"lib{coder}")))
        {
            var finding = await FindAsync(daemon, coder);
            Assert.Equal((Severity.Error, $"{coder}-missing"), (finding.Severity, finding.Code));
            Assert.Contains($"apt install {package}", finding.Remedy, StringComparison.Ordinal);
            Assert.Equal(ExitCodes.Refused, ErrorCatalog.Find($"{coder}-missing")?.ExitCode);
            Assert.Equal(0, await daemon.EndAsync(Processes.Terminate));
        }

        await using var whole = await DaemonProcess.StartAsync(settings, _directory);
        Assert.Equal(Severity.Ok, (await FindAsync(whole, coder)).Severity);
    }
}
