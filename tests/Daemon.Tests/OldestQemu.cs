using System.Diagnostics;

namespace Godwit.Daemon.Tests;

/// <summary>Debian 12's own QEMU 7.2, the oldest that Godwit drives, beside whatever is installed.</summary>
internal static class OldestQemu
{
    /// <summary>Path of its program; the test is skipped where apt does not have it.</summary>
    public static async Task<string> PathAsync()
    {
        var token = TestContext.Current.CancellationToken;
        var lab = Path.Combine(AppContext.BaseDirectory, "..", "..", "Lab", "release", "godwit-lab");
        using var fetch = Process.Start(new ProcessStartInfo(lab, ["qemu72"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        var words = fetch.StandardError.ReadToEndAsync(token);
        var path = (await fetch.StandardOutput.ReadToEndAsync(token)).Trim();
        await fetch.WaitForExitAsync(token);
        Assert.SkipUnless(fetch.ExitCode == 0, $"no QEMU 7.2 here: {await words}");
        return path;
    }
}
