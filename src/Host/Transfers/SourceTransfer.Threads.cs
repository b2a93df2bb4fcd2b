using System.Buffers;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// The loops: QEMU's stream, page lanes, control lane, effects.
public sealed partial class SourceTransfer
{
    private void ReadFeed()
    {
        byte[] buffer = new byte[FeedBufferBytes];
        long read = 0;
        long caughtUpAt = 0;
        long sectionsWanted = long.MaxValue;
        bool wasOpen = false;
        try
        {
            while (true)
            {
                bool open;
                lock (_gate)
                {
                    open = _engine.FeedOpen;
                    if (_engine.Phase == MigrationPhase.Ended)
                    {
                        return;
                    }

                    if (!open)
                    {
                        Monitor.Wait(_gate, TickMilliseconds);
                        wasOpen = false;
                        continue;
                    }
                }

                if (!wasOpen)
                {
                    // Whatever lies in the socket now was written before, and so was the section QEMU is stuck in;
                    // only the section after that one comes from a fresh look at its bitmap.
                    caughtUpAt = read + _qemu!.Available + 1;
                    sectionsWanted = long.MaxValue;
                    wasOpen = true;
                }

                // Never blocked in the socket for long: to wake a reader, .NET would shut the connection down, and QEMU
                // would resume a guest that may have been handed over.
                if (!_qemu!.Poll(FeedPatience, SelectMode.SelectRead))
                {
                    continue;
                }

                int count = _qemu.Receive(buffer);
                if (count == 0)
                {
                    return;
                }

                read += count;
                lock (_gate)
                {
                    _engine.Feed(buffer.AsSpan(0, count), Now);
                    if (read >= caughtUpAt && sectionsWanted == long.MaxValue)
                    {
                        sectionsWanted = _engine.SectionsEnded + FreshSections;
                    }

                    if (_engine.SectionsEnded >= sectionsWanted)
                    {
                        _engine.FeedCaughtUp(Now);
                        sectionsWanted = _engine.SectionsEnded + 1;
                    }

                    Pump();
                }
            }
        }
        catch (StreamFormatException e)
        {
            Enter(now => _engine.Broken(e, now));
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            Enter(now => _engine.QemuFailed($"QEMU's migration stream broke: {e.Message}", now));
        }
    }

    private void ReadControl()
    {
        ThreadTime.ServeGuest();
        byte[] buffer = new byte[FrameHeader.ControlBodyMax];
        try
        {
            while (_lanes[0].Read(buffer) is { } header)
            {
                ControlMessage message = ControlMessage.Decode(header.Type, buffer.AsSpan(0, header.BodyLength));
                Enter(now => _engine.Receive(message, now));
            }

            Enter(now => _engine.LinkLost($"{terms.To} closed the control lane.", now));
        }
        catch (StreamFormatException e)
        {
            Enter(now => _engine.Broken(e, now));
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            Enter(now => _engine.LinkLost($"The control lane to {terms.To} broke: {e.Message}", now));
        }
    }

    private async Task PerformEffectsAsync()
    {
        var writer = new ArrayBufferWriter<byte>();
        await foreach (Effect effect in _effects.Reader.ReadAllAsync())
        {
            try
            {
                await PerformAsync(effect, writer);
            }
            // Whatever it was: an effect that failed unheard would leave the guest in the middle of its move.
            catch (Exception e)
            {
                LogEffectFailed(terms.Guest, effect.GetType().Name, e.Message);
                if (effect is Effect.Send)
                {
                    Enter(now => _engine.LinkLost($"The control lane to {terms.To} broke: {e.Message}", now));
                }
                else if (effect is not (Effect.AbandonQemu or Effect.RecordReclaim))
                {
                    Enter(now => _engine.QemuFailed($"{effect.GetType().Name} failed: {e.Message}", now));
                }
            }

            if (effect is Effect.End)
            {
                _ended.TrySetResult();
            }
        }
    }

    private async Task PerformAsync(Effect effect, ArrayBufferWriter<byte> writer)
    {
        switch (effect)
        {
            case Effect.Send send when _lanes.Length > 0:
                writer.ResetWrittenCount();
                send.Message.Encode(writer);
                _lanes[0].Write(writer.WrittenSpan);
                break;
            case Effect.AnswerPing ping:
                WriteReturnPath(w => ReturnPathWriter.Pong(w, ping.Value));
                break;
            case Effect.ReleaseSwitchover:
                WriteReturnPath(ReturnPathWriter.SwitchoverAck);
                break;
            case Effect.SetDowntimeLimit limit:
                await machine.ExecuteAsync(
                    "migrate-set-parameters", new JsonObject { ["downtime-limit"] = limit.Milliseconds }, default);
                break;
            case Effect.Throttle throttle:
                await ThrottleAsync(throttle.Percent);
                _ = WatchThrottleAsync();
                break;
            case Effect.AskForTurn:
                _ = AwaitTurnAsync();
                break;
            case Effect.GiveTurnBack:
                lock (_gate)
                {
                    _turn?.Dispose();
                    _turn = null;
                }

                break;
            case Effect.CheckMemory check:
                CheckMemory(check.Blocks);
                break;
            case Effect.HoldStream:
                await machine.HoldStreamAsync(_qemu!, default);
                _held = true;
                Enter(now => _engine.StreamHeld(now));
                break;
            case Effect.RecordCommit:
                await RecordCommitAsync();
                break;
            case Effect.RecordReclaim:
                await handOver.RecordReclaim();
                break;
            case Effect.ConfirmToQemu:
                WriteReturnPath(w => ReturnPathWriter.Shut(w, 0));
                await AwaitQemuCompletedAsync();
                break;
            case Effect.AbandonQemu:
                await AbandonQemuAsync();
                break;
            case Effect.RoundEnded ended:
                RoundReport r = ended.Round;
                LogRound(terms.Guest, r.Number, r.Pages, r.WireBytes, r.Duration.TotalSeconds, r.DirtyBytesPerSecond);
                Report(force: true);
                break;
        }
    }

    private void CheckMemory(IReadOnlyList<RamBlock> blocks)
    {
        long begun = Stopwatch.GetTimestamp();
        var differing = new List<PageNumber>();
        byte[] content = new byte[Page.Size];
        int total = 0;
        foreach (RamBlock block in blocks)
        {
            GuestMemory memory = _memory.First(m => m.Name == block.Name);
            PageFingerprints sent = _sent[block.Name];
            for (long number = 0; number < block.PageCount; number++)
            {
                var page = new PageNumber(number);
                bool allocated = memory.IsAllocated(page);
                if (allocated)
                {
                    memory.Read(page, content);
                }

                if (!sent.Matches(page, allocated ? content : []))
                {
                    differing.Add(page);
                }

                // Lanes work on what has been found while the rest is looked at.
                if (number % Page.RegionPages == Page.RegionPages - 1 || number == block.PageCount - 1)
                {
                    total += differing.Count;
                    Enter(_ => differing.ForEach(differs => _engine.PageDiffers(block.Index, differs)));
                    differing.Clear();
                }
            }
        }

        Enter(now => _engine.MemoryChecked(now));
        LogMemoryChecked(
            terms.Guest, machine.Version, Stopwatch.GetElapsedTime(begun).TotalMilliseconds, total);
    }

    private async Task RecordCommitAsync()
    {
        try
        {
            await handOver.RecordCommit();
        }
        catch (Exception e)
        {
            // Whatever it was: the engine has to hear of it, or the guest stands still for ever.
            Enter(now => _engine.CommitNotRecorded(e.Message, now));
            return;
        }

        Enter(now => _engine.CommitRecorded(now));
    }

    private void WriteReturnPath(Action<IBufferWriter<byte>> write)
    {
        var writer = new ArrayBufferWriter<byte>(16);
        write(writer);
        _qemu!.Send(writer.WrittenSpan);
    }

    private async Task AwaitQemuCompletedAsync()
    {
        // QEMU has been told that the destination has everything; until it says completed it might still resume.
        for (int i = 0; i < 200; i++)
        {
            JsonNode? info = await machine.ExecuteAsync("query-migrate", null, default);
            if (info?["status"]?.GetValue<string>() == "completed")
            {
                _qemuDowntime = TimeSpan.FromMilliseconds(info["downtime"]?.GetValue<long>() ?? 0);
                return;
            }

            await Task.Delay(10);
        }
    }

    // QEMU slows the guest at its second look at a dirty rate above its threshold; from there on it knows no way down
    // but the end of the migration, so it is asked for no more than is needed.
    private Task<JsonNode?> ThrottleAsync(int percent) => machine.ExecuteAsync(
        "migrate-set-parameters", new JsonObject
        {
            ["cpu-throttle-initial"] = percent,
            ["cpu-throttle-increment"] = Math.Max(1, percent),
            ["max-cpu-throttle"] = percent,
            ["throttle-trigger-threshold"] = 1,
        }, default);

    private async Task WatchThrottleAsync()
    {
        if (Interlocked.Exchange(ref _watchesThrottle, 1) != 0)
        {
            return;
        }

        try
        {
            // Not in the pause: QEMU answers nothing then.
            while (_engine.Phase == MigrationPhase.Copying)
            {
                JsonNode? state = await machine.ExecuteAsync("query-migrate", null, default);
                int percent = (int?)state?["cpu-throttle-percentage"] ?? 0;
                Enter(_ => _engine.Throttled(percent));
                await Task.Delay(ThrottleLookEvery);
            }
        }
        catch (Exception e) when (e is QmpException or GodwitException or IOException)
        {
            // The report says less than it could.
        }
    }

    private async Task AwaitTurnAsync()
    {
        IDisposable turn = await turns!.EnterAsync();
        lock (_gate)
        {
            if (_ended.Task.IsCompleted)
            {
                turn.Dispose();
                return;
            }

            _turn = turn;
            _engine.TurnGranted(Now);
            Pump();
        }
    }

    // Ends QEMU's migration whatever it is doing. Closing the socket wakes a QEMU that is blocked in its write or waits
    // for the destination's verdict; it resumes the guest by itself if it had paused it.
    private async Task AbandonQemuAsync()
    {
        try
        {
            if (_held)
            {
                await machine.ReleaseStreamAsync(default);
            }

            // Before any other command: a QEMU that is blocked in its write answers none.
            _qemu?.Dispose();
            await machine.ExecuteAsync("migrate_cancel", null, default);
        }
        catch (Exception e) when (e is QmpException or GodwitException)
        {
            // It has ended by itself meanwhile.
        }

        for (int i = 0; i < 500; i++)
        {
            JsonNode? migration = await machine.ExecuteAsync("query-migrate", null, default);
            string status = migration?["status"]?.GetValue<string>() ?? "none";
            if (status is "failed" or "cancelled" or "none")
            {
                break;
            }

            await Task.Delay(10);
        }

        JsonNode? run = await machine.ExecuteAsync("query-status", null, default);
        if (run?["running"]?.GetValue<bool>() == false)
        {
            await machine.ExecuteAsync("cont", null, default);
        }
    }
}
