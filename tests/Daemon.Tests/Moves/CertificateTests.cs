using Godwit.Api.V1;
using Godwit.Host.Trust;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>Moves to and from hosts whose certificates are not good; the guest counts on.</summary>
public sealed class CertificateTests
{
    // A certificate of then has expired by now.
    private static readonly TimeProvider Past = CreatePast();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static SettableClock CreatePast()
    {
        var clock = new SettableClock();
        clock.Advance(TimeSpan.FromDays(-400));
        return clock;
    }

    /// <summary>In a cluster that is old enough.</summary>
    private static Task<MovePair> StartAsync() => MovePair.StartAsync(a: settings =>
    {
        CertificateAuthority.Create(
            Directory.CreateDirectory(settings.PkiDirectory).FullName, settings.HostName, Past).Dispose();
        return settings;
    });

    // Goal: whatever is wrong with the destination's certificate is said by its name, before the guest is touched, and
    // is put right by what the remedy says.
    [Fact]
    public async Task A_destination_of_another_cluster_or_out_of_date_is_refused_until_it_has_joined_again()
    {
        await using var pair = await StartAsync();
        await ReplaceAsync(pair, () =>
        {
            // Nothing: it makes a cluster of its own.
        });
        var message = await Refusals.RefusedAsync("certificate-foreign", () => pair.StartMoveAsync(pair.A, "b"));
        Assert.Contains("refuses host 'b'", message, StringComparison.Ordinal);
        Assert.Contains("CN=b does not chain to this cluster's authority", message, StringComparison.Ordinal);
        await pair.IsUntouchedAsync();

        await ReplaceAsync(pair, () =>
        {
            using var authority = CertificateAuthority.Load(pair.A.Settings.PkiDirectory, Past)!;
            HostIdentity.Create(
                Directory.CreateDirectory(pair.B.Settings.PkiDirectory).FullName, authority, "b", "127.0.0.1");
        });
        message = await Refusals.RefusedAsync("certificate-expired", () => pair.StartMoveAsync(pair.A, "b"));
        Assert.Matches(@"refuses host 'b'.*CN=b is valid from \d{4}-.*Z to \d{4}-.*Z; it is \d{4}-", message);
        var finding = (await pair.B.Control.DiagnoseAsync(new DiagnoseRequest(), cancellationToken: Token)).Findings
            .Single(one => one.Subject == "certificate");
        Assert.Equal((Severity.Error, "certificate-expired"), (finding.Severity, finding.Code));
        await pair.IsUntouchedAsync();

        var token = await pair.A.Control.CreateJoinTokenAsync(
            new CreateJoinTokenRequest { Host = "b" }, cancellationToken: Token);
        await pair.B.Control.JoinClusterAsync(new JoinClusterRequest { Token = token.Token }, cancellationToken: Token);
        await pair.MoveAsync(pair.A, "b");
    }

    private static async Task ReplaceAsync(MovePair pair, Action make)
    {
        await pair.B.EndAsync(Processes.Terminate);
        Directory.Delete(pair.B.Settings.PkiDirectory, recursive: true);
        make();
        await pair.RestartBAsync();
    }

    // Goal: the same from the other side: a source with a bad certificate learns that it is its own.
    [Fact]
    public async Task A_source_whose_certificate_is_out_of_date_is_told_so_by_the_destination()
    {
        await using var pair = await StartAsync();
        await pair.MoveAsync(pair.A, "b");
        // Host a holds the CA key and would renew itself; host b cannot.
        await pair.B.EndAsync(Processes.Terminate);
        using (var authority = CertificateAuthority.Load(pair.A.Settings.PkiDirectory, Past)!)
        {
            HostIdentity.Create(pair.B.Settings.PkiDirectory, authority, "b", "127.0.0.1");
        }

        await pair.RestartBAsync();
        var message = await Refusals.RefusedAsync("certificate-expired", () => pair.StartMoveAsync(pair.B, "a"));
        Assert.StartsWith("The certificate CN=b is valid from ", message, StringComparison.Ordinal);
        Assert.Equal(GuestState.Running, (await pair.GuestAtAsync(pair.B))?.State);
    }
}
