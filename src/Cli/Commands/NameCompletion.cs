using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Daemon;
using Grpc.Core;

namespace Godwit.Cli.Commands;

/// <summary>
/// Names for the shell's completion: <c>godwit __complete guests|hosts|migrations|codes [SOCKET]</c>.
/// </summary>
/// <remarks>
/// Runs at every press of the tab key, so it builds no command tree, waits for the daemon no longer than
/// <see cref="PatienceMilliseconds"/> or what GODWIT_COMPLETION_WAIT says, prints nothing on standard error and never
/// fails: no daemon means no names.
/// </remarks>
internal static class NameCompletion
{
    private const ulong PatienceMilliseconds = 80;

    public static async Task<int> RunAsync(string[] arguments, TextWriter output)
    {
        string kind = arguments.ElementAtOrDefault(1) ?? "";
        string socket = arguments.ElementAtOrDefault(2) is { Length: > 0 } given
            ? given
            : Environment.GetEnvironmentVariable("GODWIT_SOCKET") is { Length: > 0 } named
                ? named
                : DaemonClient.DefaultSocketPath;
        if (kind == "codes")
        {
            Print(output, ErrorCatalog.All.Select(entry => entry.Code));
            return 0;
        }

        // Most hosts where this finds nothing have no daemon at all; they should not pay for a channel.
        if (!File.Exists(socket))
        {
            return 0;
        }

        try
        {
            using var client = new DaemonClient(socket);
            var options = new CallOptions(deadline: DateTime.UtcNow.AddMilliseconds(Patience()));
            switch (kind)
            {
                case "guests":
                    var guests = await client.Control.ListGuestsAsync(new ListGuestsRequest(), options);
                    Print(output, guests.Guests.Select(guest => guest.Spec.Name));
                    break;
                case "hosts":
                    var hosts = await client.Control.ListHostsAsync(new ListHostsRequest(), options);
                    Print(output, hosts.Hosts.Select(host => host.Name));
                    break;
                case "migrations":
                    var migrations = await client.Control.ListMigrationsAsync(
                        new ListMigrationsRequest { Limit = 50 }, options);
                    Print(output, migrations.Migrations.Select(migration => migration.Id));
                    break;
            }
        }
        catch (RpcException)
        {
            // A tab key that finds nothing is quiet; the command itself will say what is wrong.
        }

        return 0;
    }

    private static ulong Patience() =>
        Units.TryReadMilliseconds(
            Environment.GetEnvironmentVariable("GODWIT_COMPLETION_WAIT") ?? "", out ulong milliseconds, out _)
            ? milliseconds
            : PatienceMilliseconds;

    private static void Print(TextWriter output, IEnumerable<string> names)
    {
        foreach (string name in names.Order(StringComparer.Ordinal))
        {
            output.WriteLine(name);
        }
    }
}
