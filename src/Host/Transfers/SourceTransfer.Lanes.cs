using System.Diagnostics;
using System.Net.Sockets;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// A page lane: take pages, look at them, code them, send them.
public sealed partial class SourceTransfer
{
    /// <summary>What one lane's thread keeps from batch to batch.</summary>
    private sealed class LaneState(Lane lane, int wireVersion, long versionBytesMax) : IDisposable
    {
        public readonly Lane Lane = lane;
        public readonly TakenPages Taken = new();
        public readonly PageBatchBuilder Batch = new(wireVersion);
        public readonly List<(PageNumber Page, int Origin)> Known = new(PageBatch.ContentPagesMax);
        public readonly PageSifter Sifter = new(new SentVersions(versionBytesMax));
        public readonly byte[] Frame = new byte[FrameHeader.Size + PageBatch.EncodedBytesMax];
        public BlockCoding Coding;
        public int DeltaBytesMax;
        public int Round;
        public int Unchanged;
        public bool SendsWhole;
        public bool SendsWritten;
        public bool MayName;
        public bool TakesChanged;
        public long Reported = Stopwatch.GetTimestamp();
        public TimeSpan LinkWait;
        public TimeSpan Writing;
        public TimeSpan WritingCpu;
        public TimeSpan? Carried;
        public TimeSpan? Carrying;

        public void Dispose() => Batch.Dispose();
    }

    private void ServeLane(Lane lane)
    {
        if (terms.IsUrgent(lane.Number))
        {
            ThreadTime.ServeGuest();
        }
        else
        {
            ThreadTime.YieldToGuests();
        }

        using var state = new LaneState(lane, terms.WireVersion, VersionBytesMax() / terms.Lanes);
        try
        {
            while (true)
            {
                switch (NextWork(state))
                {
                    case LaneWork.End:
                        return;
                    case LaneWork.Barrier:
                        lane.Write(state.Frame.AsSpan(0, WriteBarrier(lane, state.Frame)));
                        break;
                    case LaneWork.PauseBarrier:
                        new FrameHeader(FrameType.PauseBarrier, 0).Write(state.Frame);
                        lane.Write(state.Frame.AsSpan(0, FrameHeader.Size));
                        break;
                    case LaneWork.Batch:
                        SendBatch(state);
                        break;
                }
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            Enter(now => _engine.LinkLost($"Lane {lane.Number} to {terms.To} broke: {e.Message}", now));
        }
    }

    // What QEMU gives its own cache of that kind, and no more than a daemon of 256 MiB can spare beside the windows of
    // its coders; a small guest does not need as much.
    private long VersionBytesMax() => Math.Min(_memory.Sum(m => m.Length) / 4, 64 << 20);

    private LaneWork NextWork(LaneState state)
    {
        lock (_gate)
        {
            while (true)
            {
                LaneWork work = _engine.Take(state.Lane.Number - 1, state.Taken, Now, out TimeSpan wait);
                if (work != LaneWork.Wait)
                {
                    state.Coding = _engine.NextCoding();
                    state.DeltaBytesMax = _engine.DeltaBytesMax;
                    state.Round = _engine.Round;
                    state.SendsWhole = _engine.SendsWhole || !_engine.MayName(state.Lane.Number - 1);
                    state.SendsWritten = _engine.SendsWritten;
                    state.MayName = _engine.MayName(state.Lane.Number - 1);
                    state.TakesChanged = arrived is not null && state.DeltaBytesMax > 0 && _engine.TakesChanged;
                    if (work == LaneWork.Batch && !_engine.IsShared(state.Taken.Block))
                    {
                        state.Batch.Begin(state.Taken.Block.Index, state.Taken.Region);
                        state.Unchanged = 0;
                        _engine.TakeCarried(state.Taken, state.Batch);
                    }

                    return work;
                }

                bool link = _engine.WaitsForLink;
                long begun = Stopwatch.GetTimestamp();
                Monitor.Wait(_gate, Math.Clamp((int)wait.TotalMilliseconds, 1, 50));
                state.LinkWait += link ? Stopwatch.GetElapsedTime(begun) : TimeSpan.Zero;
            }
        }
    }

    private void SendBatch(LaneState state)
    {
        PageBatchBuilder batch = state.Batch;
        state.Known.Clear();
        long working = Stopwatch.GetTimestamp();
        TimeSpan begun = ThreadTime.Now;
        if (_engine.IsShared(state.Taken.Block))
        {
            batch.Begin(state.Taken.Block.Index, state.Taken.Region);
            state.Unchanged = Fill(state);
            if (state.MayName)
            {
                NameKnown(state);
            }
        }

        int length = 0;
        TimeSpan read = ThreadTime.Now;
        if (batch.Pages > 0)
        {
            int encoded = batch.Encode(state.Frame.AsSpan(FrameHeader.Size), state.Coding);
            new FrameHeader(FrameType.PageBatch, encoded).Write(state.Frame);
            length = FrameHeader.Size + encoded;
        }

        TimeSpan coded = ThreadTime.Now;
        TimeSpan worked = Stopwatch.GetElapsedTime(working);
        lock (_gate)
        {
            // Before the write: the destination may acknowledge the bytes before this thread runs again.
            state.Known.ForEach(known => _engine.SendsKnown(state.Taken.Block, known.Page, known.Origin));
            _engine.Sent(Report(state, length, read - begun, coded - read, worked), Now);
            Pump();
        }

        if (length > 0)
        {
            long writing = Stopwatch.GetTimestamp();
            state.Lane.Write(state.Frame.AsSpan(0, length));
            state.WritingCpu = ThreadTime.Now - coded;
            state.Writing = Stopwatch.GetElapsedTime(writing);
            TimeSpan? carried = state.Lane.Carried;
            state.Carrying += carried - state.Carried;
            state.Carried = carried;
        }
    }

    private static SentBatch Report(
        LaneState state, int length, TimeSpan reading, TimeSpan coding, TimeSpan working)
    {
        PageBatchBuilder batch = state.Batch;
        var report = new SentBatch
        {
            Pages = state.Taken.Count,
            ZeroByRecord = state.Taken.Count - state.Taken.Contents,
            Zero = batch.Count(PageKind.Zero),
            Word = batch.Count(PageKind.Word),
            Unchanged = state.Unchanged,
            Delta = batch.Count(PageKind.Delta),
            Changed = batch.Count(PageKind.Changed),
            Known = batch.Count(PageKind.Known),
            Raw = batch.Count(PageKind.Raw),
            Content = batch.Count(PageKind.Content),
            BlockBytes = length > 0 ? batch.BlockBytes : 0,
            CodedBytes = length > 0 ? batch.CodedBytes : 0,
            FrameBytes = length,
            Coding = state.Coding,
            CodingCpu = coding,
            ReadingCpu = reading,
            WritingCpu = state.WritingCpu,
            Working = working,
            Writing = state.Writing,
            LinkWait = state.LinkWait,
            Carrying = state.Carrying,
            Elapsed = Stopwatch.GetElapsedTime(state.Reported),
        };
        state.Reported = Stopwatch.GetTimestamp();
        state.LinkWait = state.Writing = state.WritingCpu = TimeSpan.Zero;
        state.Carrying = state.Carried is null ? null : TimeSpan.Zero;
        return report;
    }

    // Reads runs of consecutive pages at once, and leaves out what the destination has; gives how many that are.
    private int Fill(LaneState state)
    {
        (TakenPages taken, PageBatchBuilder batch) = (state.Taken, state.Batch);
        GuestMemory memory = _memory.First(m => m.Name == taken.Block.Name);
        PageFingerprints sent = _sent[taken.Block.Name];
        int unchanged = 0;
        for (int i = 0; i < taken.Count; i++)
        {
            if (taken.IsPlain(i))
            {
                state.Sifter.Forget(taken.Block.Index, taken[i], sent);
            }
        }

        for (int i = 0; i < taken.Count;)
        {
            if (taken.IsZero(i))
            {
                if (state.SendsWhole || state.Sifter.SiftZero(taken.Block.Index, taken[i], sent))
                {
                    batch.AddZero(taken[i]);
                }
                else
                {
                    unchanged++;
                }

                i++;
                continue;
            }

            int count = 1;
            while (i + count < taken.Count && !taken.IsZero(i + count)
                && taken[i + count].Value == taken[i].Value + count)
            {
                count++;
            }

            memory.Read(taken[i], batch.AddContents(taken[i], count));
            i += count;
        }

        if (state.SendsWhole)
        {
            return 0;
        }

        return unchanged
            + state.Sifter.Sift(batch, taken.Block.Index, sent, state.DeltaBytesMax, state.Round, state.SendsWritten);
    }
}
