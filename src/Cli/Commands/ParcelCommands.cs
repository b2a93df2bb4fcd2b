using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit vm suspend</c> and what belongs to it: guests that go into a store and come out again.</summary>
internal static class ParcelCommands
{
    // A guest of many gigabytes over a slow link; Ctrl-C ends the wait and, before the commit, the suspend.
    private static readonly TimeSpan Within = TimeSpan.FromHours(6);

    public static IEnumerable<Command> Build(GodwitCommand godwit) =>
    [
        Suspend(godwit), Checkpoint(godwit), Resume(godwit), Rollback(godwit), Fork(godwit), History(godwit),
        Forget(godwit),
    ];

    private static Argument<string> ReferenceArgument() => new("REF")
    {
        Description = "A guest's name or UUID, which means its newest parcel, or a parcel's id or the beginning of it.",
    };

    private static Option<string> StoreOption(string name, string description) =>
        Option.Text(name, description, "STORE");

    private static Command Suspend(GodwitCommand godwit)
    {
        var name = GuestCommands.GuestArgument();
        var to = StoreOption("--to", "The store (default: the one it came from, or the only one there is).");
        return godwit.Verb(
            "suspend", "Put a guest to sleep in a store; any host that reaches the store can wake it.",
            ["godwit vm suspend web1", "godwit vm suspend web1 --to office"], [name, to],
            async (session, cancellation) =>
            {
                var request = new SuspendGuestRequest { Guest = session.Get(name), Store = session.Get(to) ?? "" };
                var parcel = await session.Client.AskAsync(
                    (daemon, options) => daemon.SuspendGuestAsync(request, options), cancellation, Within);
                session.Answer(ParcelAnswers.Made(parcel, "sleeps in"));
                return 0;
            });
    }

    private static Command Checkpoint(GodwitCommand godwit)
    {
        var name = GuestCommands.GuestArgument();
        var to = StoreOption("--to", "The store (default: the one it came from, or the only one there is).");
        return godwit.Verb(
            "checkpoint", "Keep a guest's state in a store while it runs on.",
            ["godwit vm checkpoint web1", "godwit vm checkpoint web1 --to office"], [name, to],
            async (session, cancellation) =>
            {
                var request = new SuspendGuestRequest
                {
                    Guest = session.Get(name), Store = session.Get(to) ?? "", KeepRunning = true,
                };
                var parcel = await session.Client.AskAsync(
                    (daemon, options) => daemon.SuspendGuestAsync(request, options), cancellation, Within);
                session.Answer(ParcelAnswers.Made(parcel, "runs on, kept in"));
                return 0;
            });
    }

    private static Command Resume(GodwitCommand godwit)
    {
        var reference = ReferenceArgument();
        var on = Option.Text("--on", "The host to wake it on (default: this one).", "HOST");
        var store = StoreOption("--store", "The store (default: all that the host knows).");
        var lazy = Option.Flag("--lazy", "Run as soon as the machine's state is there; its memory follows.");
        return godwit.Verb(
            "resume", "Wake a guest that was suspended.",
            ["godwit vm resume web1", "godwit vm resume web1 --on b", "godwit vm resume 1c2k --lazy"],
            [reference, on, store, lazy],
            (session, cancellation) => ResumeAsync(session, new ResumeGuestRequest
            {
                Reference = session.Get(reference), On = session.Get(on) ?? "", Store = session.Get(store) ?? "",
                Lazy = session.Get(lazy),
            }, "resumed from", cancellation));
    }

    private static Command Rollback(GodwitCommand godwit)
    {
        var reference = ReferenceArgument();
        var store = StoreOption("--store", "The store (default: all that this host knows).");
        return godwit.Verb(
            "rollback", "Take a guest back to a parcel; what it was since then is given up.",
            ["godwit vm rollback web1", "godwit vm rollback 1c2k"], [reference, store],
            (session, cancellation) => ResumeAsync(session, new ResumeGuestRequest
            {
                Reference = session.Get(reference), Store = session.Get(store) ?? "", Mode = ResumeMode.Rollback,
            }, "went back to", cancellation));
    }

    private static Command Fork(GodwitCommand godwit)
    {
        var reference = ReferenceArgument();
        var name = Option.Text("--name", "The new guest's name.", "NAME");
        name.Required = true;
        var store = StoreOption("--store", "The store (default: all that this host knows).");
        return godwit.Verb(
            "fork", "Begin another guest from a parcel: its disks are copies, and its network is switched off.",
            ["godwit vm fork web1 --name web1-test", "godwit vm fork 1c2k --name web1-test"], [reference, name, store],
            (session, cancellation) => ResumeAsync(session, new ResumeGuestRequest
            {
                Reference = session.Get(reference), Store = session.Get(store) ?? "", Mode = ResumeMode.Fork,
                NewName = session.Get(name),
            }, "forked from", cancellation));
    }

    private static Command History(GodwitCommand godwit)
    {
        var name = new Argument<string>("NAME")
        {
            Description = "The guest's name, UUID or unambiguous UUID prefix; all guests if left out.",
            Arity = ArgumentArity.ZeroOrOne,
        };
        var store = StoreOption("--store", "Only of this store.");
        return godwit.Verb(
            "history", "List parcels, the newest first.", ["godwit vm history web1", "godwit vm history -o wide"],
            [name, store],
            async (session, cancellation) =>
            {
                var request = new ListParcelsRequest
                {
                    Guest = session.Get(name) ?? "", Store = session.Get(store) ?? "",
                };
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.ListParcelsAsync(request, options), cancellation);
                session.Answer(ParcelAnswers.List(answer.Parcels));
                foreach (string problem in answer.Problems)
                {
                    session.Note(problem);
                }

                return 0;
            });
    }

    private static Command Forget(GodwitCommand godwit)
    {
        var reference = ReferenceArgument();
        var store = StoreOption("--store", "The store (default: all that this host knows).");
        return godwit.Verb(
            "forget", "Remove a parcel; 'godwit store gc' then frees what only it needed.",
            ["godwit vm forget 1c2k"], [reference, store],
            async (session, cancellation) =>
            {
                var request = new ParcelRequest
                {
                    Reference = session.Get(reference), Store = session.Get(store) ?? "",
                };
                var parcel = await session.Client.AskAsync(
                    (daemon, options) => daemon.RemoveParcelAsync(request, options), cancellation);
                session.Answer(ParcelAnswers.Removed(parcel));
                return 0;
            });
    }

    private static async Task<int> ResumeAsync(
        Session session, ResumeGuestRequest request, string verb, CancellationToken cancellation)
    {
        var answer = await session.Client.AskAsync(
            (daemon, options) => daemon.ResumeGuestAsync(request, options), cancellation, Within);
        session.Answer(ParcelAnswers.Resumed(answer, verb));
        return 0;
    }
}
