using System.Net.Sockets;
using Godwit.ChunkStore;
using Godwit.ChunkStore.Parcels;
using Godwit.ChunkStore.Storage;
using Godwit.ChunkStore.Trees;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Host.Transfers;
using Godwit.Migration;
using Godwit.Pages;
using Microsoft.Extensions.Logging;

namespace Godwit.Host.Parcels;

// A guest that an earlier daemon left without all of its memory.
public sealed partial class LazyMemory
{
    /// <summary>Whether an earlier daemon left the QEMU of a guest with a stream that can be taken up.</summary>
    /// <param name="parcel">The one that it is filled from.</param>
    public static bool IsLeft(MachineContract contract, string runtimeDirectory, string parcel) =>
        HeldStream.Load(runtimeDirectory)?.Migration == parcel
        && QemuMachine.FindProcess(contract, runtimeDirectory) is not null;

    /// <summary>Goes on where an earlier daemon stopped: what is not there yet is brought.</summary>
    /// <remarks>QEMU's monitor is not asked: one whose devices wait for a page does not answer.</remarks>
    /// <returns>Null if its QEMU has ended, or has all of its memory.</returns>
    /// <exception cref="IOException">It is there, and cannot be taken up now; the message says why.</exception>
    /// <exception cref="ChunkLostException">A node of the memory's tree cannot be had.</exception>
    public static LazyMemory? TryTakeUp(
        MachineContract contract, ParcelManifest manifest, Store store, GuestInventory? inventory,
        string runtimeDirectory, ILogger logger)
    {
        ParcelPart part = manifest.Memory[0];
        // First what may fail: QEMU is asked nothing before all is there to answer it.
        using StoreReader tree = store.OpenReader(inventory, CancellationToken.None);
        ChunkId[] ids = ChunkTree.Load(part.RootId, part.Pages, tree);
        HeldGuest? held;
        try
        {
            held = HeldGuest.TryOpen(contract, runtimeDirectory, manifest.Id);
        }
        catch (EndOfStreamException)
        {
            // It closes its stream when it has everything, or when it has failed: whoever watches it finds out.
            HeldStream.Forget(runtimeDirectory);
            return null;
        }

        if (held is null)
        {
            return null;
        }

        RamBlock? block = held.Stream.Head.Blocks.FirstOrDefault(
            one => one.Name == part.Name && one.Length == part.Bytes);
        // Its process and its memory were looked at; the stream is what goes on.
        held.Memory.Dispose();
        held.Process.Dispose();
        if (block is null || held.Missing.Of(block.Index) is not { } missing)
        {
            held.Qemu.Dispose();
            throw new IOException($"its memory is not the {part.Bytes} bytes of {part.Name} that the parcel has");
        }

        var lazy = new LazyMemory(
            contract.Name, runtimeDirectory, store, inventory, held.Qemu, held.Stream.Head, block, ids, missing, logger)
        {
            _path = new ReturnPathReader(takenUp: true),
        };
        IReadOnlyList<ReturnPathMessage> requests = held.Requests;
        lazy.Start("serve", reader =>
        {
            foreach (ReturnPathMessage request in requests)
            {
                if (lazy.Take(reader, request))
                {
                    lazy._completed.TrySetResult();
                    return;
                }
            }

            lazy.Serve(reader);
        });
        if (lazy._outstanding == 0)
        {
            // The earlier one delivered everything and did not come to say so.
            lazy.Start("end", _ => lazy.SendEnd());
        }
        else
        {
            lazy.Start("fetch", reader => lazy.Fetch(reader, null));
        }

        return lazy;
    }
}
