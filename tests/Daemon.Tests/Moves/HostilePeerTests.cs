using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Godwit.Api.V1;
using Godwit.Daemon.Tests.Guests;
using Godwit.Host.Registry;
using Godwit.Migration.Wire;

namespace Godwit.Daemon.Tests.Moves;

/// <summary>Bytes that nobody should send, from strangers and members; the daemon refuses them and serves on.</summary>
public sealed class HostilePeerTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static byte[] Noise(int count)
    {
        var bytes = new byte[count];
        new Random(count).NextBytes(bytes);
        return bytes;
    }

    /// <summary>The host serves its operator and its peers, and nothing failed that nobody expected.</summary>
    private static async Task IsUnharmedAsync(TestHost host)
    {
        await host.Control.GetVersionAsync(new GetVersionRequest(), cancellationToken: Token);
        var authority = await host.PeerClient().GetAuthorityAsync(new Empty(), cancellationToken: Token);
        Assert.NotEmpty(authority.Certificate);
        Assert.DoesNotContain(host.Log, line => line.Contains("Exception", StringComparison.Ordinal)
            || line.Contains("nhandled", StringComparison.Ordinal));
    }

    /// <summary>Sends and takes what comes until the host closes.</summary>
    private static async Task<byte[]> SendAsync(Stream stream, byte[] bytes)
    {
        var answer = new MemoryStream();
        try
        {
            await stream.WriteAsync(bytes, Token);
            await stream.CopyToAsync(answer, Token).WaitAsync(TimeSpan.FromSeconds(60), Token);
        }
        catch (IOException)
        {
            // Reset in the middle is a refusal, too.
        }

        return answer.ToArray();
    }

    public static TheoryData<string> Strangers => ["noise", "plaintext", "huge record", "malformed hello"];

    [Theory]
    [MemberData(nameof(Strangers))]
    public async Task A_stranger_is_cut_off_on_either_port(string kind)
    {
        byte[] bytes = kind switch
        {
            "noise" => [0xff, .. Noise(10_000)],
            "plaintext" => Encoding.ASCII.GetBytes("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            // TLS records have at most 16 KiB and a little.
            "huge record" => [0x16, 0x03, 0x01, 0xff, 0xff, .. Noise(0xffff)],
            // A handshake record whose greeting claims 16 MiB.
            _ => [0x16, 0x03, 0x01, 0x01, 0x00, 0x01, 0xff, 0xff, 0xff, .. Noise(252)],
        };
        await using var a = await TestHost.StartAsync("a");
        foreach (var port in new[] { a.Settings.PeerPort, a.Settings.LanePort })
        {
            using var client = new TcpClient();
            await client.ConnectAsync("127.0.0.1", port, Token);
            // An alert at most.
            Assert.InRange((await SendAsync(client.GetStream(), bytes)).Length, 0, 64);
        }

        await Wait.UntilAsync(
            () => a.Log.Any(line => line.StartsWith("3002 Connection from 127.0.0.1:", StringComparison.Ordinal)),
            "the refusal at the lane port is in the log");
        await IsUnharmedAsync(a);
    }

    [Fact]
    public async Task A_stranger_with_TLS_gets_no_lane_and_no_more_than_the_authority()
    {
        await using var a = await TestHost.StartAsync("a");
        foreach (var port in new[] { a.Settings.PeerPort, a.Settings.LanePort })
        {
            await using var stream = await ConnectAsync(port, new SslClientAuthenticationOptions());
            await SendAsync(stream, Noise(10_000));
        }

        await Wait.UntilAsync(
            () => a.Log.Any(line => line.StartsWith("3002 ", StringComparison.Ordinal)
                && line.Contains("certificate-missing", StringComparison.Ordinal)),
            "the lane's refusal is in the log");
        // More than a call may hold: refused by its length, before a certificate is asked for.
        var huge = new JoinRequest { Secret = new string('x', 3 << 20) };
        var refused = await Assert.ThrowsAsync<Grpc.Core.RpcException>(
            async () => await a.PeerClient().JoinAsync(huge, cancellationToken: Token));
        Assert.Equal(Grpc.Core.StatusCode.ResourceExhausted, refused.StatusCode);
        await IsUnharmedAsync(a);
    }

    // Goal: a lane carries guests: whoever is no member, or none any more, does not get through its handshake.
    [Theory]
    [InlineData("certificate-foreign")]
    [InlineData("certificate-expired")]
    public async Task A_lane_with_a_bad_certificate_is_refused_and_logged(string code)
    {
        var clock = new SettableClock();
        await using var a = await TestHost.StartAsync("a", clock: clock);
        await using var x = await TestHost.StartAsync("x", clock: clock);
        if (code == "certificate-expired")
        {
            await x.JoinAsync(await a.TokenForAsync());
            clock.Advance(TimeSpan.FromDays(366));
        }

        await using var stream = await ConnectAsync(a.Settings.LanePort, x.Credentials());
        Assert.Empty(await SendAsync(stream, new byte[LanePreamble.Size]));
        await Wait.UntilAsync(
            () => a.Log.Any(line => line.StartsWith("3002 ", StringComparison.Ordinal)
                && line.Contains($"{code}: the certificate CN=x ", StringComparison.Ordinal)), $"{code} is in the log");
    }

    // Goal: a member reaches its own moves and nobody else's, whatever it has learnt of them.
    // Method: host b announces a guest to a; host c knows the ticket and the id, and tries what takes one of them.
    [Fact]
    public async Task A_member_touches_no_move_of_another()
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        await using var c = await TestHost.StartAsync("c");
        await c.JoinAsync(await a.TokenForAsync());
        var ticket = (await PrepareAsync(a, b, program)).Ticket.ToByteArray();
        Assert.Equal("the ticket was given to host 'b', not to 'c'", await RefusedLaneAsync(a, c, WireNow, 0, ticket));
        var stranger = a.PeerClient(c.Credentials());
        await Refusals.RefusedAsync("certificate-host-mismatch", async () => await stranger.AbandonIncomingAsync(
            new AbandonIncomingRequest { MigrationId = "hostile", Reason = "because" }, cancellationToken: Token));
        Assert.Equal(GuestState.Incoming, Assert.Single((await ListAsync(a)).Guests).State);
        await Refusals.RefusedAsync("certificate-host-mismatch", () => RecordAsync(stranger, "hostile", from: "b"));

        await a.PeerClient(b.Credentials()).AbandonIncomingAsync(
            new AbandonIncomingRequest { MigrationId = "hostile", Reason = "over" }, cancellationToken: Token);
        await Wait.UntilAsync(async () => (await ListAsync(a)).Guests.Count == 0, "the arrival is over");
        await Wait.UntilAsync(
            async () => (await a.Control.ListMigrationsAsync(
                new ListMigrationsRequest(), cancellationToken: Token)).Migrations.Count == 1, "there is a report");
        await Refusals.RefusedAsync("certificate-host-mismatch", () => RecordAsync(stranger, "hostile", from: "c"));
        await RecordAsync(stranger, "its own", from: "c");
        Assert.Contains(a.Log, line => line.Contains("the ticket was given to host 'b'", StringComparison.Ordinal));
        Assert.Equal(3, a.Log.Count(line => line.StartsWith("111 ", StringComparison.Ordinal)
            && line.Contains("certificate-host-mismatch", StringComparison.Ordinal)));
    }

    // Goal: a fence ends the copy of a guest that came from the very host that sends it, and no other guest.
    [Fact]
    public async Task A_member_cannot_fence_a_guest_that_it_did_not_send()
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var guest = await a.Control.CreateGuestAsync(
            new CreateGuestRequest { Spec = program.Spec(), Start = true }, cancellationToken: Token);
        await a.PeerClient(b.Credentials()).SettleMigrationAsync(
            new SettleMigrationRequest
            {
                MigrationId = "hostile", GuestUuid = guest.Spec.Uuid, Epoch = 99, Fence = true,
            },
            cancellationToken: Token);
        var after = Assert.Single((await ListAsync(a)).Guests);
        Assert.Equal((GuestState.Running, "a", guest.ProcessId), (after.State, after.Host, after.ProcessId));
        await a.Control.StopGuestAsync(
            new StopGuestRequest { Name = "counting", Force = true }, cancellationToken: Token);
    }

    // Goal: a member says whom it gave a guest to, and says nothing about the guests of others.
    [Theory]
    [InlineData("c", "c", 5)]
    [InlineData("b", "c", 99)]
    public async Task A_member_is_believed_about_its_own_guests_alone(string owner, string ownerThen, long epochThen)
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var guest = await a.Control.CreateGuestAsync(
            new CreateGuestRequest { Spec = program.Spec() }, cancellationToken: Token);
        var uuid = Guid.Parse(guest.Spec.Uuid);
        await a.StopAsync();
        await using (var registry = SqliteRegistry.Open(a.Settings.RegistryFile))
        {
            var record = Assert.Single(await registry.ListGuestsAsync(Token));
            var elsewhere = record with { Host = owner, Epoch = 5 };
            Assert.True(await registry.TryUpdateGuestAsync(elsewhere, record.Epoch, Token));
        }

        await a.StartAsync();
        await RecordAsync(a.PeerClient(b.Credentials()), "hostile", "b", "a", uuid);
        await RecordAsync(a.PeerClient(b.Credentials()), "hearsay", "b", "c", uuid);
        Assert.Equal(ownerThen, Assert.Single((await ListAsync(a)).Guests).Host);
        await a.StopAsync();
        await using var after = SqliteRegistry.Open(a.Settings.RegistryFile);
        Assert.Equal(epochThen, Assert.Single(await after.ListGuestsAsync(Token)).Epoch);
    }

    private static async Task RecordAsync(
        Peer.PeerClient peer, string id, string from, string to = "a", Guid? guest = null) =>
        await peer.RecordMigrationAsync(
            new RecordMigrationRequest
            {
                Migration = new Api.V1.Migration { Id = id, From = from, To = to, Guest = "counting" },
                GuestUuid = (guest ?? Guid.NewGuid()).ToString(),
                Epoch = 99,
            },
            cancellationToken: Token);

    // Goal: a member that takes a lane and lets it wait holds its reservation for so long and no longer.
    [Theory]
    [InlineData("one lane of two")]
    [InlineData("silence on all lanes")]
    [InlineData("a control message byte by byte")]
    public async Task A_member_that_stalls_or_trickles_is_dropped_by_a_deadline(string kind)
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var ticket = (await PrepareAsync(a, b, program)).Ticket.ToByteArray();
        await using var control = await OpenLaneAsync(a, b, 0, ticket);
        await using var pages = kind == "one lane of two" ? null : await OpenLaneAsync(a, b, 1, ticket);
        byte[] slowly = [0x00, 0x10, 0x00, 0x00, (byte)FrameType.Prologue, 0, 0, 0, .. new byte[1000]];
        var sent = 0;
        await Wait.UntilAsync(
            async () =>
            {
                if (kind.EndsWith("byte by byte", StringComparison.Ordinal) && sent < slowly.Length)
                {
                    try
                    {
                        await control.WriteAsync(slowly.AsMemory(sent++, 1), Token);
                    }
                    catch (IOException)
                    {
                        sent = slowly.Length;
                    }
                }

                return (await ListAsync(a)).Guests.Count == 0;
            },
            "the arrival is over");
        await EndIsLoggedAsync(a, "silent for 15 s");
        Assert.Empty(Directory.EnumerateFiles(a.Settings.RuntimeDirectory, "qemu.pid", SearchOption.AllDirectories));
    }

    // The guest is forgotten before it is told why.
    private static Task EndIsLoggedAsync(TestHost host, string why) => Wait.UntilAsync(
        () => host.Log.Any(line => line.StartsWith("403 ", StringComparison.Ordinal)
            && line.Contains(why, StringComparison.Ordinal)), $"the log says that the move ended: {why}");

    private static async Task<SslStream> ConnectAsync(int port, SslClientAuthenticationOptions tls)
    {
        var client = new TcpClient();
        await client.ConnectAsync("127.0.0.1", port, Token);
        var stream = new SslStream(client.GetStream());
        tls.TargetHost = "a";
#pragma warning disable CA5359 // The tests look at what the server does with the client.
        tls.RemoteCertificateValidationCallback = (_, _, _, _) => true;
#pragma warning restore CA5359
        await stream.AuthenticateAsClientAsync(tls, Token);
        return stream;
    }

    // Goal: a member whose daemon is broken or taken over ends its own move and nothing else.
    // Method: the test is host b: it announces a guest, gets a ticket, and sends on the lanes what breaks the protocol.
    [Theory]
    [InlineData("huge length on the control lane", "stream-format")]
    [InlineData("huge length on a page lane", "stream-format")]
    [InlineData("noise on the control lane", "stream-format")]
    [InlineData("noise on a page lane", "stream-format")]
    [InlineData("a prologue of noise", "stream-format")]
    [InlineData("a commit out of turn", "stream-format")]
    [InlineData("pages on the control lane", "stream-format")]
    [InlineData("a frame cut short", "link-lost")]
    [InlineData("nothing at all", "link-lost")]
    public async Task A_member_that_breaks_the_protocol_ends_its_own_move(string kind, string code)
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var ticket = (await PrepareAsync(a, b, program)).Ticket.ToByteArray();
        Assert.Equal(GuestState.Incoming, Assert.Single((await ListAsync(a)).Guests).State);
        await using var control = await OpenLaneAsync(a, b, 0, ticket);
        await using var pages = await OpenLaneAsync(a, b, 1, ticket);
        byte[] Frame(FrameType type, byte[] body)
        {
            var frame = new byte[FrameHeader.Size + body.Length];
            new FrameHeader(type, body.Length).Write(frame);
            body.CopyTo(frame, FrameHeader.Size);
            return frame;
        }

        var (lane, bytes) = kind switch
        {
            "huge length on the control lane" => (control, [0xff, 0xff, 0xff, 0x7f, (byte)FrameType.Prologue, 0, 0, 0]),
            "huge length on a page lane" => (pages, [0xff, 0xff, 0xff, 0xff, (byte)FrameType.PageBatch, 0, 0, 0]),
            "noise on the control lane" => (control, Noise(50_000)),
            "noise on a page lane" => (pages, Noise(50_000)),
            "a prologue of noise" => (control, Frame(FrameType.Prologue, Noise(5_000))),
            "a commit out of turn" => (control, Frame(FrameType.Commit, [])),
            "pages on the control lane" => (control, Frame(FrameType.PageBatch, Noise(5_000))),
            "a frame cut short" => (control, Frame(FrameType.Prologue, Noise(5_000))[..1_000]),
            _ => (control, Array.Empty<byte>()),
        };
        await lane.WriteAsync(bytes, Token);
        if (lane == pages)
        {
            // Pages wait for their blocks; a lane that ends is looked at in any case.
            await control.WriteAsync(Frame(FrameType.Prologue, Noise(5_000)), Token);
        }

        await lane.ShutdownAsync();
        await Wait.UntilAsync(async () => (await ListAsync(a)).Guests.Count == 0, "the arrival is over");
        await EndIsLoggedAsync(a, code);
        Assert.Empty(Directory.EnumerateFiles(a.Settings.RuntimeDirectory, "qemu.pid", SearchOption.AllDirectories));
        await IsUnharmedAsync(a);
    }

    [Fact]
    public async Task A_lane_without_a_ticket_of_its_own_is_refused_with_the_reason()
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var ticket = (await PrepareAsync(a, b, program)).Ticket.ToByteArray();
        Assert.Contains("no transfer waits for this ticket",
            await RefusedLaneAsync(a, b, WireNow, 0, RandomNumberGenerator.GetBytes(ticket.Length)),
            StringComparison.Ordinal);
        Assert.Contains("was agreed, not 99", await RefusedLaneAsync(a, b, 99, 0, ticket), StringComparison.Ordinal);
        Assert.StartsWith("lane 9 is not free", await RefusedLaneAsync(a, b, WireNow, 9, ticket));
        await using var control = await OpenLaneAsync(a, b, 0, ticket);
        Assert.StartsWith("lane 0 is not free", await RefusedLaneAsync(a, b, WireNow, 0, ticket));
        await IsUnharmedAsync(a);
    }

    [Fact]
    public async Task Versions_that_do_not_meet_and_absurd_requests_are_refused_before_anything_starts()
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var message = await Refusals.RefusedAsync("wire-version", () => PrepareAsync(a, b, program, request =>
            (request.WireVersionMin, request.WireVersionMax) = (98, 99)));
        Assert.Contains("the source 98 to 99", message, StringComparison.Ordinal);
        await Refusals.RefusedAsync("contract-invalid", () => PrepareAsync(
            a, b, program, request => request.Lanes = 1000));
        await Refusals.RefusedAsync("contract-invalid", () => PrepareAsync(
            a, b, program, request => request.Spec.MemoryBytes = ulong.MaxValue));
        await Refusals.RefusedAsync("memory-short", () => PrepareAsync(
            a, b, program, request => request.Spec.MemoryBytes = 1ul << 42));
        // What a peer sends becomes QEMU's command line, and the name of a directory.
        await Refusals.RefusedAsync("guest-name", () => PrepareAsync(
            a, b, program, request => request.Spec.Name = "x,process=/../../y"));
        await Refusals.RefusedAsync("cpu-not-movable", () => PrepareAsync(
            a, b, program, request => request.Spec.CpuModel = "qemu64 -drive file=/etc/shadow"));
        await Refusals.RefusedAsync("accelerator-missing", () => PrepareAsync(
            a, b, program, request => request.Spec.Accelerator = "qtest"));
        await Refusals.RefusedAsync("machine-not-movable", () => PrepareAsync(
            a, b, program, request => request.Spec.Machine = "none,usb=on"));
        Assert.Empty((await ListAsync(a)).Guests);
        await IsUnharmedAsync(a);
    }

    // Goal: what is asked before a move begins is weighed like the move itself, and begins nothing.
    [Fact]
    public async Task Questions_for_contents_are_weighed_first()
    {
        const int NamesMax = 4096;
        const int NameBytes = 16;
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        async Task<byte[]> AskAsync(int bytes, Action<GuestSpec>? adjust = null)
        {
            var request = new FindContentsRequest
            {
                Spec = SpecOf(program), Policy = new MigrationPolicy(),
                Names = Google.Protobuf.ByteString.CopyFrom(new byte[bytes]),
            };
            adjust?.Invoke(request.Spec);
            var answer = await a.PeerClient(b.Credentials()).FindContentsAsync(request, cancellationToken: Token);
            return answer.Found.ToByteArray();
        }

        Assert.Empty(await AskAsync(0));
        Assert.Equal(new byte[NamesMax], await AskAsync(NamesMax * NameBytes));
        await Refusals.RefusedAsync("contract-invalid", () => AskAsync(NameBytes - 1));
        await Refusals.RefusedAsync("contract-invalid", () => AskAsync((NamesMax + 1) * NameBytes));
        await Refusals.RefusedAsync("guest-name", () => AskAsync(NameBytes, spec => spec.Name = "x,process=/../../y"));
        Assert.Empty((await ListAsync(a)).Guests);
        await IsUnharmedAsync(a);
    }

    // Goal: two neighbours speak the newest version that both know.
    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(1, 2, 2)]
    [InlineData(2, 98, 4)]
    public async Task The_highest_common_version_is_agreed(uint lowest, uint highest, uint agreed)
    {
        using var program = new CountingGuest("counting");
        var (a, b) = await TestHost.PairAsync();
        await using var first = a;
        await using var second = b;
        var prepared = await PrepareAsync(a, b, program, request =>
            (request.WireVersionMin, request.WireVersionMax) = (lowest, highest));
        Assert.Equal(agreed, prepared.WireVersion);
        Assert.Contains(
            $"version {agreed} was agreed",
            await RefusedLaneAsync(a, b, 99, 0, prepared.Ticket.ToByteArray()), StringComparison.Ordinal);
    }

    private static uint WireNow => Godwit.Host.Transfers.WireVersions.Max;

    private static async Task<ListGuestsResponse> ListAsync(TestHost host) =>
        await host.Control.ListGuestsAsync(new ListGuestsRequest(), cancellationToken: Token);

    private static async Task<PrepareIncomingResponse> PrepareAsync(
        TestHost a, TestHost b, CountingGuest program, Action<PrepareIncomingRequest>? adjust = null)
    {
        var request = new PrepareIncomingRequest
        {
            MigrationId = "hostile",
            Spec = SpecOf(program),
            From = "b",
            Policy = new MigrationPolicy(),
            Lanes = 1,
            WireVersionMin = WireNow,
            WireVersionMax = WireNow,
            Epoch = 1,
        };
        adjust?.Invoke(request);
        return await a.PeerClient(b.Credentials()).PrepareIncomingAsync(request, cancellationToken: Token);
    }

    private static GuestSpec SpecOf(CountingGuest program)
    {
        var spec = program.Spec();
        spec.Uuid = Guid.NewGuid().ToString();
        spec.Machine = "pc-q35-7.2";
        spec.CpuModel = "Nehalem-v1";
        spec.Accelerator = "tcg";
        spec.Cpus = 1;
        spec.Disks[0].Format = "raw";
        return spec;
    }

    private static async Task<SslStream> PresentAsync(TestHost a, TestHost b, uint version, int lane, byte[] ticket)
    {
        var stream = await ConnectAsync(a.Settings.LanePort, b.Credentials());
        var preamble = new byte[LanePreamble.Size];
        LanePreamble.Write(preamble, (int)version, lane, ticket);
        await stream.WriteAsync(preamble, Token);
        return stream;
    }

    private static async Task<(FrameType Type, string Text)> AnswerAsync(SslStream stream)
    {
        var header = new byte[FrameHeader.Size];
        await stream.ReadExactlyAsync(header, Token);
        var answer = FrameHeader.Read(header, 4096);
        var body = new byte[answer.BodyLength];
        await stream.ReadExactlyAsync(body, Token);
        return (answer.Type, Encoding.UTF8.GetString(body));
    }

    private static async Task<SslStream> OpenLaneAsync(TestHost a, TestHost b, int lane, byte[] ticket)
    {
        var stream = await PresentAsync(a, b, WireNow, lane, ticket);
        Assert.Equal((FrameType.LaneAccepted, ""), await AnswerAsync(stream));
        return stream;
    }

    private static async Task<string> RefusedLaneAsync(TestHost a, TestHost b, uint version, int lane, byte[] ticket)
    {
        await using var stream = await PresentAsync(a, b, version, lane, ticket);
        var (type, text) = await AnswerAsync(stream);
        Assert.Equal(FrameType.LaneRefused, type);
        return text;
    }
}
