using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.Host.Inventory;

namespace Godwit.Host.Parcels;

/// <summary>What a guest that is filled later needs before it can run, besides its disks.</summary>
/// <param name="State">The head and the tail of QEMU's stream, and blocks that travel in it.</param>
/// <param name="Ids">Of each page of its memory.</param>
/// <param name="Wake">Pages that it is likely to touch first.</param>
/// <param name="Pages">Contents of those of them that are not all zeros and could be had.</param>
/// <param name="Report">What was read for it.</param>
public sealed record LazyContent(
    (byte[] Head, byte[] Tail, IReadOnlyList<(string Name, byte[] Content)> Carried) State, ChunkId[] Ids,
    IReadOnlyList<long> Wake, IReadOnlyDictionary<long, byte[]> Pages, RestoreReport Report)
{
    /// <summary>Reads it, for a store that is far while the caller waits for something else.</summary>
    /// <param name="inventory">The caller keeps it until <see cref="Reading"/> is disposed of.</param>
    public static Reading BeginRead(
        Store store, ParcelManifest manifest, GuestInventory? inventory, CancellationToken cancellationToken) =>
        new(store, manifest, inventory, cancellationToken);

    private static async Task<LazyContent> ReadAsync(
        Store store, ParcelManifest manifest, GuestInventory? inventory, CancellationToken stop)
    {
        // Each waits for trips of its own.
        var state = ReadAsync(
            store, manifest, inventory, (restorer, _) => restorer.ReadState(), stop);
        var memory = ReadAsync(
            store, manifest, inventory,
            (restorer, reader) =>
            {
                IReadOnlyList<long> wake = restorer.ReadWake();
                ParcelPart part = manifest.Memory[0];
                ChunkId[] ids = ChunkTree.Load(part.RootId, part.Pages, reader);
                return (Wake: wake, Ids: ids, Pages: restorer.ReadPages(wake, ids));
            },
            stop);
        // Both have ended then, also if one has failed.
        await Task.WhenAll(state, memory);
        var (device, first) = await state;
        var ((wake, ids, pages), second) = await memory;
        return new LazyContent(device, ids, wake, pages, first + second);
    }

    private static Task<(T Content, RestoreReport Report)> ReadAsync<T>(
        Store store, ParcelManifest manifest, GuestInventory? inventory, Func<ParcelRestorer, StoreReader, T> read,
        CancellationToken stop) => Task.Run(
        () =>
        {
            using StoreReader reader = store.OpenReader(inventory, stop);
            var restorer = new ParcelRestorer(reader, manifest, inventory);
            T content = read(restorer, reader);
            return (content, restorer.Report);
        },
        CancellationToken.None);

    /// <summary>A read that has begun.</summary>
    public sealed class Reading : IAsyncDisposable
    {
        private readonly CancellationTokenSource _stop;

        internal Reading(
            Store store, ParcelManifest manifest, GuestInventory? inventory, CancellationToken cancellationToken)
        {
            _stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            Result = ReadAsync(store, manifest, inventory, _stop.Token);
        }

        /// <summary>Ends when it is there.</summary>
        public Task<LazyContent> Result { get; }

        /// <summary>Ends it, and waits until it has ended.</summary>
        public async ValueTask DisposeAsync()
        {
            await _stop.CancelAsync();
            await ((Task)Result).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            _stop.Dispose();
        }
    }
}
