using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Host.Qemu;
using Godwit.Migration;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// What the engine wants done, one after the other.
public sealed partial class DestinationTransfer
{
    private async Task PerformEffectsAsync()
    {
        var writer = new ArrayBufferWriter<byte>();
        await foreach (Effect effect in _effects.Reader.ReadAllAsync())
        {
            try
            {
                await PerformAsync(effect, writer);
            }
            catch (Exception e)
            {
                LogEffectFailed(terms.Guest, effect.GetType().Name, e.Message);
                Enter(now =>
                {
                    if (effect is Effect.Send)
                    {
                        _engine.LaneLost($"The control lane to {terms.From} broke: {e.Message}", now);
                    }
                    else
                    {
                        _engine.QemuFailed($"{effect.GetType().Name} failed: {e.Message}", now);
                    }
                });
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
            case Effect.Send send when _lanes[0] is { } control:
                writer.ResetWrittenCount();
                send.Message.Encode(writer);
                control.Write(writer.WrittenSpan);
                break;
            case Effect.WritePrologue prologue:
                WritePrologue(prologue);
                break;
            case Effect.WriteCommand command:
                Write(stream => stream.Command(command.Number, command.Payload.Span));
                break;
            case Effect.WriteEnd:
                Write(stream =>
                {
                    stream.BeginEnd();
                    stream.EndSection();
                });
                break;
            case Effect.WriteDeviceState state:
                SendAll(state.Bytes.Span);
                break;
            case Effect.ForgetMissing:
                ForgetMissing();
                break;
            case Effect.BeginDelivery:
                BeginDelivery();
                break;
            case Effect.WriteZeroPage zero:
                WriteZeroPage(zero);
                break;
            case Effect.WriteEndOfPostcopy:
                Write(stream =>
                {
                    stream.BeginEnd();
                    stream.EndSection();
                    stream.EndOfStream();
                });
                break;
            case Effect.CloseLanes lost:
                await Task.Run(() => CloseLanes(lost.Because));
                break;
            case Effect.RecordResuming:
                await RecordAsync(handOver.RecordResuming, _engine.ResumingRecorded, _engine.ResumingNotRecorded);
                break;
            case Effect.RunGuest when terms.Postcopy:
                // What QEMU needs before it can answer is asked for, and comes, meanwhile.
                _ = Task.Run(RunGuestInPostcopyAsync);
                break;
            case Effect.RunGuest:
                await RunGuestAsync();
                break;
            case Effect.RecordRefusal:
                await RecordAsync(handOver.RecordRefusal, _engine.RefusalRecorded, _engine.RefusalNotRecorded);
                break;
        }
    }

    private void WritePrologue(Effect.WritePrologue prologue)
    {
        _opening = new QemuStreamWriter(_streamBuffer, _engine.Head!);
        _opening.Prologue(prologue.Verbatim.Span);
        _opening.Footer();
        if (terms.Postcopy)
        {
            // The order to be ready for postcopy is ours: the source's QEMU knows nothing of it. QEMU takes all memory
            // away then, and nothing may be written before it has.
            Span<byte> sizes = stackalloc byte[2 * sizeof(ulong)];
            BinaryPrimitives.WriteUInt64BigEndian(sizes, Page.Size);
            BinaryPrimitives.WriteUInt64BigEndian(sizes[sizeof(ulong)..], Page.Size);
            _opening.Command(QemuCommand.PostcopyAdvise, sizes);
            Span<byte> ping = stackalloc byte[sizeof(uint)];
            BinaryPrimitives.WriteUInt32BigEndian(ping, AdvisedPing);
            _opening.Command(QemuCommand.Ping, ping);
        }

        lock (_streamGate)
        {
            FlushStream();
        }

        if (!terms.Postcopy)
        {
            OpenStream();
        }
    }

    private void OpenStream()
    {
        lock (_gate)
        {
            _blocks = [.. _engine.Blocks!];
            _memoryOf = [.. _blocks.Select(
                b => _memory.FirstOrDefault(m => m.Name == b.Name && m.Length == b.Length))];
            _stream = _opening;
            Monitor.PulseAll(_gate);
        }
    }

    private void Write(Action<QemuStreamWriter> write)
    {
        lock (_streamGate)
        {
            write(_stream!);
            FlushStream();
        }
    }

    private void FlushStream()
    {
        SendAll(_streamBuffer.WrittenSpan);
        _streamBuffer.ResetWrittenCount();
    }

    private void SendAll(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[_qemu!.Send(bytes)..];
        }
    }

    private async Task RecordAsync(Func<Task> record, Action<TimeSpan> recorded, Action<string, TimeSpan> notRecorded)
    {
        try
        {
            await record();
        }
        catch (Exception e)
        {
            // Whatever it was: the engine has to hear of it, or the guest stands still for ever.
            Enter(now => notRecorded(e.Message, now));
            return;
        }

        Enter(recorded);
    }

    private async Task RunGuestInPostcopyAsync()
    {
        try
        {
            await RunGuestAsync();
        }
        catch (Exception e)
        {
            LogEffectFailed(terms.Guest, nameof(Effect.RunGuest), e.Message);
            Enter(now => _engine.QemuFailed($"The guest could not be run: {e.Message}", now));
        }
    }

    private async Task RunGuestAsync()
    {
        // No token is passed on: the source has given the guest up, and gets it back only if it cannot run here.
        long begun = Stopwatch.GetTimestamp();
        try
        {
            await machine!.ExecuteAsync("cont", null, CancellationToken.None);
        }
        catch (GodwitException e) when (terms.Postcopy)
        {
            // It waits for a page, and will have run when that has come; or it has ended, and somebody else notices.
            LogEffectFailed(terms.Guest, nameof(Effect.RunGuest), e.Message);
            await Task.WhenAny(_resumed.Task, machine!.Exited);
            if (!_resumed.Task.IsCompleted)
            {
                return;
            }
        }
        catch (QmpException e)
        {
            // For instance a disk whose lock the source's QEMU still has. QEMU said no, so the guest has not run.
            Enter(now => _engine.RunRefused(e.Message, now));
            return;
        }

        TimeSpan running = Stopwatch.GetElapsedTime(_started);
        TimeSpan announcement = await handOver.Arrive();
        Enter(now => _engine.GuestRunning(
            running, running + announcement, Environment.CpuUsage.TotalTime - _cpuAtStart, now));
        LogRunning(terms.Guest, Stopwatch.GetElapsedTime(begun).TotalMilliseconds);
    }
}
