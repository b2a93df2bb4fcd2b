using Godwit.Api.V1;
using Godwit.Daemon.Moves;
using Grpc.Core;

namespace Godwit.Daemon.Services;

// Inside the namespace, where it wins over the namespace Godwit.Migration.
using Migration = Godwit.Api.V1.Migration;

internal sealed partial class ControlService
{
    private static readonly TimeSpan WatchInterval = TimeSpan.FromMilliseconds(250);

    public override async Task<Migration> StartMigration(StartMigrationRequest request, ServerCallContext context)
    {
        var move = await outgoing.StartAsync(
            request.Guest, request.To, MoveMapping.ToPolicy(request.Policy), context.CancellationToken);
        return MoveMapping.ToApi(move.Record);
    }

    public override Task<MigrationPlan> PlanMigration(StartMigrationRequest request, ServerCallContext context) =>
        outgoing.PlanAsync(
            request.Guest, request.To, MoveMapping.ToPolicy(request.Policy), context.CancellationToken);

    public override async Task<ListMigrationsResponse> ListMigrations(
        ListMigrationsRequest request, ServerCallContext context)
    {
        // A move in progress is recorded at its start; its state in memory is the newer one.
        var current = outgoing.All.Concat(incoming.All)
            .Select(move => move.Record)
            .Where(record => request.Guest.Length == 0 || record.Guest == request.Guest)
            .ToDictionary(record => record.Id);
        var recorded = await reports.ListAsync(request.Guest, request.Limit, context.CancellationToken);
        var all = current.Values.Concat(recorded.Where(record => !current.ContainsKey(record.Id)))
            .OrderByDescending(record => record.Id, StringComparer.Ordinal);
        var response = new ListMigrationsResponse();
        response.Migrations.AddRange(
            (request.Limit > 0 ? all.Take((int)request.Limit) : all).Select(MoveMapping.ToApi));
        return response;
    }

    public override async Task<Migration> GetMigration(MigrationRequest request, ServerCallContext context) =>
        outgoing.Find(request.Id) is { } move
            ? MoveMapping.ToApi(move.Record)
            : MoveMapping.ToApi(await reports.FindAsync(request.Id, context.CancellationToken));

    public override async Task WatchMigration(
        MigrationRequest request, IServerStreamWriter<Migration> responseStream, ServerCallContext context)
    {
        if (outgoing.Find(request.Id) is not { } move)
        {
            var record = await reports.FindAsync(request.Id, context.CancellationToken);
            await responseStream.WriteAsync(MoveMapping.ToApi(record), context.CancellationToken);
            return;
        }

        while (true)
        {
            // Taken before the record is read: a change in between wakes the wait at once.
            var changed = move.Changed;
            var record = move.Record;
            await responseStream.WriteAsync(MoveMapping.ToApi(record), context.CancellationToken);
            if (record.Snapshot.Phase == Godwit.Migration.MigrationPhase.Ended)
            {
                return;
            }

            await changed.WaitAsync(WatchInterval, context.CancellationToken)
                .ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            context.CancellationToken.ThrowIfCancellationRequested();
        }
    }

    public override async Task<Migration> DecideMigration(DecideMigrationRequest request, ServerCallContext context)
    {
        var move = await outgoing.DecideAsync(
            request.Id, request.GuestRunsOn, request.ResumeCopy, context.CancellationToken);
        return MoveMapping.ToApi(move.Record);
    }

    public override async Task<Migration> ChangeMigration(ChangeMigrationRequest request, ServerCallContext context)
    {
        if (outgoing.Find(request.Id) is not { } move)
        {
            throw OutgoingMoves.Over(await reports.FindAsync(request.Id, context.CancellationToken));
        }

        outgoing.Change(move, request);
        return MoveMapping.ToApi(move.Record);
    }

    public override Task<ListPoliciesResponse> ListPolicies(ListPoliciesRequest request, ServerCallContext context) =>
        Task.FromResult(new ListPoliciesResponse
        {
            Policies =
            {
                ladders.List().Select(entry => new Policy
                {
                    Name = entry.Ladder.Name,
                    Description = entry.Ladder.Description,
                    Steps = { entry.Ladder.Steps.Select(MoveMapping.ToApi) },
                    Origin = entry.Origin,
                }),
            },
        });

    public override async Task<Migration> CancelMigration(MigrationRequest request, ServerCallContext context)
    {
        if (outgoing.Find(request.Id) is not { } move)
        {
            throw OutgoingMoves.Over(await reports.FindAsync(request.Id, context.CancellationToken));
        }

        await outgoing.CancelAsync(move, context.CancellationToken);
        return MoveMapping.ToApi(move.Record);
    }
}
