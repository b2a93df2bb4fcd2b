using System.Buffers.Binary;
using System.Net.Sockets;
using Godwit.GuestStreams.Qemu;
using Godwit.Host.Inventory;
using Godwit.Migration;
using Godwit.Migration.Wire;
using Godwit.Pages;

namespace Godwit.Host.Transfers;

// Who waits for bytes: a thread for each lane, and one for QEMU's return path.
public sealed partial class DestinationTransfer
{
    private void ReadControl(Lane control)
    {
        byte[] buffer = new byte[FrameHeader.ControlBodyMax];
        Guarded("control lane", () =>
        {
            while (control.Read(buffer) is { } header)
            {
                ControlMessage message = ControlMessage.Decode(header.Type, buffer.AsSpan(0, header.BodyLength));
                Enter(now => _engine.Receive(message, now));
            }
        });
        Enter(now => _engine.LinkLost($"{terms.From} closed the control lane.", now));
    }

    private void ReadPages(Lane lane)
    {
        if (terms.IsUrgent(lane.Number))
        {
            ThreadTime.ServeGuest();
        }

        byte[] body = new byte[FrameHeader.PageBodyMax];
        using var decoder = new PageBatchDecoder(terms.WireVersion);
        var refused = new RefusedPages();
        var section = new DeliveredSection();
        bool delivers = _delivers;
        bool done = false;
        Guarded($"lane {lane.Number}", () =>
        {
            if (!WaitForBlocks())
            {
                return;
            }

            while (lane.Read(body) is { } header)
            {
                if (done)
                {
                    throw new StreamFormatException(0, $"Lane {lane.Number} goes on behind its barrier.");
                }

                switch (header.Type)
                {
                    case FrameType.PageBatch:
                        if (delivers)
                        {
                            Deliver(lane, body.AsSpan(0, header.BodyLength), decoder, refused, section);
                        }
                        else
                        {
                            Place(lane, body.AsSpan(0, header.BodyLength), decoder, refused);
                        }

                        Enter(now => _engine.BatchPlaced(FrameHeader.Size + header.BodyLength, now));
                        break;
                    case FrameType.PauseBarrier when !delivers && header.BodyLength == 0:
                        Enter(now => _engine.LanePaused(lane.Number, refused.TakeAll(), now));
                        if (!WaitForDelivery())
                        {
                            return;
                        }

                        delivers = true;
                        break;
                    case FrameType.Barrier:
                        int answered = ReadBarrier(body.AsSpan(0, header.BodyLength));
                        Enter(now => done = _engine.LaneBarrier(lane.Number, answered, now));
                        break;
                    default:
                        throw new StreamFormatException(
                            4, $"Frame type {(byte)header.Type} does not belong on a page lane.");
                }
            }
        });
    }

    private int ReadBarrier(ReadOnlySpan<byte> body)
    {
        int bytes = terms.WireVersion < WireVersions.Inventory ? 0 : sizeof(int);
        return body.Length != bytes
            ? throw new StreamFormatException(
                0, $"A barrier has a body of {body.Length} bytes; {bytes} belong there in version {terms.WireVersion}.")
            : bytes == 0 ? 0 : BinaryPrimitives.ReadInt32LittleEndian(body);
    }

    // Pages may overtake the prologue, which travels on another connection: they wait until their blocks are known and
    // QEMU's own stream has been opened.
    private bool WaitForBlocks()
    {
        lock (_gate)
        {
            while (_stream is null && _engine.Phase != MigrationPhase.Ended)
            {
                Monitor.Wait(_gate, 100);
            }

            return _stream is not null;
        }
    }

    private void ReadReturnPath()
    {
        ThreadTime.ServeGuest();
        var reader = new ReturnPathReader(takenUp: held is not null);
        // Room for more requests than a guest has processors: what is read is whole messages, and a daemon that dies
        // leaves the next one whole messages too.
        byte[] buffer = new byte[64 << 10];
        Guarded("QEMU's return path", () =>
        {
            while (true)
            {
                int count = ReceiveFromQemu(buffer);
                if (count == 0)
                {
                    Enter(_engine.StreamClosed);
                    return;
                }

                reader.Feed(buffer.AsSpan(0, count));
                while (reader.TryTake(out ReturnPathMessage message))
                {
                    Take(message);
                }
            }
        });
    }

    // A QEMU that gives its stream up with something of ours unread resets it.
    private int ReceiveFromQemu(byte[] buffer)
    {
        try
        {
            return _qemu!.Receive(buffer);
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
        {
            return 0;
        }
    }

    private void Guarded(string what, Action loop)
    {
        try
        {
            loop();
        }
        catch (StreamFormatException e)
        {
            Enter(now => _engine.Broken(e, now));
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            Enter(now => _engine.LaneLost($"The {what} of {terms.Guest} broke: {e.Message}", now));
        }
    }

    private void Take(ReturnPathMessage message)
    {
        switch (message.Type)
        {
            case ReturnPathType.Shut:
                Enter(now => _engine.QemuShut(message.Value, now));
                break;
            case ReturnPathType.Pong when message.Value == AdvisedPing:
                OpenStream();
                break;
            case ReturnPathType.Pong:
                Enter(now => _engine.QemuPong(message.Value, now));
                break;
            case ReturnPathType.RequestPagesOf or ReturnPathType.RequestPages:
                TakeRequest(message);
                break;
        }
    }
}
