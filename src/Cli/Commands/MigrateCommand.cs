using System.CommandLine;
using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Output;
using Godwit.Cli.Progress;

namespace Godwit.Cli.Commands;

/// <summary>
/// <c>godwit vm migrate</c>, also <c>godwit migrate</c>: moves guests, one after another, and waits for them.
/// </summary>
internal static class MigrateCommand
{
    public static Command Build(GodwitCommand godwit)
    {
        var names = new Argument<string[]>("NAME")
        {
            Description = "The guests' names, UUIDs or unambiguous UUID prefixes.", Arity = ArgumentArity.OneOrMore,
        };
        names.Validators.Add(result =>
        {
            var words = result.Tokens.Select(token => token.Value).ToList();
            if (words.FirstOrDefault(word => word.StartsWith('-')) is { } option)
            {
                result.AddError($"There is no option '{option}'.");
            }
            else if (words.Distinct(StringComparer.Ordinal).Count() < words.Count)
            {
                result.AddError("A guest is named twice.");
            }
        });
        var to = new Option<string>("--to")
        {
            Description = "The host to move to.", HelpName = "HOST", Required = true,
        };
        var maxDowntime = Option.Milliseconds(
            "--max-downtime", "The longest the guest may stand still, never exceeded silently (default: 300ms).");
        var bandwidth = Option.BitsPerSecond("--bandwidth", "Cap on what goes over the wire (default: no cap).");
        var method = Option.Among(
            "--method", "Memory before the guest, behind it, or rounds while they help and the rest behind; auto: as "
                + "the forecast and the policy say.",
            ["auto", "precopy", "postcopy", "hybrid"], "auto");
        var ladder = Option.Text(
            "--policy", "What to do, step by step, when rounds do not shrink (default: default).", "NAME");
        var onStall = Option.Among(
            "--on-stall", "If no step helps: leave the guest here, or pause it as long as it takes.",
            ["abort", "pause"], "abort");
        var pacing = Option.Among(
            "--pacing", "As fast as the link allows, or a rate that follows the guest's dirty rate.",
            ["full", "adaptive"], "full");
        var maxRounds = Option.Count("--max-rounds", "Rounds after which it has stalled (default: 1000).", 10_000);
        var timeout = Option.Milliseconds("--timeout", "Time after which it has stalled (default: 30m).");
        var cpu = Option.Cores(
            "--cpu", "Processor time to spend here while the guest runs, in cores (default: what the lanes get).");
        var noCompression = Option.Flag("--no-compression", "Send every page as it is.");
        var share = Option.Among(
            "--share",
            "Whose contents the destination may rebuild pages from: the guest's own, every guest's there, or nobody's.",
            ["guest", "host", "none"], "guest");
        var dryRun = Option.Flag("--dry-run", "Check everything and forecast; touch nothing.");
        var detach = Option.Flag("--detach", "Print the migration's id and do not wait.");
        return godwit.Verb(
            "migrate", "Move running guests to another host without stopping them, one after another.",
            [
                "godwit vm migrate web1 --to b",
                "godwit vm migrate web1 web2 web3 --to b --share host",
                "godwit vm migrate web1 --to b --dry-run",
                "godwit vm migrate db1 --to b --max-downtime 100ms --bandwidth 400Mbit --policy safe",
                "godwit vm migrate db1 --to b --method hybrid",
                "id=$(godwit vm migrate web1 --to b --detach); godwit migration watch $id",
            ],
            [
                names, to, method, ladder, maxDowntime, bandwidth, onStall, pacing, maxRounds, timeout, cpu,
                noCompression, share, dryRun, detach,
            ],
            (session, cancellation) =>
            {
                var request = new StartMigrationRequest
                {
                    To = session.Get(to),
                    Policy = new MigrationPolicy
                    {
                        Method = session.Get(method) switch
                        {
                            "precopy" => MigrationMethod.Precopy,
                            "postcopy" => MigrationMethod.Postcopy,
                            "hybrid" => MigrationMethod.Hybrid,
                            _ => MigrationMethod.Auto,
                        },
                        Ladder = session.Get(ladder) ?? "",
                        MaxDowntimeMs = (uint)session.Get(maxDowntime),
                        BandwidthBitsPerSecond = session.Get(bandwidth),
                        OnStall = session.Get(onStall) == "pause" ? OnStall.Pause : OnStall.Abort,
                        Pacing = session.Get(pacing) == "adaptive" ? Pacing.Adaptive : Pacing.Full,
                        MaxRounds = session.Get(maxRounds),
                        TimeoutSeconds = GuestCommands.WholeSeconds(session.Get(timeout)),
                        Cores = session.Get(cpu),
                        NoCompression = session.Get(noCompression),
                        Share = session.Get(share) switch
                        {
                            "host" => ContentSharing.Host,
                            "none" => ContentSharing.None,
                            _ => ContentSharing.Guest,
                        },
                    },
                };
                return MoveAsync(session, session.Get(names), request, guest =>
                    session.Get(dryRun) ? PlanAsync(session, guest, cancellation)
                        : StartAsync(session, guest, session.Get(detach)));
            });
    }

    // The next guest moves whatever became of the last one, but for a user who wants no more of it. Like guests gain by
    // the order: with --share host, what the first one brought need not be sent again.
    private static async Task<int> MoveAsync(
        Session session, string[] guests, StartMigrationRequest request, Func<StartMigrationRequest, Task<int>> move)
    {
        var exit = ExitCodes.Ok;
        foreach (var guest in guests)
        {
            if (guest != guests[0] && session.Format == OutputFormat.Yaml)
            {
                session.Terminal.Out.WriteLine("---");
            }

            var next = request.Clone();
            next.Guest = guest;
            int ended;
            try
            {
                ended = await move(next);
            }
            catch (CommandException failure) when (guests.Length > 1)
            {
                GodwitCommand.PrintError(session.Terminal, failure);
                ended = failure.ExitCode;
            }

            exit = exit == ExitCodes.Ok ? ended : exit;
            if (ended == ExitCodes.Interrupted)
            {
                return ended;
            }
        }

        return exit;
    }

    private static async Task<int> PlanAsync(
        Session session, StartMigrationRequest request, CancellationToken cancellation)
    {
        var plan = await session.Client.AskAsync(
            (daemon, options) => daemon.PlanMigrationAsync(request, options), cancellation);
        session.Answer(MigrationAnswers.Plan(request.Guest, request.To, plan));
        return plan.Possible ? ExitCodes.Ok : ExitCodes.Refused;
    }

    private static async Task<int> StartAsync(Session session, StartMigrationRequest request, bool detach)
    {
        // Listening from before the request on: a Ctrl-C while the daemon checks must find a migration to cancel, not
        // leave one behind that nobody waits for. For the same reason the request itself cannot be interrupted.
        using var interruption = new SignalInterruption();
        var migration = await session.Client.AskAsync(
            (daemon, options) => daemon.StartMigrationAsync(request, options), CancellationToken.None);
        if (migration.MayTurnToPostcopy)
        {
            session.Note(
                $"If it turns to postcopy, {migration.Guest} needs both hosts until all its memory has come: "
                + $"{migration.From} lost for good in that time costs the guest. '--policy safe' never does.");
        }

        if (detach)
        {
            session.Answer(MigrationAnswers.Started(migration));
            return ExitCodes.Ok;
        }

        FollowResult result;
        using (var view = session.OpenProgress($"{migration.Guest}: {migration.From} to {migration.To}"))
        {
            result = await new MigrationFollower(session.Client, session.Terminal, view, interruption)
                .FollowAsync(migration);
        }

        if (result.Detached)
        {
            session.Answer(MigrationAnswers.Started(result.Last));
            return ExitCodes.Interrupted;
        }

        return Finish(session, result.Last, result.Interrupted);
    }

    /// <summary>Prints the end of a migration: the report as the answer, the error if there is one.</summary>
    public static int Finish(Session session, Migration migration, bool interrupted)
    {
        session.Answer(MigrationAnswers.Show(migration));
        if (MigrationEnd.Failure(migration) is { } failure)
        {
            GodwitCommand.PrintError(session.Terminal, failure);
            return interrupted ? ExitCodes.Interrupted : failure.ExitCode;
        }

        if (interrupted)
        {
            session.Terminal.Error.WriteLine(
                $"The move had completed before it could be cancelled. {MigrationAnswers.WhereItRuns(migration)}");
            return ExitCodes.Interrupted;
        }

        return ExitCodes.Ok;
    }
}
