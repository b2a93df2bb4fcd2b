using System.Net.Sockets;
using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Inventories;
using Godwit.Daemon.Moves;
using Godwit.Daemon.Parcels;
using Grpc.Core;
using VersionInfo = Godwit.Api.V1.VersionInfo;

namespace Godwit.Daemon.Services;

/// <summary>What the operator of this host asks for, over the Unix socket.</summary>
internal sealed partial class ControlService(
    GuestKeeper guests, DisputedGuests disputes, OutgoingMoves outgoing, IncomingMoves incoming, MoveReports reports,
    Membership membership, HostReports hosts, Doctor doctor, InventoryKeeper inventory, ParcelKeeper parcels,
    Stores stores, LadderBook ladders) : Control.ControlBase
{
    public override Task<VersionInfo> GetVersion(GetVersionRequest request, ServerCallContext context) =>
        Task.FromResult(hosts.Version());

    public override async Task<Guest> CreateGuest(CreateGuestRequest request, ServerCallContext context) =>
        guests.Describe(await guests.CreateAsync(
            request.Spec ?? new GuestSpec(), request.Start, context.CancellationToken));

    public override async Task<Guest> StartGuest(StartGuestRequest request, ServerCallContext context)
    {
        if (!request.Force)
        {
            await disputes.RequireUndisputedAsync(guests.Find(request.Name), context.CancellationToken);
            await parcels.RequireOwnedAsync(guests.Find(request.Name));
        }

        return guests.Describe(await guests.StartAsync(request.Name, context.CancellationToken));
    }

    public override async Task<Guest> StopGuest(StopGuestRequest request, ServerCallContext context)
    {
        var (guest, lost) = await guests.StopAsync(
            request.Name, request.Force, TimeSpan.FromSeconds(request.TimeoutSeconds), context.CancellationToken);
        var answer = guests.Describe(guest);
        answer.Detail = lost.Length > 0 ? lost : answer.Detail;
        return answer;
    }

    public override async Task<Empty> RemoveGuest(GuestRequest request, ServerCallContext context)
    {
        var guest = guests.Find(request.Name);
        await guests.RemoveAsync(request.Name, context.CancellationToken);
        inventory.Removed(guest.Record.Uuid);
        await parcels.ForgetSleepsAsync(guest.Record.Uuid);
        return new Empty();
    }

    public override Task<Guest> GetGuest(GuestRequest request, ServerCallContext context) =>
        Task.FromResult(guests.Describe(guests.Find(request.Name)));

    public override Task<ListGuestsResponse> ListGuests(ListGuestsRequest request, ServerCallContext context)
    {
        var response = new ListGuestsResponse();
        response.Guests.AddRange(
            guests.All.OrderBy(guest => guest.Record.Name, StringComparer.Ordinal).Select(guests.Describe));
        return Task.FromResult(response);
    }

    public override async Task AttachConsole(
        IAsyncStreamReader<ConsoleInput> requestStream, IServerStreamWriter<ConsoleOutput> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken))
        {
            return;
        }

        var guest = guests.Find(requestStream.Current.Name);
        guests.RequireHere(guest);
        if (guest.Machine is not { } machine)
        {
            throw GuestKeeper.State(guest, "does not run", $"Start it first: 'godwit vm start {guest.Record.Name}'.");
        }

        if (!guest.TryTakeConsole())
        {
            throw new Godwit.Migration.GodwitException("console-unavailable",
                $"The console of guest '{guest.Record.Name}' is in use by another session.",
                "One console session at a time is possible; end the other one.");
        }

        try
        {
            await ServeConsoleAsync(guest.Record.Name, machine.ConsoleSocket, requestStream, responseStream, context);
        }
        finally
        {
            guest.ReleaseConsole();
        }
    }

    private static async Task ServeConsoleAsync(
        string name, string path, IAsyncStreamReader<ConsoleInput> requestStream,
        IServerStreamWriter<ConsoleOutput> responseStream, ServerCallContext context)
    {
        using var console = await OpenConsoleAsync(name, path, context.CancellationToken);
        using var over = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        var first = requestStream.Current.Data;
        var typing = Task.Run(async () =>
        {
            await console.SendAsync(first.Memory, over.Token);
            while (await requestStream.MoveNext(over.Token))
            {
                await console.SendAsync(requestStream.Current.Data.Memory, over.Token);
            }
        }, CancellationToken.None);
        var showing = Task.Run(async () =>
        {
            var buffer = new byte[8192];
            while (await console.ReceiveAsync(buffer, over.Token) is > 0 and var count)
            {
                await responseStream.WriteAsync(
                    new ConsoleOutput { Data = Google.Protobuf.ByteString.CopyFrom(buffer, 0, count) }, over.Token);
            }
        }, CancellationToken.None);
        // Either side may end it: the caller by closing, the guest by going away.
        await Task.WhenAny(typing, showing);
        await over.CancelAsync();
        await Task.WhenAll(typing, showing).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    private static async Task<Socket> OpenConsoleAsync(string name, string path, CancellationToken cancellationToken)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken);
            return socket;
        }
        catch (SocketException exception)
        {
            socket.Dispose();
            throw new Godwit.Migration.GodwitException("console-unavailable",
                $"The console of guest '{name}' at {path} does not answer: {exception.Message}.",
                "One console session at a time is possible; end the other one.", exception);
        }
    }

    public override async Task<ListHostsResponse> ListHosts(ListHostsRequest request, ServerCallContext context)
    {
        var response = new ListHostsResponse();
        response.Hosts.AddRange(await hosts.AllAsync(context.CancellationToken));
        return response;
    }

    public override async Task<HostInfo> GetHost(HostRequest request, ServerCallContext context) =>
        request.Name.Length == 0
            ? hosts.Self()
            : await hosts.OfAsync(
                await membership.FindAsync(request.Name, context.CancellationToken), context.CancellationToken);

    public override async Task<JoinToken> CreateJoinToken(CreateJoinTokenRequest request, ServerCallContext context)
    {
        var (token, expires) = await membership.CreateTokenAsync(
            request.Host, TimeSpan.FromSeconds(request.ValidSeconds), context.CancellationToken);
        return new JoinToken { Token = token.ToString(), ExpiresUnixMs = expires.ToUnixTimeMilliseconds() };
    }

    public override async Task<HostInfo> JoinCluster(JoinClusterRequest request, ServerCallContext context)
    {
        await membership.JoinAsync(request.Token, request.Address, context.CancellationToken);
        return hosts.Self();
    }

    public override async Task<RemoveHostResponse> RemoveHost(HostRequest request, ServerCallContext context)
    {
        var response = new RemoveHostResponse();
        // As long as its signature is believed, and only if it will not be.
        response.NotTold.AddRange(await membership.RemoveAsync(
            request.Name, parcels.VouchAsync, context.CancellationToken));
        return response;
    }

    public override async Task<DiagnoseResponse> Diagnose(DiagnoseRequest request, ServerCallContext context)
    {
        var response = new DiagnoseResponse();
        response.Findings.AddRange(await doctor.ExamineAsync(context.CancellationToken));
        return response;
    }
}
