using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary>
/// <c>godwit store ...</c>: stores, and what this host can rebuild, so that it need not be sent here.
/// </summary>
internal static class StoreCommands
{
    public static Command Build(GodwitCommand godwit) => godwit.Noun(
        "store", "Stores of parcels, and what this host can rebuild so that moves need not send it.",
        ["godwit store create office --at /mnt/office/godwit", "godwit store gc office", "godwit store list"],
        [List(godwit), Trim(godwit), .. ParcelStoreCommands.Build(godwit)]);

    private static Command List(GodwitCommand godwit) => godwit.Verb(
        "list", "List the memory that guests left behind and the indexes of disk images, the newest first.",
        ["godwit store list", "godwit store list -o wide"], [],
        async (session, cancellation) =>
        {
            var answer = await session.Client.AskAsync(
                (daemon, options) => daemon.ListInventoryAsync(new ListInventoryRequest(), options), cancellation);
            session.Answer(StoreAnswers.List(answer.Entries));
            ulong used = answer.Entries.Aggregate(0UL, (sum, entry) => sum + entry.DiskBytes);
            session.Note($"{Units.Bytes(used)} of {Units.Bytes(answer.QuotaBytes)} in use (inventoryMebibytes).");
            return 0;
        });

    private static Command Trim(GodwitCommand godwit)
    {
        var keep = Option.Bytes("--keep", "What may stay (default: nothing).");
        return godwit.Verb(
            "trim", "Remove the oldest until no more than a size is left. The next moves here cost more.",
            ["godwit store trim", "godwit store trim --keep 4GiB"], [keep],
            async (session, cancellation) =>
            {
                var request = new TrimInventoryRequest { BytesMax = session.Get(keep) };
                session.Answer(StoreAnswers.Trimmed(await session.Client.AskAsync(
                    (daemon, options) => daemon.TrimInventoryAsync(request, options), cancellation)));
                return 0;
            });
    }
}
