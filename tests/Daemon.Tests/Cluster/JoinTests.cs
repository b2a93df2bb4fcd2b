using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using Godwit.Api.V1;
using Godwit.Host.Trust;
using Google.Protobuf;
using Grpc.Core;
using JoinToken = Godwit.Host.Trust.JoinToken;
using static Godwit.Daemon.Tests.Refusals;

namespace Godwit.Daemon.Tests.Cluster;

public sealed class JoinTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static async Task<IEnumerable<string>> ReachableAsync(TestHost host) =>
        (await host.Control.ListHostsAsync(new ListHostsRequest(), cancellationToken: Token)).Hosts
            .Where(one => one.Reachable).Select(one => one.Name);

    [Fact]
    public async Task Three_hosts_join_and_each_reaches_the_others_without_a_restart()
    {
        await using var a = await TestHost.StartAsync("a");
        await using var b = await TestHost.StartAsync("b");
        await using var c = await TestHost.StartAsync("c");
        var joined = await b.JoinAsync(await a.TokenForAsync());
        Assert.False(joined.HoldsCa);
        await c.JoinAsync(await a.TokenForAsync("c"));
        foreach (var host in new[] { a, b, c })
        {
            await Wait.UntilAsync(
                async () => (await ReachableAsync(host)).SequenceEqual(["a", "b", "c"]),
                $"{host.Settings.HostName} reaches every host");
        }

        Assert.False(File.Exists(Path.Combine(b.Settings.PkiDirectory, "ca.key")));
        await RefusedAsync("authority-absent", () => b.TokenForAsync());
    }

    [Fact]
    public async Task A_member_that_was_away_learns_of_the_new_one_at_its_start()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await b.StopAsync();
        await using var c = await TestHost.StartAsync("c");
        await c.JoinAsync(await a.TokenForAsync());
        await b.StartAsync();
        await Wait.UntilAsync(
            async () => (await ReachableAsync(b)).SequenceEqual(["a", "b", "c"]), "b has learnt of c");
    }

    [Fact]
    public async Task A_token_admits_one_host_once()
    {
        await using var a = await TestHost.StartAsync("a");
        await using var b = await TestHost.StartAsync("b");
        await using var c = await TestHost.StartAsync("c");
        var token = await a.TokenForAsync();
        await b.JoinAsync(token);
        await RefusedAsync("token-used", () => c.JoinAsync(token));
        Assert.Contains(a.Log, line => line.StartsWith("202 ", StringComparison.Ordinal)
            && line.Contains("token-used", StringComparison.Ordinal));
        Assert.Equal(["c"], await ReachableAsync(c));
    }

    [Fact]
    public async Task A_late_token_is_refused()
    {
        var clock = new SettableClock();
        await using var a = await TestHost.StartAsync("a", clock: clock);
        await using var b = await TestHost.StartAsync("b", clock: clock);
        var token = await a.TokenForAsync(seconds: 60);
        clock.Advance(TimeSpan.FromSeconds(61));
        await RefusedAsync("token-expired", () => b.JoinAsync(token));
        Assert.Contains(a.Log, line => line.Contains("token-expired", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_token_for_another_host_a_made_up_one_and_a_damaged_one_are_refused()
    {
        await using var a = await TestHost.StartAsync("a");
        await using var b = await TestHost.StartAsync("b");
        var forC = await a.TokenForAsync("c");
        await RefusedAsync("token-host-mismatch", () => b.JoinAsync(forC));
        var parsed = JoinToken.Parse(await a.TokenForAsync());
        var madeUp = JoinToken.Create(parsed.Host, parsed.Address, parsed.AuthoritySha256);
        await RefusedAsync("token-unknown", () => b.JoinAsync(madeUp.ToString()));
        await RefusedAsync("token-malformed", () => b.JoinAsync(parsed.ToString()[..^5]));
        await RefusedAsync("token-lifetime", () => a.TokenForAsync(seconds: 3600 * 24 * 30));
    }

    // Goal: the secret is shown to nobody but a member of the cluster that the token names.
    // Method: the token leads to the host of another cluster, which must never see the secret.
    [Fact]
    public async Task The_secret_is_not_shown_to_another_cluster()
    {
        await using var a = await TestHost.StartAsync("a");
        await using var b = await TestHost.StartAsync("b");
        await using var impostor = await TestHost.StartAsync("x");
        var token = await a.TokenForAsync();
        await RefusedAsync("authority-mismatch", () => b.JoinAsync(token, impostor.Settings.PeerAddress));
        Assert.DoesNotContain(impostor.Log, line => line.Contains("Join", StringComparison.Ordinal));
        // The token is still good: nobody has used it.
        await b.JoinAsync(token);
    }

    [Fact]
    public async Task A_member_that_does_not_hold_the_ca_key_cannot_take_a_join()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var c = await TestHost.StartAsync("c");
        var token = JoinToken.Parse(await a.TokenForAsync());
        await RefusedAsync("certificate-host-mismatch", () => c.JoinAsync(token.ToString(), b.Settings.PeerAddress));
        await RefusedAsync("authority-absent", () =>
            c.JoinAsync((token with { Host = "b" }).ToString(), b.Settings.PeerAddress));
    }

    [Fact]
    public async Task A_name_is_not_given_twice_but_may_be_replaced_on_purpose()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var again = await TestHost.StartAsync("b");
        var any = await a.TokenForAsync();
        await RefusedAsync("host-exists", () => again.JoinAsync(any));
        await using var itself = await TestHost.StartAsync("a");
        await RefusedAsync("host-exists", () => itself.JoinAsync(any));
        await b.StopAsync();
        await again.JoinAsync(await a.TokenForAsync("b"));
        await Wait.UntilAsync(
            async () => (await ReachableAsync(a)).SequenceEqual(["a", "b"]), "a reaches the new b");
    }

    [Fact]
    public async Task A_member_renews_its_certificate_and_joins_no_second_cluster()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var x = await TestHost.StartAsync("x");
        var foreign = await x.TokenForAsync();
        await RefusedAsync("cluster-joined", () => b.JoinAsync(foreign));
        var own = await a.TokenForAsync("a");
        await RefusedAsync("cluster-joined", () => a.JoinAsync(own));
        var before = (await b.Control.GetHostAsync(new HostRequest(), cancellationToken: Token)).CertificateSha256;
        // Both ports show the one that is in force at that moment, without a restart.
        Assert.Equal([before, before], await ShownAsync(b));
        var after = (await b.JoinAsync(await a.TokenForAsync("b"))).CertificateSha256;
        Assert.NotEqual(before, after);
        Assert.Equal([after, after], await ShownAsync(b));
        await Wait.UntilAsync(async () => (await ReachableAsync(b)).SequenceEqual(["a", "b"]), "b reaches a");
    }

    private static async Task<List<string>> ShownAsync(TestHost host)
    {
        var shown = new List<string>();
        foreach (var port in new[] { host.Settings.PeerPort, host.Settings.LanePort })
        {
            using var client = new TcpClient();
            await client.ConnectAsync("127.0.0.1", port, Token);
            await using var tls = new SslStream(client.GetStream());
            var credentials = host.Credentials();
#pragma warning disable CA5359 // The test looks at what the server shows.
            credentials.RemoteCertificateValidationCallback = (_, certificate, _, _) =>
            {
                shown.Add(HostIdentity.Fingerprint((X509Certificate2)certificate!));
                return true;
            };
#pragma warning restore CA5359
            await tls.AuthenticateAsClientAsync(credentials, Token);
        }

        return shown;
    }

    [Fact]
    public async Task A_peer_without_certificate_may_ask_for_the_authority_only()
    {
        await using var a = await TestHost.StartAsync("a");
        var nobody = a.PeerClient();
        Assert.NotEmpty((await nobody.GetAuthorityAsync(new Empty(), cancellationToken: Token)).Certificate);
        var hello = new HelloRequest { Host = "b" };
        await RefusedAsync("certificate-missing", async () => await nobody.HelloAsync(hello, cancellationToken: Token));
        await RefusedAsync("certificate-missing", async () => await nobody.CheckIncomingAsync(
            new CheckIncomingRequest { Spec = new GuestSpec() }, cancellationToken: Token));
        Assert.Contains(a.Log, line => line.StartsWith("200 ", StringComparison.Ordinal)
            && line.Contains("certificate-missing", StringComparison.Ordinal));
    }

    // Goal: a connection is judged rightly although its first calls come all at once.
    // Method: many fresh connections, each with many first calls.
    [Fact]
    public async Task The_first_calls_of_a_connection_may_come_together()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var credentials = b.Credentials();
        for (var connection = 0; connection < 30; connection++)
        {
            var peer = a.PeerClient(credentials);
            await Task.WhenAll(Enumerable.Range(0, 30).Select(async _ =>
                await peer.HelloAsync(new HelloRequest { Host = "b" }, cancellationToken: Token)));
        }
    }

    [Fact]
    public async Task A_foreign_certificate_is_refused_and_logged()
    {
        await using var a = await TestHost.StartAsync("a");
        await using var x = await TestHost.StartAsync("x");
        var stranger = a.PeerClient(x.Credentials());
        var message = await RefusedAsync("certificate-foreign", async () => await stranger.HelloAsync(
            new HelloRequest { Host = "x" }, cancellationToken: Token));
        Assert.Contains("CN=x", message, StringComparison.Ordinal);
        Assert.Contains(a.Log, line => line.Contains("certificate-foreign", StringComparison.Ordinal));
    }

    [Fact]
    public async Task An_expired_certificate_is_refused()
    {
        var clock = new SettableClock();
        await using var a = await TestHost.StartAsync("a", clock: clock);
        var late = a.PeerClient(a.Credentials());
        clock.Advance(TimeSpan.FromDays(366));
        await RefusedAsync("certificate-expired", async () => await late.HelloAsync(
            new HelloRequest { Host = "a" }, cancellationToken: Token));
    }

    [Fact]
    public async Task A_member_cannot_speak_for_another()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var peer = a.PeerClient(b.Credentials());
        await peer.HelloAsync(new HelloRequest { Host = "b" }, cancellationToken: Token);
        await RefusedAsync("certificate-host-mismatch", async () => await peer.HelloAsync(
            new HelloRequest { Host = "a" }, cancellationToken: Token));
        await RefusedAsync("certificate-host-mismatch", async () => await peer.PrepareIncomingAsync(
            new PrepareIncomingRequest { From = "c", Spec = new GuestSpec() }, cancellationToken: Token));
        // Members are announced by the host that holds the CA key, and by nobody else.
        await RefusedAsync("authority-absent", async () => await peer.AnnounceHostAsync(
            new HostInfo { Name = "evil", Address = "10.6.6.6:1" }, cancellationToken: Token));
    }

    [Fact]
    public async Task Control_is_local_and_peer_is_remote()
    {
        await using var a = await TestHost.StartAsync("a");
        var remote = new Control.ControlClient(a.TlsChannel(a.Credentials()));
        await RefusedAsync("control-local-only", async () => await remote.ListGuestsAsync(
            new ListGuestsRequest(), cancellationToken: Token));
        using var channel = TestHost.OpenSocket(a.Settings.ControlSocket);
        await RefusedAsync("peer-remote-only", async () => await new Peer.PeerClient(channel).HelloAsync(
            new HelloRequest { Host = "a" }, cancellationToken: Token));
        Assert.Equal(
            UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite,
            File.GetUnixFileMode(a.Settings.ControlSocket));
    }

    [Fact]
    public async Task Plaintext_is_cut_off_and_logged()
    {
        await using var a = await TestHost.StartAsync("a");
        using var client = new TcpClient();
        await client.ConnectAsync("127.0.0.1", a.Settings.PeerPort, Token);
        await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Token);
        var answer = new byte[64];
        var read = 0;
        try
        {
            read = await client.GetStream().ReadAsync(answer, Token);
        }
        catch (IOException)
        {
            // A reset says the same.
        }

        Assert.Equal(0, read);
        await Wait.UntilAsync(
            () => a.Log.Any(line => line.StartsWith("201 ", StringComparison.Ordinal)
                && line.Contains("plaintext-refused", StringComparison.Ordinal)), "the plaintext is in the log");
    }

    [Fact]
    public async Task Nothing_older_than_tls_1_3_is_spoken()
    {
        await using var a = await TestHost.StartAsync("a");
        foreach (var port in new[] { a.Settings.PeerPort, a.Settings.LanePort })
        {
            using var client = new TcpClient();
            await client.ConnectAsync("127.0.0.1", port, Token);
            await using var tls = new SslStream(client.GetStream());
            var options = new SslClientAuthenticationOptions
            {
                TargetHost = "a",
#pragma warning disable CA5398, CA5359 // The old version is offered to see it refused.
                EnabledSslProtocols = SslProtocols.Tls12,
                RemoteCertificateValidationCallback = (_, _, _, _) => true,
#pragma warning restore CA5398, CA5359
            };
            await Assert.ThrowsAnyAsync<Exception>(() => tls.AuthenticateAsClientAsync(options, Token));
        }
    }

    [Fact]
    public async Task A_joiner_with_a_bad_name_or_request_is_refused()
    {
        await using var a = await TestHost.StartAsync("a");
        var secret = JoinToken.Parse(await a.TokenForAsync()).Secret;
        var request = new JoinRequest { Secret = secret, Name = "../etc", Address = "10.0.0.1:1" };
        await RefusedAsync("join-malformed", async () =>
            await a.PeerClient().JoinAsync(request, cancellationToken: Token));
        request.Name = "b";
        request.CertificateRequest = ByteString.CopyFromUtf8("junk");
        await RefusedAsync("certificate-request", async () =>
            await a.PeerClient().JoinAsync(request, cancellationToken: Token));
    }
}
