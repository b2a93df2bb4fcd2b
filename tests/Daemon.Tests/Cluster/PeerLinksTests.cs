using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Grpc.Core;

namespace Godwit.Daemon.Tests.Cluster;

/// <summary>Connections to members that go away and come back.</summary>
public sealed class PeerLinksTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static async Task<bool> ReachesAsync(TestHost host, string peer) => (await host.Control.GetHostAsync(
        new HostRequest { Name = peer }, cancellationToken: Token)).Reachable;

    // An older godwitd answers so to a request that it does not know: it is there, and not "unreachable".
    [Fact]
    public void A_request_that_the_peer_does_not_know_is_a_matter_of_versions()
    {
        var unknown = new RpcException(new Status(StatusCode.Unimplemented, "Service is unimplemented."));
        var explained = PeerLinks.Explain(unknown, "host 'b' at 10.0.0.2:7843", refused: null);
        Assert.Equal("wire-version", explained.Code);
        Assert.Contains("host 'b'", explained.Message, StringComparison.Ordinal);
    }

    // Goal: a host that is back is reachable from the first call on, however often it was called while it was away.
    // Method: each failed call would let gRPC's own connector wait longer before it tries again.
    [Fact]
    public async Task A_host_that_has_just_come_back_answers_the_first_call()
    {
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        Assert.True(await ReachesAsync(a, "b"));
        await b.StopAsync();
        for (var attempt = 0; attempt < 5; attempt++)
        {
            Assert.False(await ReachesAsync(a, "b"));
            await Task.Delay(100, Token);
        }

        await b.StartAsync();
        Assert.True(await ReachesAsync(a, "b"));
    }
}
