using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit vm ...</c>: guests and what is done to them on this host.</summary>
internal static class GuestCommands
{
    public static Command Build(GodwitCommand godwit) => godwit.Noun(
        "vm", "Guests: create, start, stop, look at, move, put to sleep and wake.",
        [
            "godwit vm list -o wide",
            "godwit vm migrate web1 --to b",
        ],
        [
            CreateGuestCommand.Build(godwit), Start(godwit), Stop(godwit), List(godwit), Show(godwit),
            ConsoleCommand.Build(godwit), Remove(godwit), MigrateCommand.Build(godwit),
            .. ParcelCommands.Build(godwit),
        ]);

    /// <summary>The argument that names a guest; shells complete it.</summary>
    public static Argument<string> GuestArgument() =>
        new("NAME") { Description = "The guest's name, UUID or unambiguous UUID prefix." };

    private static Command Start(GodwitCommand godwit)
    {
        var name = GuestArgument();
        var force = Option.Flag(
            "--force", "Start a guest that its last source may run, when that host is gone for good.");
        return godwit.Verb(
            "start", "Start a guest.", ["godwit vm start web1"], [name, force],
            async (session, cancellation) =>
            {
                var request = new StartGuestRequest { Name = session.Get(name), Force = session.Get(force) };
                var guest = await session.Client.AskAsync(
                    (daemon, options) => daemon.StartGuestAsync(request, options), cancellation);
                session.Answer(GuestAnswers.Changed(guest, "started"));
                return 0;
            });
    }

    private static Command Stop(GodwitCommand godwit)
    {
        var name = GuestArgument();
        var force = Option.Flag("--force", "Cut the power at once instead of asking the guest to shut down.");
        var timeout = Option.Milliseconds("--timeout", "How long the guest may take to shut down (default: 60s).");
        return godwit.Verb(
            "stop", "Shut a guest down.",
            ["godwit vm stop web1", "godwit vm stop web1 --timeout 2m", "godwit vm stop web1 --force"],
            [name, force, timeout],
            async (session, cancellation) =>
            {
                uint seconds = session.Get(timeout) is > 0 and var given ? WholeSeconds(given) : 60;
                var request = new StopGuestRequest
                {
                    Name = session.Get(name), Force = session.Get(force), TimeoutSeconds = seconds,
                };
                var guest = await session.Client.AskAsync(
                    (daemon, options) => daemon.StopGuestAsync(request, options), cancellation,
                    TimeSpan.FromSeconds(seconds + 30));
                session.Answer(GuestAnswers.Changed(guest, "stopped"));
                return 0;
            });
    }

    private static Command List(GodwitCommand godwit) => godwit.Verb(
        "list", "List the guests this host knows, those that moved away included.",
        ["godwit vm list", "godwit vm list -o wide", "godwit vm list -o json | jq -r '.[].name'"], [],
        async (session, cancellation) =>
        {
            var answer = await session.Client.AskAsync(
                (daemon, options) => daemon.ListGuestsAsync(new ListGuestsRequest(), options), cancellation);
            session.Answer(GuestAnswers.List(
                [.. answer.Guests.OrderBy(guest => guest.Spec.Name, StringComparer.Ordinal)]));
            return 0;
        });

    private static Command Show(GodwitCommand godwit)
    {
        var name = GuestArgument();
        return godwit.Verb(
            "show", "Show everything about a guest.", ["godwit vm show web1", "godwit vm show web1 -o yaml"], [name],
            async (session, cancellation) =>
            {
                var request = new GuestRequest { Name = session.Get(name) };
                var guest = await session.Client.AskAsync(
                    (daemon, options) => daemon.GetGuestAsync(request, options), cancellation);
                session.Answer(GuestAnswers.Show(guest));
                return 0;
            });
    }

    private static Command Remove(GodwitCommand godwit)
    {
        var name = GuestArgument();
        return godwit.Verb(
            "rm", "Forget a stopped guest; its disk images stay.", ["godwit vm rm web1"], [name],
            async (session, cancellation) =>
            {
                var request = new GuestRequest { Name = session.Get(name) };
                await session.Client.AskAsync(
                    (daemon, options) => daemon.RemoveGuestAsync(request, options), cancellation);
                session.Answer(new Answer
                {
                    Data = new System.Text.Json.Nodes.JsonObject { ["removed"] = request.Name },
                    Names = [request.Name],
                    Text = _ => [new Line($"{request.Name} removed")],
                });
                return 0;
            });
    }

    /// <summary>Seconds that cover the milliseconds: a limit is never rounded down to nothing.</summary>
    public static uint WholeSeconds(ulong milliseconds) => (uint)((milliseconds + 999) / 1000);
}
