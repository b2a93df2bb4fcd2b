using Godwit.Api.V1;
using Godwit.Daemon.Cluster;
using Godwit.Daemon.Guests;
using Godwit.Daemon.Moves;
using Godwit.Daemon.Parcels;
using Godwit.Host.Trust;
using Godwit.Migration;
using Google.Protobuf;
using Grpc.Core;

namespace Godwit.Daemon.Services;

/// <summary>What members ask of this host. <see cref="Gate"/> has checked their certificates.</summary>
internal sealed class PeerService(
    Membership membership, HostReports hosts, ClusterTrust trust, GuestKeeper guests, IncomingMoves incoming,
    HandOvers handOvers, DisputedGuests disputes, MoveReports reports, ParcelKeeper parcels, SleepBook sleeps,
    TimeProvider clock)
    : Peer.PeerBase
{
    public override Task<Authority> GetAuthority(Empty request, ServerCallContext context) =>
        Task.FromResult(new Authority { Certificate = ByteString.CopyFrom(trust.Identity.Authority.RawData) });

    public override Task<JoinResponse> Join(JoinRequest request, ServerCallContext context) =>
        membership.AdmitAsync(request, context.Peer, context.CancellationToken);

    public override async Task<HelloResponse> Hello(HelloRequest request, ServerCallContext context)
    {
        Gate.RequireCaller(context, request.Host);
        var response = new HelloResponse
        {
            Host = hosts.Self(), ClockUnixMs = clock.GetUtcNow().ToUnixTimeMilliseconds(),
        };
        if (membership.HoldsAuthority)
        {
            var members = await membership.ListAsync(context.CancellationToken);
            response.Hosts.AddRange(members.Select(Membership.Describe));
            response.Revocations.AddRange(await membership.ListRevocationsAsync(context.CancellationToken));
        }

        return response;
    }

    public override async Task<CheckIncomingResponse> CheckIncoming(
        CheckIncomingRequest request, ServerCallContext context)
    {
        var response = new CheckIncomingResponse();
        response.Refusals.AddRange(
            await incoming.CheckAsync(request, Gate.CallerOf(context), context.CancellationToken));
        response.PostcopyRefusals.AddRange(incoming.CheckPostcopy());
        response.KnowsPostcopy = true;
        return response;
    }

    public override Task<PrepareIncomingResponse> PrepareIncoming(
        PrepareIncomingRequest request, ServerCallContext context)
    {
        Gate.RequireCaller(context, request.From);
        return incoming.PrepareAsync(request, context.CancellationToken);
    }

    public override async Task<Empty> AbandonIncoming(AbandonIncomingRequest request, ServerCallContext context)
    {
        await incoming.AbandonAsync(request.MigrationId, Gate.CallerOf(context), request.Reason);
        return new Empty();
    }

    public override async Task<Empty> AnnounceRemoval(Revocation request, ServerCallContext context)
    {
        await membership.LearnRevocationsAsync(
            Gate.CallerOf(context), [request], parcels.VouchAsync, context.CancellationToken);
        return new Empty();
    }

    public override async Task<Empty> AnnounceHost(HostInfo request, ServerCallContext context)
    {
        await membership.LearnAsync(Gate.CallerOf(context), [request], context.CancellationToken);
        return new Empty();
    }

    public override async Task<Empty> RecordMigration(RecordMigrationRequest request, ServerCallContext context)
    {
        Gate.RequireCaller(context, request.Migration.From);
        if (!Guid.TryParse(request.GuestUuid, out var uuid) || request.Migration.Id.Length is 0 or > 64)
        {
            throw new GodwitException("contract-invalid", "The report names no guest or has no id.",
                "Compare the versions of both daemons with 'godwit host list'.");
        }

        await incoming.FinishAsync(request.Migration.Id);
        await reports.LearnAsync(MoveMapping.FromApi(request.Migration, uuid));
        await guests.LearnOwnerAsync(uuid, request.Migration.From, request.Migration.To, request.Epoch);
        await handOvers.CloseAsync(request.Migration.Id, request.Migration.From);
        return new Empty();
    }

    public override Task<SettleMigrationResponse> SettleMigration(
        SettleMigrationRequest request, ServerCallContext context) =>
        incoming.SettleAsync(request, Gate.CallerOf(context), context.CancellationToken);

    public override Task<AskHandOverResponse> AskHandOver(AskHandOverRequest request, ServerCallContext context) =>
        Task.FromResult(new AskHandOverResponse
        {
            GuestIsCallers = disputes.IsGivenTo(request.MigrationId, Gate.CallerOf(context)),
        });

    public override Task<ResumeGuestResponse> ResumeHere(ResumeGuestRequest request, ServerCallContext context)
    {
        // A member asks for this host, never for a third one.
        request.On = "";
        if (request.Mode != ResumeMode.Resume || request.TakeOver)
        {
            // What a guest was since a parcel is given up by who may command its own host.
            throw new GodwitException("guest-state",
                $"Host '{Gate.CallerOf(context)}' asks for more than to resume '{request.Reference}'.",
                "Run 'godwit vm rollback', 'godwit vm fork' or 'godwit vm resume --take-over' on the host itself.");
        }

        return parcels.ResumeAsync(request, context.CancellationToken);
    }

    public override Task HoardHere(
        HoardGuestRequest request, IServerStreamWriter<HoardProgress> responseStream, ServerCallContext context)
    {
        request.On = "";
        return parcels.HoardAsync(request, responseStream.WriteAsync, context.CancellationToken);
    }

    public override async Task<ListSleepsResponse> ListSleeps(ListSleepsRequest request, ServerCallContext context)
    {
        var response = new ListSleepsResponse();
        if (Guid.TryParse(request.GuestUuid, out var guest))
        {
            var known = await sleeps.ListAsync(guest, context.CancellationToken);
            response.Sleeps.AddRange(known.Select(SleepBook.ToApi));
        }

        return response;
    }

    public override async Task<Empty> NoticeResume(NoticeResumeRequest request, ServerCallContext context)
    {
        await parcels.LookForClaimAsync(request.GuestUuid);
        return new Empty();
    }

    public override Task<FindOwnerResponse> FindOwner(FindOwnerRequest request, ServerCallContext context) =>
        Task.FromResult(parcels.FindOwner(request.GuestUuid));

    public override Task<Empty> MeasureLink(MeasureLinkRequest request, ServerCallContext context) =>
        Task.FromResult(new Empty());

    public override Task<FindContentsResponse> FindContents(FindContentsRequest request, ServerCallContext context) =>
        incoming.FindContentsAsync(request);
}
