using Godwit.Api.V1;
using Godwit.Cli.Daemon;
using Godwit.Cli.Output;
using Godwit.Cli.Progress;

namespace Godwit.Cli.Commands;

/// <summary>How the following of a migration ended.</summary>
/// <param name="Last">The last that was heard of it.</param>
/// <param name="Interrupted">A person or a signal asked to stop.</param>
/// <param name="Detached">The migration goes on without this command.</param>
internal sealed record FollowResult(Migration Last, bool Interrupted, bool Detached);

/// <summary>Follows a migration to its end and turns Ctrl-C into a decision: detach or cancel.</summary>
/// <remarks>
/// Whatever the answer, the command ends in a known state: either the migration has ended and the message says where
/// the guest runs, or it goes on in the daemon and the message says how to look at it again.
/// </remarks>
internal sealed class MigrationFollower(
    DaemonClient client, Terminal terminal, IProgressView view, IInterruption interruption)
{
    public async Task<FollowResult> FollowAsync(Migration migration)
    {
        using var stop = new CancellationTokenSource();
        var stream = MigrationWatch.ReadAsync(client, migration.Id, isKnown: true, stop.Token)
            .GetAsyncEnumerator(stop.Token);
        var last = migration;
        bool interrupted = false;
        bool cancelling = false;
        var signal = interruption.NextAsync();
        var next = stream.MoveNextAsync().AsTask();
        view.Show(last);
        while (true)
        {
            if (await Task.WhenAny(next, signal) == next)
            {
                if (!await next)
                {
                    return new FollowResult(last, interrupted, Detached: false);
                }

                last = stream.Current;
                view.Show(last);
                next = stream.MoveNextAsync().AsTask();
                continue;
            }

            bool keyboard = await signal;
            signal = interruption.NextAsync();
            var choice = cancelling
                ? Choice.Detach
                : keyboard && terminal.CanAsk ? await AskAsync(signal) : Choice.Cancel;
            if (choice == Choice.KeepWaiting)
            {
                continue;
            }

            interrupted = true;
            if (choice == Choice.Detach)
            {
                view.Note(Detached(last, cancelling));
                await stop.CancelAsync();
                return new FollowResult(last, Interrupted: true, Detached: true);
            }

            cancelling = true;
            await CancelAsync(last);
        }
    }

    private enum Choice
    {
        KeepWaiting,
        Detach,
        Cancel,
    }

    private async Task CancelAsync(Migration migration)
    {
        view.Note($"cancelling migration {migration.Id} ...");
        try
        {
            await client.AskAsync(
                (daemon, options) => daemon.CancelMigrationAsync(new MigrationRequest { Id = migration.Id }, options),
                CancellationToken.None);
        }
        catch (CommandException refused)
        {
            // Past the commit nothing can be called back; the end of the stream then says where the guest runs.
            view.Note($"not cancelled: {refused.Message}");
        }
    }

    private async Task<Choice> AskAsync(Task<bool> nextSignal)
    {
        view.Note("The migration goes on. [d]etach and let it, [c]ancel it, or press Enter to keep watching:");
        // The read blocks until a line is complete; a second Ctrl-C answers for it.
        var answer = Task.Run(terminal.ReadLine);
        if (await Task.WhenAny(answer, nextSignal) != answer)
        {
            return Choice.Cancel;
        }

        return (await answer)?.Trim().ToLowerInvariant() switch
        {
            "" => Choice.KeepWaiting,
            "d" or "detach" => Choice.Detach,
            _ => Choice.Cancel,
        };
    }

    private static string Detached(Migration migration, bool cancelling) =>
        (cancelling
            ? $"Cancelling migration {migration.Id} was asked for and goes on without this command."
            : $"Migration {migration.Id} goes on without this command.")
        + $" Follow it with 'godwit migration watch {AnswerWriter.Printable(migration.Id)}'.";
}
