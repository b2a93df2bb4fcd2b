using System.Net.Security;
using System.Net.Sockets;
using Godwit.Api.V1;
using static Godwit.Daemon.Tests.Refusals;

namespace Godwit.Daemon.Tests.Cluster;

/// <summary>Hosts that are taken out of the cluster.</summary>
public sealed class RemovalTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static async Task<IReadOnlyList<string>> RemoveAsync(TestHost at, string name) =>
        (await at.Control.RemoveHostAsync(new HostRequest { Name = name }, cancellationToken: Token)).NotTold;

    private static async Task<IEnumerable<HostInfo>> HostsAsync(TestHost host) =>
        (await host.Control.ListHostsAsync(new ListHostsRequest(), cancellationToken: Token)).Hosts;

    private static async Task<string[]> NamesAsync(TestHost host) =>
        [.. (await HostsAsync(host)).Select(one => one.Name)];

    private static async Task HelloAsync(Peer.PeerClient peer, string name) =>
        await peer.HelloAsync(new HelloRequest { Host = name }, cancellationToken: Token);

    // Goal: a removed host gets nowhere, on a new connection or an old one, by any certificate it ever had.
    [Fact]
    public async Task A_removed_host_is_refused_by_every_member_from_then_on()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var c = await TestHost.StartAsync("c");
        await c.JoinAsync(await a.TokenForAsync("c"));
        var older = b.Credentials();
        await b.JoinAsync(await a.TokenForAsync("b"));
        await Wait.UntilAsync(
            async () => (await HostsAsync(b)).Count(host => host.Reachable) == 3, "b is connected to both");
        var onOldConnection = c.PeerClient(b.Credentials());
        await HelloAsync(onOldConnection, "b");

        Assert.Empty(await RemoveAsync(a, "b"));
        Assert.Equal(["a", "c"], await NamesAsync(a));
        Assert.Equal(["a", "c"], await NamesAsync(c));
        var message = await RefusedAsync("certificate-revoked", () => HelloAsync(onOldConnection, "b"));
        Assert.Contains("'b' was removed from the cluster on 20", message, StringComparison.Ordinal);
        foreach (var host in new[] { a, c })
        {
            await RefusedAsync("certificate-revoked", () => HelloAsync(host.PeerClient(b.Credentials()), "b"));
            await RefusedAsync("certificate-revoked", () => HelloAsync(host.PeerClient(older), "b"));
            await LaneIsClosedAsync(host, b.Credentials());
        }

        // It learns why from those it calls.
        await Wait.UntilAsync(
            async () => (await HostsAsync(b)).Where(host => !host.Self)
                .All(host => host.Detail.StartsWith("certificate-revoked: ", StringComparison.Ordinal)),
            "b learns why");

        // Not until the next start only.
        await c.StopAsync();
        await c.StartAsync();
        await RefusedAsync("certificate-revoked", () => HelloAsync(c.PeerClient(b.Credentials()), "b"));
        await HelloAsync(a.PeerClient(c.Credentials()), "c");
    }

    private static async Task LaneIsClosedAsync(TestHost host, SslClientAuthenticationOptions credentials)
    {
        using var client = new TcpClient();
        await client.ConnectAsync("127.0.0.1", host.Settings.LanePort, Token);
        await using var tls = new SslStream(client.GetStream());
#pragma warning disable CA5359 // The test looks at what the server does with the client.
        credentials.RemoteCertificateValidationCallback = (_, _, _, _) => true;
#pragma warning restore CA5359
        await tls.AuthenticateAsClientAsync(credentials, Token);
        // In TLS 1.3 the client has done its part before the server looks at its certificate.
        int read;
        try
        {
            read = await tls.ReadAsync(new byte[1], Token);
        }
        catch (IOException)
        {
            read = 0;
        }

        Assert.Equal(0, read);
        await Wait.UntilAsync(
            () => host.Log.Any(line => line.StartsWith("3002 ", StringComparison.Ordinal)
                && line.Contains("certificate-revoked", StringComparison.Ordinal)),
            "the lane's refusal is in the log");
    }

    [Fact]
    public async Task A_removed_host_can_join_again_and_its_old_certificates_stay_refused()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var old = b.Credentials();
        var unused = await a.TokenForAsync("b");
        await RemoveAsync(a, "b");
        await RefusedAsync("token-unknown", () => b.JoinAsync(unused));
        await b.JoinAsync(await a.TokenForAsync("b"));
        foreach (var host in new[] { a, b })
        {
            await Wait.UntilAsync(
                async () => (await HostsAsync(host)).Where(one => one.Reachable).Select(one => one.Name)
                    .SequenceEqual(["a", "b"]),
                $"{host.Settings.HostName} reaches both");
        }

        await RefusedAsync("certificate-revoked", () => HelloAsync(a.PeerClient(old), "b"));
        // Nor does the next greeting, which tells of the removal once more, undo the admission.
        Assert.Equal(["a", "b"], await NamesAsync(b));
    }

    // Goal: a member that could not be told is named, and hears of it by itself.
    // Method: it can call, but not be called: it joined with an address at which nobody listens.
    [Fact]
    public async Task A_member_that_was_not_reached_is_named_and_hears_of_it_soon()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var c = await TestHost.StartAsync(
            "c", settings => settings with { Address = "127.0.0.99" }, new HurriedClock());
        await c.JoinAsync(await a.TokenForAsync("c"));
        Assert.Equal(["c"], await RemoveAsync(a, "b"));
        await Wait.UntilAsync(
            () => c.Log.Any(line => line.StartsWith("210 Host b was removed", StringComparison.Ordinal)),
            "c has heard of it");
        await RefusedAsync("certificate-revoked", () => HelloAsync(c.PeerClient(b.Credentials()), "b"));
    }

    [Fact]
    public async Task Only_the_host_with_the_ca_key_removes_and_never_itself()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var message = await RefusedAsync("authority-absent", () => RemoveAsync(b, "a"));
        Assert.Contains("'b' does not hold the cluster's CA key", message, StringComparison.Ordinal);
        await RefusedAsync("host-holds-ca", () => RemoveAsync(a, "a"));
        Assert.Contains("'d'", await RefusedAsync("host-unknown", () => RemoveAsync(a, "d")), StringComparison.Ordinal);
        var peer = a.PeerClient(b.Credentials());
        await RefusedAsync("authority-absent", async () => await peer.AnnounceRemovalAsync(
            new Revocation { Host = "a", IssuedBeforeUnixMs = long.MaxValue }, cancellationToken: Token));
        Assert.Equal(["a", "b"], await NamesAsync(a));
    }
}
