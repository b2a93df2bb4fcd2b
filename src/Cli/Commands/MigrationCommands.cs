using System.CommandLine;
using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Daemon;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit migration ...</c>: moves in progress and past ones.</summary>
internal static class MigrationCommands
{
    public static Command Build(GodwitCommand godwit) => godwit.Noun(
        "migration", "Moves in progress and past ones: list, follow, change, pause, cancel, report, settle.",
        ["godwit migration list", "godwit migration watch web1", "godwit migration report web1 -o json"],
        [
            List(godwit), Show(godwit), Watch(godwit), Set(godwit), Suspend(godwit, "pause"),
            Suspend(godwit, "resume"), Cancel(godwit), Settle(godwit), Report(godwit),
        ]);

    private static Argument<string> MigrationArgument() => new("ID")
    {
        Description = "The migration's id, an unambiguous prefix, or a guest's name for its newest move.",
    };

    private static Command List(GodwitCommand godwit)
    {
        var guest = Option.Text("--guest", "Only this guest's.", "NAME");
        var limit = Option.Count("--limit", "At most this many, newest first (default: 50).", 10_000);
        return godwit.Verb(
            "list", "List migrations, newest first.",
            ["godwit migration list", "godwit migration list --guest web1 --limit 5 -o wide"], [guest, limit],
            async (session, cancellation) =>
            {
                var request = new ListMigrationsRequest
                {
                    Guest = session.Get(guest) ?? "",
                    Limit = session.Get(limit) is > 0 and var given ? given : 50,
                };
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.ListMigrationsAsync(request, options), cancellation);
                session.Answer(MigrationAnswers.List(
                    [.. answer.Migrations.OrderByDescending(migration => migration.StartedUnixMs)]));
                return 0;
            });
    }

    private static Command Show(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        return godwit.Verb(
            "show", "Show all that is known of a migration.",
            ["godwit migration show web1", "godwit migration show 3f2a -o yaml"], [id],
            async (session, cancellation) =>
            {
                session.Answer(MigrationAnswers.Show(await GetAsync(session, session.Get(id), cancellation)));
                return 0;
            });
    }

    private static Command Report(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        return godwit.Verb(
            "report", "Print the report of a move; its JSON form is stable and the same as the lab's.",
            ["godwit migration report web1", "godwit migration report 3f2a -o json | jq .downtimeMs"], [id],
            async (session, cancellation) =>
            {
                session.Answer(MigrationAnswers.Report(await GetAsync(session, session.Get(id), cancellation)));
                return 0;
            });
    }

    private static Command Watch(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        return godwit.Verb(
            "watch", "Follow a migration to its end; with -o json one object a line. Ctrl-C only stops watching.",
            ["godwit migration watch web1", "godwit migration watch web1 -o json | jq .progress.fraction"], [id],
            async (session, cancellation) =>
            {
                Migration? last = null;
                bool asLines = session.Format == OutputFormat.Json;
                using (var view = asLines ? null : session.OpenProgress(session.Get(id)))
                {
                    await foreach (var migration in MigrationWatch.ReadAsync(
                        session.Client, session.Get(id), isKnown: false, cancellation))
                    {
                        last = migration;
                        if (asLines)
                        {
                            AnswerWriter.WriteJsonLine(session.Terminal.Out, MigrationAnswers.Data(migration));
                        }

                        view?.Show(migration);
                    }
                }

                if (!asLines)
                {
                    return MigrateCommand.Finish(session, last!, interrupted: false);
                }

                if (MigrationEnd.Failure(last!) is { } failure)
                {
                    throw failure;
                }

                return ExitCodes.Ok;
            });
    }

    private static Command Set(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        var bandwidth = Option.BitsPerSecond("--bandwidth", "The cap on what goes over the wire from now on.");
        var noCap = Option.Flag("--no-bandwidth-cap", "No cap from now on.");
        var pause = Option.Milliseconds("--pause", "The longest the guest may stand still.");
        return godwit.Verb(
            "set", "Change what a migration may cost while it runs.",
            ["godwit migration set web1 --bandwidth 200Mbit", "godwit migration set web1 --pause 100ms"],
            [id, bandwidth, noCap, pause],
            (session, cancellation) =>
            {
                var request = new ChangeMigrationRequest { Id = session.Get(id) };
                if (session.Get(bandwidth) is > 0 and var rate)
                {
                    request.BandwidthBitsPerSecond = rate;
                }
                else if (session.Get(noCap))
                {
                    request.BandwidthBitsPerSecond = 0;
                }

                if (session.Get(pause) is > 0 and var budget)
                {
                    request.MaxDowntimeMs = (uint)budget;
                }

                return request.HasBandwidthBitsPerSecond || request.HasMaxDowntimeMs
                    ? ChangeAsync(session, request, cancellation)
                    : throw new CommandException("usage",
                        "there is nothing to change: give --bandwidth, --no-bandwidth-cap or --pause.");
            });
    }

    private static Command Suspend(GodwitCommand godwit, string verb)
    {
        var id = MigrationArgument();
        return godwit.Verb(
            verb,
            verb == "pause"
                ? "Stop sending for a while; the guest runs on, and nothing that has arrived is lost."
                : "Go on with a migration that was paused.",
            [$"godwit migration {verb} web1"], [id],
            (session, cancellation) => ChangeAsync(
                session, new ChangeMigrationRequest { Id = session.Get(id), Suspended = verb == "pause" },
                cancellation));
    }

    private static async Task<int> ChangeAsync(
        Session session, ChangeMigrationRequest request, CancellationToken cancellation)
    {
        session.Answer(MigrationAnswers.Show(await session.Client.AskAsync(
            (daemon, options) => daemon.ChangeMigrationAsync(request, options), cancellation)));
        return ExitCodes.Ok;
    }

    private static Command Cancel(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        var detach = Option.Flag("--detach", "Ask for it and do not wait for the end.");
        return godwit.Verb(
            "cancel", "Call a migration off; until the hand-over is committed the guest stays where it is.",
            ["godwit migration cancel web1"], [id, detach],
            async (session, cancellation) =>
            {
                var request = new MigrationRequest { Id = session.Get(id) };
                var migration = await session.Client.AskAsync(
                    (daemon, options) => daemon.CancelMigrationAsync(request, options), cancellation);
                if (!session.Get(detach) && migration.Phase != MigrationPhase.Ended)
                {
                    await foreach (var update in MigrationWatch.ReadAsync(
                        session.Client, migration.Id, isKnown: true, cancellation))
                    {
                        migration = update;
                    }
                }

                session.Answer(MigrationAnswers.Show(migration));
                if (migration.Outcome is MigrationOutcome.Cancelled or MigrationOutcome.Pending)
                {
                    return ExitCodes.Ok;
                }

                throw MigrationEnd.Failure(migration) ?? new CommandException(
                    "migration-over",
                    $"migration {migration.Id} had completed. {MigrationAnswers.WhereItRuns(migration)}");
            });
    }

    private static Command Settle(GodwitCommand godwit)
    {
        var id = MigrationArgument();
        var host = Option.Text("--guest-runs-on", "The host that runs the guest, or shall.", "HOST");
        host.Required = true;
        var resumeCopy = Option.Flag("--resume-copy", "If it runs here: let the paused copy go on, because the other "
            + "host certainly never ran the guest. Otherwise the guest is started anew from its disks.");
        return godwit.Verb(
            "settle", "Decide an unsettled migration whose other host is gone for good; ask on the host that the guest "
                + "left. The other host's copy is void from then on: it is ended should it come back.",
            ["godwit migration settle web1 --guest-runs-on b", "godwit migration settle web1 --guest-runs-on a",
                "godwit migration settle web1 --guest-runs-on a --resume-copy"],
            [id, host, resumeCopy],
            async (session, cancellation) =>
            {
                var request = new DecideMigrationRequest
                {
                    Id = session.Get(id), GuestRunsOn = session.Get(host) ?? "",
                    ResumeCopy = session.Get(resumeCopy),
                };
                session.Answer(MigrationAnswers.Show(await session.Client.AskAsync(
                    (daemon, options) => daemon.DecideMigrationAsync(request, options), cancellation)));
                return ExitCodes.Ok;
            });
    }

    private static Task<Migration> GetAsync(Session session, string id, CancellationToken cancellation) =>
        session.Client.AskAsync(
            (daemon, options) => daemon.GetMigrationAsync(new MigrationRequest { Id = id }, options), cancellation);
}
