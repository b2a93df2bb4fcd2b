using System.Text.Json.Nodes;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

public sealed partial class QemuMachine
{
    private const int GoOnLooksMax = 500;
    private static readonly TimeSpan GoOnLookEvery = TimeSpan.FromMilliseconds(10);

    /// <summary>Ends a migration of QEMU's, if there is one, and lets the guest run here.</summary>
    /// <returns>Whether it runs; false if QEMU has not let it within some seconds, or has ended.</returns>
    public async Task<bool> GoOnAsync()
    {
        try
        {
            await TryAsync("migrate_cancel");
            for (int i = 0; i < GoOnLooksMax && !await HasNoMigrationAsync(); i++)
            {
                await Task.Delay(GoOnLookEvery);
            }

            for (int i = 0; i < GoOnLooksMax; i++)
            {
                string state = await QueryStateAsync(CancellationToken.None);
                if (state == "running")
                {
                    return true;
                }

                // QEMU calls its migration cancelled before it lets the guest go on, and refuses 'cont' in between.
                if (state != "finish-migrate")
                {
                    await TryAsync("cont");
                }

                await Task.Delay(GoOnLookEvery);
            }
        }
        catch (Exception e) when (e is GodwitException or IOException)
        {
            // It has ended, or does not answer.
        }

        return false;
    }

    private async Task<bool> HasNoMigrationAsync()
    {
        JsonNode? migration = await ExecuteAsync("query-migrate", null, CancellationToken.None);
        return migration?["status"]?.GetValue<string>() is null or "none" or "failed" or "cancelled" or "completed";
    }

    private async Task TryAsync(string command)
    {
        try
        {
            await ExecuteAsync(command, null, CancellationToken.None);
        }
        catch (QmpException)
        {
            // There is nothing to cancel, or it is too early to go on: what QEMU says next tells.
        }
    }
}
