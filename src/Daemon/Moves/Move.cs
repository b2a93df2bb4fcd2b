using Godwit.Host.Registry;
using Godwit.Migration;

namespace Godwit.Daemon.Moves;

/// <summary>One migration as this host sees it: its newest state, and a way to wait for the next.</summary>
internal sealed class Move(MigrationRecord record)
{
    private readonly Lock _lock = new();
    private MigrationRecord _record = record;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public string Id => Record.Id;

    public MigrationRecord Record
    {
        get
        {
            lock (_lock)
            {
                return _record;
            }
        }
    }

    public bool IsEnded => Record.Snapshot.Phase == MigrationPhase.Ended;

    /// <summary>Ends at the next change of the record.</summary>
    public Task Changed
    {
        get
        {
            lock (_lock)
            {
                return _changed.Task;
            }
        }
    }

    public MigrationRecord Set(Func<MigrationRecord, MigrationRecord> change)
    {
        TaskCompletionSource changed;
        MigrationRecord next;
        lock (_lock)
        {
            next = _record = change(_record);
            changed = _changed;
            _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }

        changed.SetResult();
        return next;
    }
}

/// <summary>Short ids that sort by time: 40 bits of milliseconds and 20 random ones, in Crockford's base 32.</summary>
internal static class MoveId
{
    private const string Digits = "0123456789abcdefghjkmnpqrstvwxyz";
    private const int Length = 12;
    private static readonly DateTimeOffset Epoch = new(2025, 1, 1, 0, 0, 0, TimeSpan.Zero);

    /// <summary>A new id; lasts until 2059.</summary>
    public static string Create(DateTimeOffset now)
    {
        const int RandomBits = 20;
        var value = ((long)(now - Epoch).TotalMilliseconds << RandomBits)
            | (long)System.Security.Cryptography.RandomNumberGenerator.GetInt32(1 << RandomBits);
        return string.Create(Length, value, static (text, bits) =>
        {
            for (var index = text.Length - 1; index >= 0; index--, bits >>= 5)
            {
                text[index] = Digits[(int)(bits & 31)];
            }
        });
    }
}
