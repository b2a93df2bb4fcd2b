using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;
using Godwit.Cli.Progress;
using Grpc.Core;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit vm suspend</c> and what belongs to it: guests that go into a store and come out again.</summary>
internal static class ParcelCommands
{
    // A guest of many gigabytes over a slow link; Ctrl-C ends the wait and, before the commit, the suspend.
    private static readonly TimeSpan Within = TimeSpan.FromHours(6);

    public static IEnumerable<Command> Build(GodwitCommand godwit) =>
    [
        Suspend(godwit), Checkpoint(godwit), Resume(godwit), Rollback(godwit), Fork(godwit), Hoard(godwit),
        Predict(godwit), History(godwit), Forget(godwit),
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
        var lazy = Option.Flag(
            "--lazy", "Run as soon as its state and the pages that it touches first are there; the rest follows.");
        var takeOver = Option.Flag(
            "--take-over", "Take it from the host that owns it and is gone for good; what it was since is lost.");
        return godwit.Verb(
            "resume", "Wake a guest that was suspended.",
            ["godwit vm resume web1", "godwit vm resume web1 --on b", "godwit vm resume 1c2k --lazy"],
            [reference, on, store, lazy, takeOver],
            (session, cancellation) => ResumeAsync(session, new ResumeGuestRequest
            {
                Reference = session.Get(reference), On = session.Get(on) ?? "", Store = session.Get(store) ?? "",
                Lazy = session.Get(lazy), TakeOver = session.Get(takeOver),
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

    private static Command Hoard(GodwitCommand godwit)
    {
        var reference = ReferenceArgument();
        var on = Option.Text("--on", "The host that is to have it (default: this one).", "HOST");
        var store = StoreOption("--store", "The store (default: all that the host knows).");
        var bandwidth = Option.BitsPerSecond("--bandwidth", "Cap on what is read from the store (default: no cap).");
        return godwit.Verb(
            "hoard", "Bring what a guest's resume will need to a host ahead of it; what has come stays, also after "
                + "Ctrl-C.",
            ["godwit vm hoard web1 --on b", "godwit vm hoard web1 --on b --bandwidth 50Mbit"],
            [reference, on, store, bandwidth],
            async (session, cancellation) =>
            {
                var request = new HoardGuestRequest
                {
                    Reference = session.Get(reference), On = session.Get(on) ?? "", Store = session.Get(store) ?? "",
                    BandwidthBitsPerSecond = session.Get(bandwidth),
                };
                session.Answer(ParcelAnswers.Hoarded(await HoardAsync(session, request, cancellation)));
                return 0;
            });
    }

    private static Command Predict(GodwitCommand godwit)
    {
        var name = GuestCommands.GuestArgument();
        return godwit.Verb(
            "predict", "Show where and when a guest is likely to be resumed, what that rests on, and how often it was "
                + "right.",
            ["godwit vm predict web1", "godwit vm predict web1 -o json"], [name],
            async (session, cancellation) =>
            {
                var request = new PredictResumeRequest { Guest = session.Get(name) };
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.PredictResumeAsync(request, options), cancellation);
                session.Answer(PredictionAnswers.Show(answer));
                if (answer.NotAsked.Count > 0)
                {
                    session.Note($"Without what these hosts know, which do not answer: "
                        + $"{string.Join(", ", answer.NotAsked)}.");
                }

                return 0;
            });
    }

    private static async Task<HoardProgress> HoardAsync(
        Session session, HoardGuestRequest request, CancellationToken cancellation)
    {
        using var line = new HoardLine(session.Terminal, session.Quiet, TimeProvider.System);
        using var call = session.Client.Control.HoardGuest(request, cancellationToken: cancellation);
        var last = new HoardProgress();
        try
        {
            await foreach (var progress in call.ResponseStream.ReadAllAsync(cancellation))
            {
                last = progress;
                line.Show(progress);
            }
        }
        catch (RpcException failure)
        {
            throw session.Client.Translate(failure, cancellation);
        }

        return last;
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
        var force = Option.Flag("--force", "Also the only one in which a guest sleeps, and one that a guest needs.");
        return godwit.Verb(
            "forget", "Remove a parcel; 'godwit store gc' then frees what only it needed.",
            ["godwit vm forget 1c2k", "godwit vm forget 1c2k --force"], [reference, store, force],
            async (session, cancellation) =>
            {
                var request = new ParcelRequest
                {
                    Reference = session.Get(reference), Store = session.Get(store) ?? "", Force = session.Get(force),
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
        if (answer.TakenFrom.Length > 0)
        {
            session.Note($"Taken over from host '{answer.TakenFrom}': if it still runs the guest, there are two. When "
                + "it reaches the store again it ends its copy.");
        }

        return 0;
    }
}
