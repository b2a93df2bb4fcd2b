using System.Text;
using Godwit.Migration;
using Godwit.Migration.HandOver;
using Godwit.Pages;

namespace Godwit.Simulation;

// What has to hold, after each step and in the end.
internal sealed partial class World
{
    // QEMU's life.

    public void Started(ModelQemu qemu)
    {
        Note($"{qemu.Host}: the guest runs");
        _running.Add(qemu);
        if (_running.Count > 1 && !_operatorErred)
        {
            Violate("the guest runs on both hosts");
        }
    }

    public void Stopped(ModelQemu qemu)
    {
        Note($"{qemu.Host}: the guest stands still");
        _running.Remove(qemu);
    }

    /// <summary>The source's QEMU has stopped the guest for the switchover: this is what has to arrive.</summary>
    public void Paused(ModelQemu qemu)
    {
        byte[][] memory = Guest.NewMemory();
        foreach (RamBlock block in Guest.Blocks)
        {
            qemu.Memory[block.Index].CopyTo(memory[block.Index], 0);
        }

        _paused[qemu.Migration] = memory;
    }

    /// <summary>What a copy remembers of its disk has to be what the disk holds.</summary>
    public void CheckAgrees(ModelQemu qemu)
    {
        // Its own count of what it has written may not have come yet.
        if (!_operatorErred && !qemu.IsMissing(0, 0) && !Guest.Agrees(qemu.Memory))
        {
            Violate($"the guest on {qemu.Host} has fallen behind its disk: another copy has run");
        }
    }

    /// <summary>The guest runs at the destination.</summary>
    public void Arrived(string migration) => _hasRun.Add(migration);

    /// <summary>The destination's QEMU is about to use the guest's memory.</summary>
    public void CheckArrived(ModelQemu qemu)
    {
        if (!_paused.TryGetValue(qemu.Migration, out byte[][]? paused))
        {
            Violate($"device state of {qemu.Migration} came before the pause");
            return;
        }

        foreach (RamBlock block in Guest.Blocks)
        {
            for (int page = 0; page < block.PageCount; page++)
            {
                if (!qemu.IsMissing(block.Index, page) && !CheckPage(qemu, block.Index, page))
                {
                    return;
                }
            }
        }
    }

    /// <summary>A page that the guest gets to see for the first time is what it was at the pause.</summary>
    public bool CheckPage(ModelQemu qemu, int block, int page)
    {
        var at = new Range(page * Page.Size, (page + 1) * Page.Size);
        bool isRight = _paused[qemu.Migration][block].AsSpan()[at].SequenceEqual(qemu.Memory[block].AsSpan()[at]);
        if (!isRight)
        {
            Violate($"page {page} of {Guest.Blocks[block].Name} is not what it was at the pause");
        }

        return isRight;
    }

    // What has been promised.

    /// <summary>The host has been told that the record is durable: it may not be missing afterwards.</summary>
    public void Acknowledged(string host, HandOverRecord record) =>
        _acknowledged[(host, record.Migration)] = record.State;

    /// <summary>The newest state that the host has recorded, whoever knows of it.</summary>
    public HandOverState? Recorded(string host, string migration) =>
        _acknowledged.TryGetValue((host, migration), out HandOverState state) ? state : null;

    public void CheckAcknowledged(string host, HandOverJournal journal)
    {
        foreach (((string Host, string Migration) key, HandOverState state) in _acknowledged)
        {
            // A later one may be there that nobody was told of, or it is over and was dropped: the daemon died behind
            // the write.
            HandOverState? found = journal.Find(key.Migration)?.State;
            bool isNeeded = state is HandOverState.Committed or HandOverState.Overruled or HandOverState.Resuming;
            if (key.Host == host && found != state
                && (found is null ? isNeeded : !HandOverRecord.MayFollow(state, found.Value)))
            {
                Violate($"{host} has lost its record of {key.Migration} as {state}");
            }
        }

        foreach (HandOverRecord record in journal.Records)
        {
            Acknowledged(host, record);
        }
    }

    private void Check()
    {
        _conformance?.Observe();
        foreach (ModelQemu qemu in _running)
        {
            CheckAgrees(qemu);
        }
    }

    private void CheckQuiet()
    {
        if (Violation is not null)
        {
            return;
        }

        string[] owners = [.. _hosts.Values.Where(host => host.Daemon!.Owns).Select(host => host.Name)];
        if (owners.Length != 1)
        {
            Violate($"{owners.Length} hosts would start the guest: {Describe()}");
        }
        else if (_running.Count > 1)
        {
            Violate($"the guest runs on both hosts: {Describe()}");
        }
        else if (_running.Count == 1 && _running.Single().Host != owners[0])
        {
            Violate($"the guest does not run where it belongs: {Describe()}");
        }
        else if (_running.Count == 0 && !_mayBeDead)
        {
            Violate($"the guest runs nowhere: {Describe()}");
        }
        else if (_running.Count == 1 && _running.Single().Lacks > 0)
        {
            Violate($"the guest lacks {_running.Single().Lacks} pages, and nobody brings them: {Describe()}");
        }
        else if (_hosts.Values.Any(host => host.Qemu is { IsAlive: true, Runs: false }))
        {
            Violate($"a copy is left over: {Describe()}");
        }

        Report.Count(_running.Count == 1 ? "guest runs" : "guest died");
    }

    // What the hosts know has to be what their disks know.
    private void RestartBoth()
    {
        if (Violation is not null)
        {
            return;
        }

        string before = Place();
        _hosts.Values.ToList().ForEach(host => KillDaemon(host.Name));
        TimeSpan deadline = Time.Now + HealedWithin;
        do
        {
            Time.Step();
        }
        while (Violation is null && !IsQuiet && Time.Now < deadline);

        if (Violation is null && !IsQuiet)
        {
            Violate($"after a restart it does not come to rest: {Describe()}");
        }
        else if (Place() != before)
        {
            Violate($"a restart changes it from {before} to {Place()}");
        }
    }

    // A host that does not own the guest may forget who does: its disk may have been full when it learned that.
    private string Place() => string.Join(", ", _hosts.Values.Select(
        host => $"{host.Name}: copy {host.Qemu?.Copy ?? GuestCopy.Gone}"
            + (host.Daemon is { Owns: true } owner ? $", {owner.Describe()}" : "")));

    private string Describe()
    {
        var text = new StringBuilder();
        foreach (SimulatedHost host in _hosts.Values)
        {
            text.Append(text.Length > 0 ? "; " : "").Append(host.Name).Append(": copy ")
                .Append(host.Qemu?.Copy ?? GuestCopy.Gone).Append(", ")
                .Append(host.Daemon is { IsAlive: true } daemon ? daemon.Describe() : "daemon down");
        }

        return text.ToString();
    }
}
