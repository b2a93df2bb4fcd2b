using System.Runtime.ExceptionServices;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>What a store's failures mean to the user.</summary>
internal static class StoreErrors
{
    /// <summary>Whether <see cref="Explain(string, Exception)"/> knows it.</summary>
    public static bool IsKnown(Exception exception) => exception is StorageException or StoreFormatException
        or ChunkLostException or ParcelRefusedException
        || (exception is GodwitException known && known.Code == "store-key");

    public static GodwitException Explain(string store, Exception exception) => exception switch
    {
        GodwitException known => known,
        StorageException { Failure: StorageFailure.Full } full => new GodwitException("store-full",
            $"Store '{store}' takes no more: {full.Message}",
            $"Make room: remove parcels with 'godwit vm forget' and collect with 'godwit store gc {store}', raise its "
            + "quota, or use another store.", exception),
        StorageException { Failure: StorageFailure.Denied } denied => new GodwitException("store-denied",
            $"Store '{store}' refuses this host: {denied.Message}",
            "Check the owner and mode of its directory; or the keys to its bucket, what they may do there (get, put, "
            + "delete, list), and this host's clock.", exception),
        StorageException { Failure: StorageFailure.Unsuited } unsuited => new GodwitException("store-unsuited",
            $"Store '{store}' cannot lie there: {unsuited.Message}",
            "Put it on a file system with hard links (ext4, XFS, Btrfs, NFS, CephFS), or into an object store that "
            + "honours 'If-None-Match: *' when it puts (AWS S3, Ceph's radosgw).", exception),
        StorageException { Failure: StorageFailure.Changed } changed => new GodwitException("store-changed",
            $"Store '{store}' is not what it was: {changed.Message}",
            $"Check what is mounted there, and the clocks of its hosts; then try again. If it is to be another store: "
            + $"'godwit store forget {store}', and 'godwit store create'.", exception),
        StorageException unreachable => new GodwitException("store-unreachable",
            $"Store '{store}' cannot be reached: {unreachable.Message}",
            "Check that its file system is mounted, or its server answers; then try again.", exception),
        StoreFormatException { IsNewer: true } newer => new GodwitException("store-newer",
            $"Store '{store}': {newer.Message}", "Install the godwitd version that wrote it, or a newer one.",
            exception),
        ParcelRefusedException { IsNewer: true } newer => new GodwitException("store-newer",
            $"Store '{store}': {newer.Message}", "Install the godwitd version that wrote it, or a newer one.",
            exception),
        ParcelRefusedException refused => new GodwitException("parcel-refused",
            $"Store '{store}': {refused.Message}",
            "Use another parcel of the guest: 'godwit vm history' lists them. A parcel of another cluster has to be "
            + "resumed there.", exception),
        _ => new GodwitException("store-broken", $"Store '{store}': {exception.Message}",
            $"See what is lost: 'godwit store verify {store}'; with '--repair-from STORE' it is brought from another "
            + "store.", exception),
    };

    /// <summary>The same, with a last sentence that says where the guest is now.</summary>
    /// <remarks>What is not known is thrown again as it is.</remarks>
    public static GodwitException Explain(string store, Exception exception, string place)
    {
        if (exception is not GodwitException && !IsKnown(exception))
        {
            ExceptionDispatchInfo.Throw(exception);
        }

        var known = Explain(store, exception);
        return new GodwitException(known.Code, $"{known.Message.TrimEnd('.')}. {place}", known.Remedy, exception);
    }

    /// <summary>Runs work on a store; its failures become ones that a user understands.</summary>
    public static async Task<T> GuardAsync<T>(string store, Func<Task<T>> work)
    {
        try
        {
            return await work();
        }
        catch (Exception exception) when (IsKnown(exception))
        {
            throw Explain(store, exception);
        }
    }
}
