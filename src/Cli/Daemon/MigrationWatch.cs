using System.Runtime.CompilerServices;
using Godwit.Api.V1;
using Grpc.Core;

namespace Godwit.Cli.Daemon;

/// <summary>
/// A migration as it goes, across a restart of the daemon: the stream is taken up again until the end.
/// </summary>
internal static class MigrationWatch
{
    /// <summary>A daemon that restarts is back well within this; afterwards an operator has to look.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private static readonly TimeSpan RetryDelay = TimeSpan.FromMilliseconds(250);

    /// <param name="isKnown">The daemon has told of this migration: if it is away now, it comes back.</param>
    public static async IAsyncEnumerable<Migration> ReadAsync(
        DaemonClient client, string id, bool isKnown, [EnumeratorCancellation] CancellationToken cancellation)
    {
        long? silentSince = null;
        bool everHeard = isKnown;
        while (true)
        {
            using var call = client.Control.WatchMigration(
                new MigrationRequest { Id = id }, cancellationToken: cancellation);
            while (true)
            {
                CommandException? failure = null;
                Migration? migration = null;
                try
                {
                    if (await call.ResponseStream.MoveNext(cancellation))
                    {
                        migration = call.ResponseStream.Current;
                    }
                }
                catch (RpcException broken) when (everHeard && IsBrokenConnection(broken, cancellation))
                {
                    failure = client.Translate(broken, cancellation) as CommandException;
                }
                catch (RpcException refused)
                {
                    throw client.Translate(refused, cancellation);
                }

                if (migration is not null)
                {
                    everHeard = true;
                    silentSince = null;
                    yield return migration;
                    if (migration.Phase == MigrationPhase.Ended)
                    {
                        yield break;
                    }

                    continue;
                }

                // Either the daemon went away or it ended the stream early, as it does when it shuts down.
                silentSince ??= Environment.TickCount64;
                if (Environment.TickCount64 - silentSince.Value > Patience.TotalMilliseconds)
                {
                    throw new CommandException(
                        "daemon-lost",
                        $"the daemon at {client.SocketPath} went away during migration {id} and did not come back "
                        + $"within {Patience.TotalSeconds:0} s{(failure is null ? "" : $" ({failure.Message})")}",
                        $"Look with 'systemctl status godwitd', then 'godwit migration show {id}': it says where the "
                        + "guest runs.");
                }

                break;
            }

            await Task.Delay(RetryDelay, cancellation);
        }
    }

    private static bool IsBrokenConnection(RpcException failure, CancellationToken cancellation) =>
        !cancellation.IsCancellationRequested
        && failure.Trailers.GetValue("godwit-code") is null
        && failure.StatusCode is StatusCode.Unavailable or StatusCode.Internal or StatusCode.Cancelled
            or StatusCode.Unknown;
}
