using Godwit.Migration;

namespace Godwit.Host.Transfers;

/// <summary>What both ends agree on before the first lane connects.</summary>
/// <param name="Ticket">32 random bytes made by the destination; every lane presents them.</param>
/// <param name="WireVersion">Chosen by the destination within both ranges.</param>
/// <param name="Lanes">Page lanes beside the control lane.</param>
/// <param name="Postcopy">The migration may turn to postcopy: there is one lane more, for urgent pages.</param>
public sealed record TransferTerms(
    string MigrationId, string Guest, string From, string To, MigrationPolicy Policy,
    byte[] Ticket, int WireVersion, int Lanes, bool Postcopy = false)
{
    /// <summary>Page lanes and the urgent one.</summary>
    public int AllLanes => Lanes + (Postcopy ? 1 : 0);

    /// <summary>Whether a page lane is the one for pages that a guest waits for.</summary>
    /// <param name="lane">Its number; that of the first page lane is 1.</param>
    public bool IsUrgent(int lane) => lane > Lanes;
}

/// <summary>Wire protocol versions this build speaks; neighbours overlap.</summary>
public static class WireVersions
{
    public const int Min = 1;
    public const int Max = 4;

    /// <summary>From this one on the destination says what it can rebuild.</summary>
    public const int Inventory = 2;

    /// <summary>From this one on the guest may run at the destination before its memory is there.</summary>
    public const int Postcopy = 3;

    /// <summary>From this one on a page may come as what changed in it since the guest left it there.</summary>
    public const int ChangedPages = 4;
}
