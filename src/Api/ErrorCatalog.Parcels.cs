namespace Godwit.Api;

/// <summary>What goes wrong with stores, and with guests that are put into them.</summary>
public static partial class ErrorCatalog
{
    private static void AddParcels(AddEntry add)
    {
        add("guest-asleep", ExitCodes.Refused,
            "The guest sleeps in a parcel: its memory is in a store, and starting it from its disks would lose it.",
            "Wake it with 'godwit vm resume NAME'; 'godwit vm rm NAME' makes this host forget it.");
        add("parcel-unknown", ExitCodes.NotFound,
            "No store that this host knows has such a parcel, or its id is not unique.",
            "List parcels with 'godwit vm history', and stores with 'godwit store stats'.");
        add("parcel-refused", ExitCodes.Refused,
            "The parcel's manifest is damaged, or was not signed by a member of this cluster.",
            "Use another parcel of the guest. A parcel of another cluster has to be resumed there.");
        add("parcel-stale", ExitCodes.Refused,
            "The guest has been resumed from this parcel already, and belongs to the host that did so.",
            "Look at 'godwit vm show' there. 'godwit vm fork' begins another guest from the parcel.");
        add("parcel-needed", ExitCodes.Refused,
            "A guest runs, or is being resumed, from this parcel and has not got everything out of it yet.",
            "Wait until it has. 'godwit vm forget --force' removes the parcel all the same; the guest is then lost.");
        add("take-over-refused", ExitCodes.Refused,
            "A guest is taken over only from a host that is gone: one that answers may run it.",
            "Suspend the guest on the host that has it. Hosts that are gone for good are taken out of the cluster with "
            + "'godwit host remove'.");
        add("parcel-checkpoint", ExitCodes.Refused,
            "The parcel is a checkpoint: its guest went on after it, so to resume it would make a second copy.",
            "'godwit vm rollback' gives up what the guest was since, 'godwit vm fork' begins another guest.");
        add("parcel-copy", ExitCodes.Refused,
            "The parcel is a copy. Who may run its guest is decided in the store that it was made in, which this host "
                + "does not reach; otherwise the guest could run twice.",
            "Make that store known here, or begin another guest from the copy with 'godwit vm fork'.");
        add("parcel-memory", ExitCodes.Refused,
            "The guest's memory is not one that a parcel takes: it is private, or its video memory is too large.",
            "Only a guest with shared memory, the default, can be suspended into a store.");
        add("parcel-capture", ExitCodes.Failed,
            "QEMU did not give the state of the guest, which runs on.",
            "The message has QEMU's words; its log is in the guest's runtime directory.");
        add("parcel-load", ExitCodes.Failed,
            "QEMU does not take the state that the parcel has. The guest has not run; the parcel is as it was.",
            "Compare QEMU's version with the one in 'godwit vm history -o wide'.");
        add("parcel-disk", ExitCodes.Failed,
            "A disk image cannot be read into a parcel, or written from one; or another image is in its place, or a "
                + "QEMU writes to it.",
            "Check free space with 'df', and the owner and mode of the image and its directory. What is not the "
                + "guest's is never written over: move it away.");
        add("parcel-base-different", ExitCodes.Refused,
            "An image that the guest's disk is based on is another one on this host, and other guests may use it.",
            "Put the right image there, or move this one away: the parcel brings its own.");
        add("hoard-awake", ExitCodes.Refused,
            "The guest runs, and has no parcel that it would go on from: there is nothing to fetch ahead.",
            "Suspend it, or keep its state with 'godwit vm checkpoint'; what has changed since is fetched later.");
        add("hoard-busy", ExitCodes.Refused,
            "The host is fetching ahead for this guest already.",
            "Wait until that has ended, or end it with Ctrl-C where it was asked for.");
        add("hoard-ended", ExitCodes.Failed,
            "The host ended what it fetched ahead: it resumes the guest, or its daemon ends.",
            "What has come by then is used. If the guest still sleeps, hoard again: it goes on where it was.");
        add("hoard-off", ExitCodes.Refused,
            "The host fetches nothing ahead of its own accord.",
            "Set hoardMebibytes there; 'godwit vm hoard' works without it.");
        add("hoard-room", ExitCodes.Refused,
            "The host's inventory, or the disk that it is on, has no room for what would be fetched ahead.",
            "Raise inventoryMebibytes there, make room with 'godwit store trim', or free space on the disk.");
        add("qemu-older", ExitCodes.Refused,
            "The parcel was made by a later QEMU than the host has, which may not be able to read it.",
            "Upgrade QEMU on the host, or resume on another one.");
        add("suspend-unsettled", ExitCodes.NeedsOperator,
            "The store stopped answering while it took the parcel. The guest stands still until the store says whether "
                + "the parcel is there: it then sleeps, or runs on.",
            "Bring the store back; nothing else is to be done.");
        add("parcel-busy", ExitCodes.Failed,
            "The guest writes to its memory faster than the store takes it: a checkpoint would have to hold too much "
            + "of it in this host's memory. The guest runs on.",
            "Take the checkpoint when the guest has less to do, or suspend it.");
        add("store-unknown", ExitCodes.NotFound,
            "This host knows no store of that name, or several and none was named.",
            "'godwit store stats' lists the stores; 'godwit store create NAME --at DIRECTORY' makes one known.");
        add("store-invalid", ExitCodes.Usage,
            "The store's name, place or key file is not one that can be used.",
            "Give a short name and the absolute path of a directory.");
        add("store-key", ExitCodes.Refused,
            "The key file of an encrypted store is missing, damaged, or not a key.",
            "Copy it from a host that uses the store; owner root, mode 0600.");
        add("store-unreachable", ExitCodes.Failed,
            "The store does not answer, or is not where it was: its file system may not be mounted.",
            "Mount it, or bring its server back, and try again. What was stored is safe.");
        add("store-silent", ExitCodes.Failed,
            "The store took nothing for a while ('storeSilenceSeconds'). The guest runs on where it is, and no parcel "
                + "was made.",
            "See what is wrong with its file system or server, and try again.");
        add("store-full", ExitCodes.Failed,
            "The store has no room, or its quota is used up. What was stored is safe, and the guest is as it was.",
            "Remove parcels with 'godwit vm forget', collect with 'godwit store gc', or raise the quota.");
        add("store-denied", ExitCodes.Authentication,
            "The store refuses this host.",
            "Check the owner and mode of its directory, or the keys of its bucket.");
        add("store-unsuited", ExitCodes.Refused,
            "The file system cannot do what a store needs: it has no hard links.",
            "Put the store on ext4, XFS, Btrfs or NFS, for example.");
        add("store-changed", ExitCodes.Failed,
            "Another store lies where this one was, or this host is no longer known to be at work on it. Nothing was "
            + "made of what had been put.",
            "Check what is mounted there, and the clocks of its hosts; then try again.");
        add("store-busy", ExitCodes.Refused,
            "The host is at work on the store, or a guest of it sleeps there.",
            "Wait until the work has ended, or resume the guest.");
        add("store-newer", ExitCodes.Refused,
            "The store, or the parcel, was written by a later version of godwitd.",
            "Install that version, or a newer one.");
        add("store-broken", ExitCodes.Failed,
            "Something in the store is damaged or missing. Nothing damaged has been used.",
            "'godwit store verify' names what is lost; with '--repair-from STORE' it is brought from another store.");
    }
}
