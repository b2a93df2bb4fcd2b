using System.Buffers;
using System.Buffers.Binary;
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

    private void ServeLane(Lane lane)
    {
        var taken = new TakenPages();
        using var batch = new PageBatchBuilder(terms.WireVersion);
        var coding = new CodingChoice(terms.Policy.Compression);
        var known = new List<(PageNumber Page, int Origin)>(PageBatch.ContentPagesMax);
        byte[] frame = new byte[FrameHeader.Size + PageBatch.EncodedBytesMax];
        try
        {
            while (true)
            {
                LaneWork work = NextWork(lane.Number - 1, taken, batch, out double linkRate);
                switch (work)
                {
                    case LaneWork.End:
                        return;
                    case LaneWork.Barrier:
                        lane.Write(frame.AsSpan(0, WriteBarrier(lane, frame)));
                        break;
                    case LaneWork.Batch:
                        SendBatch(lane, taken, batch, known, coding, linkRate, frame);
                        break;
                }
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            Enter(now => _engine.LinkLost($"Lane {lane.Number} to {terms.To} broke: {e.Message}", now));
        }
    }

    // Which of the destination's wishes this lane has answered: a wish that crossed the barrier makes it void.
    private int WriteBarrier(Lane lane, byte[] frame)
    {
        if (terms.WireVersion < WireVersions.Inventory)
        {
            new FrameHeader(FrameType.Barrier, 0).Write(frame);
            return FrameHeader.Size;
        }

        lock (_gate)
        {
            BinaryPrimitives.WriteInt32LittleEndian(
                frame.AsSpan(FrameHeader.Size), _engine.AsksAnswered(lane.Number - 1));
        }

        new FrameHeader(FrameType.Barrier, sizeof(int)).Write(frame);
        return FrameHeader.Size + sizeof(int);
    }

    private LaneWork NextWork(int lane, TakenPages taken, PageBatchBuilder batch, out double linkRate)
    {
        lock (_gate)
        {
            while (true)
            {
                LaneWork work = _engine.Take(lane, taken, Now, out TimeSpan wait);
                linkRate = _engine.LinkRate / terms.Lanes;
                if (work != LaneWork.Wait)
                {
                    if (work == LaneWork.Batch && !_engine.IsShared(taken.Block))
                    {
                        batch.Begin(taken.Block.Index, taken.Region);
                        _engine.TakeCarried(taken, batch);
                    }

                    return work;
                }

                Monitor.Wait(_gate, Math.Clamp((int)wait.TotalMilliseconds, 1, 50));
            }
        }
    }

    private void SendBatch(
        Lane lane, TakenPages taken, PageBatchBuilder batch, List<(PageNumber Page, int Origin)> known,
        CodingChoice coding, double linkRate, byte[] frame)
    {
        int zeroPages = taken.Count - taken.Contents;
        known.Clear();
        if (_engine.IsShared(taken.Block))
        {
            batch.Begin(taken.Block.Index, taken.Region);
            Fill(taken, batch);
            NameKnown(taken, batch, known);
        }

        long begun = Stopwatch.GetTimestamp();
        int contents = batch.Slots - known.Count;
        bool code = coding.Codes(contents, linkRate);
        int encoded = batch.Encode(frame.AsSpan(FrameHeader.Size), code ? BlockCoding.Lz4 : BlockCoding.Plain);
        if (code)
        {
            coding.Coded(contents * Page.Size, encoded, Stopwatch.GetElapsedTime(begun));
        }

        new FrameHeader(FrameType.PageBatch, encoded).Write(frame);
        int length = FrameHeader.Size + encoded;
        lock (_gate)
        {
            // Before the write: the destination may acknowledge the bytes before this thread runs again.
            known.ForEach(each => _engine.SendsKnown(taken.Block, each.Page, each.Origin));
            _engine.Sent(taken.Count, zeroPages, length, Now);
            Pump();
        }

        lane.Write(frame.AsSpan(0, length));
    }

    // Reads runs of consecutive pages at once.
    private void Fill(TakenPages taken, PageBatchBuilder batch)
    {
        GuestMemory memory = _memory.First(m => m.Name == taken.Block.Name);
        PageFingerprints? sent = _sent.GetValueOrDefault(taken.Block.Name);
        for (int i = 0; i < taken.Count;)
        {
            if (taken.IsZero(i))
            {
                batch.AddZero(taken[i]);
                sent?.Set(taken[i], []);
                i++;
                continue;
            }

            int count = 1;
            while (i + count < taken.Count && !taken.IsZero(i + count)
                && taken[i + count].Value == taken[i].Value + count)
            {
                count++;
            }

            Span<byte> contents = batch.AddContents(taken[i], count);
            memory.Read(taken[i], contents);
            for (int page = 0; sent is not null && page < count; page++)
            {
                sent.Set(taken[i + page], contents.Slice(page * Page.Size, Page.Size));
            }

            i += count;
        }
    }

    private void ReadControl()
    {
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
                else if (effect is not Effect.AbandonQemu)
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
            case Effect.CheckMemory check:
                CheckMemory(check.Blocks);
                break;
            case Effect.RecordCommit:
                await RecordCommitAsync();
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
        await machine.HoldStreamAsync(_qemu!, default);
        _held = true;
        await recordCommit();
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
